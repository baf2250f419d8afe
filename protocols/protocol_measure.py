# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol *measure micrographs*: what a simulation needs, from real micrographs and a map, without labels."""
import os
from enum import Enum
from pathlib import Path
from typing import Any

from pwem.objects import SetOfCTF
from pyworkflow.protocol.params import PointerParam

from cryogem_scipion.engine.io.dataset import Manifest, read_manifest
from cryogem_scipion.engine.settings import MeasureSettings
from cryogem_scipion.objects import CryogemMeasurement
from cryogem_scipion.protocols.binding import define_fields
from cryogem_scipion.protocols.checks import missing_file_errors, pixel_size_warnings, unreadable_file_errors
from cryogem_scipion.protocols.inputs import acquisition_values, ctf_files, map_files, micrograph_files, write_ctfs
from cryogem_scipion.protocols.measurement_outputs import fitted_ctfs_output, measured_sentences, measurement_output
from cryogem_scipion.protocols.protocol_stage import ProtCryogemStage

__all__ = ["MeasureOutputs", "ProtCryogemMeasure"]

# From this number of micrographs on, the measurement tells how they differ.
ENOUGH_MICROGRAPHS = 3


class MeasureOutputs(Enum):
    """The measurement, and the CTFs that were fitted reliably."""

    outputMeasurement = CryogemMeasurement
    outputCTF = SetOfCTF


class ProtCryogemMeasure(ProtCryogemStage):
    """Measure on real micrographs what a simulation needs, without labels.

    The protocol finds the defocus of the micrographs, the number and the distance
    of their particles, and the signal-to-noise ratio. It searches for projections
    of the map, in the real micrographs and in generated micrographs of known
    truth. _Analyze Results_ shows the figure, so that you can check the result.

    Run this protocol first. *Simulate micrographs* takes the measured values from
    its output, so that you do not have to guess any number.

    *Inputs*
    - _Real micrographs_: motion-corrected micrographs at their own pixel size.
      Their voltage, spherical aberration and amplitude contrast have to be right.
    - _Map_: density map of the particle
    - _Known CTFs_ (optional): CTFs of these micrographs. They are used, and none
      is fitted.

    *Outputs*
    - outputMeasurement: the measured values, for *simulate micrographs*. It has
      only values that are reliable. The summary names the others.
    - outputCTF: CTFs of the micrographs whose fit is reliable, unless CTFs are
      given

    Method: [[https://arxiv.org/abs/2312.02235][CryoGEM (Zhang et al., 2024)]]
    """

    _label = "measure micrographs"
    _possibleOutputs = MeasureOutputs
    _stage = "measure"
    _settings = MeasureSettings
    _folder = "measurement"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, MeasureSettings, before_section={"Data": self._addInputs}, after_field={}, conditions={})
        self._addParallel(form)

    def _addInputs(self, form: Any) -> None:
        form.addParam("inputMicrographs", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Real micrographs", help="Motion-corrected micrographs of the specimen at their own pixel "
                      "size, because Thon rings need the fine pixels. 3 or more are needed to measure all values.")
        form.addParam("inputVolume", PointerParam, pointerClass="Volume", important=True, label="Map",
                      help="Density map of the particle (protein bright, any box size and pixel size). A resolution of "
                      "10 to 20 Å is enough. Its pixel size has to be right.")
        form.addParam("inputCtfs", PointerParam, pointerClass="SetOfCTF", allowsNull=True, label="Known CTFs",
                      help="CTFs of these micrographs, estimated by another program. They are used, and no CTF is "
                      "fitted. Micrographs without a CTF are not measured. Empty: the CTFs are fitted.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputMicrographs.get() is not None and self.inputVolume.get() is not None

    def inputValues(self) -> dict[str, Any]:
        real, volume = self.inputMicrographs.get(), self.inputVolume.get()
        values: dict[str, Any] = {
            "real": micrograph_files(real), "real_pixel_size": real.getSamplingRate(), "volume": map_files(volume)[0],
            "volume_pixel_size": volume.getSamplingRate(), **acquisition_values(real)}
        if self.pixelSize.get() is None and real.getSamplingRate() > volume.getSamplingRate():
            values["pixel_size"] = real.getSamplingRate()
        if self.inputCtfs.get() is not None:
            values |= {"real": sorted(set(self._filesWithCtf().values())), "ctfs": str(self._ctfFile())}
        return values

    def writeInputFiles(self) -> None:
        if self.inputCtfs.get() is not None:
            write_ctfs(self.inputCtfs.get(), self._ctfFile(), self._filesWithCtf())

    def _filesWithCtf(self) -> dict[int, str]:
        return ctf_files(self.inputCtfs.get(), self.inputMicrographs.get())

    def _ctfFile(self) -> Path:
        return Path(os.path.abspath(self._getExtraPath("known_ctfs.star")))

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        folder = self.outFolder()
        measurement = measurement_output(folder, read_manifest(folder), self.inputMicrographs.get().getSamplingRate())
        self._defineOutputs(**{MeasureOutputs.outputMeasurement.name: measurement})
        for pointer in (self.inputMicrographs, self.inputVolume):
            self._defineSourceRelation(pointer, measurement)
        ctfs = fitted_ctfs_output(self, folder, self.inputMicrographs)
        if ctfs is not None:
            self._defineOutputs(**{MeasureOutputs.outputCTF.name: ctfs})
            self._defineCtfRelation(self.inputMicrographs, ctfs)

    # --------------------------- Information
    def _validate(self) -> list[str]:
        if self.inputsReady() and not self.inputMicrographs.get().getSize():
            return ["*Real micrographs*: the set is empty; choose another."]
        if self.inputsReady() and self.inputCtfs.get() is not None and not self._filesWithCtf():
            return ["*Known CTFs*: none of them is an estimated CTF of these micrographs; choose their CTFs, or leave "
                    "the field empty."]
        return super()._validate()

    def inputErrors(self) -> list[str]:
        real, volume = self.inputMicrographs.get(), self.inputVolume.get()
        errors = unreadable_file_errors("Real micrographs", self.inputValues()["real"][0])
        errors += missing_file_errors("Map", map_files(volume))
        acquisition = acquisition_values(real)
        errors += [f"*Real micrographs*: their acquisition has no {MeasureSettings.model_fields[name].title}; import "
                   "them again with the right value." for name in ("voltage_kv", "cs_mm", "amplitude_contrast")
                   if name not in acquisition]
        working, own = self.pixelSize.get(), real.getSamplingRate()
        if working and own > working * 1.001:
            errors.append(f"*{MeasureSettings.model_fields['pixel_size'].title}*: {working:g} Å is finer than the real "
                          f"micrographs ({own:g} Å); give {own:g} or more, or leave the field empty.")
        return errors

    def inputWarnings(self) -> list[str]:
        real, volume = self.inputMicrographs.get(), self.inputVolume.get()
        files = self.inputValues()["real"]
        warnings = [] if len(files) >= ENOUGH_MICROGRAPHS else [
            f"The number of micrographs is only {len(files)}. They do not tell how the number of particles varies, nor "
            f"the signal-to-noise ratio; {ENOUGH_MICROGRAPHS} or more are needed."]
        if self.inputCtfs.get() is not None and len(files) < real.getSize():
            warnings.append(f"{real.getSize() - len(files)} of {real.getSize()} micrographs have no known CTF; they "
                            "are not measured.")
        return [*warnings, *pixel_size_warnings("Real micrographs", files[0], 2, real.getSamplingRate()),
                *pixel_size_warnings("Map", map_files(volume)[0], 3, volume.getSamplingRate())]

    def resultSentences(self, manifest: Manifest) -> list[str]:
        return measured_sentences(self.outFolder(), manifest)
