# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol *generate dataset*: labelled micrographs with the noise of real micrographs."""
import os
from pathlib import Path
from typing import Any

from pyworkflow.protocol.params import PointerParam

from cryogem_scipion.engine.io.dataset import Manifest, read_manifest
from cryogem_scipion.engine.settings import GenerateSettings
from cryogem_scipion.protocols.binding import define_fields, form_values
from cryogem_scipion.protocols.checks import (
    acquisition_warnings,
    coarse_pixel_errors,
    crowding_warnings,
    missing_file_errors,
    pixel_size_warnings,
    unreadable_file_errors,
)
from cryogem_scipion.protocols.inputs import micrograph_files, simulation_folder, write_micrograph_subset
from cryogem_scipion.protocols.labelled_dataset import LabelledOutputs, define_labelled_outputs, labelled_summary
from cryogem_scipion.protocols.protocol_stage import ProtCryogemStage

__all__ = ["ProtCryogemGenerate"]

# Index of the noise model among the choices of the noise.
MODEL = 0
# A warning comes below this number of real micrographs: the noise measured from them is uncertain.
FEW_MICROGRAPHS = 3


class ProtCryogemGenerate(ProtCryogemStage):
    """Generate labelled micrographs that look like your own.

    The protocol simulates new specimens with the settings of a simulation. It adds
    noise with the trained noise model. Without training, it can add noise with the
    spectrum of real micrographs, or white noise. Position, pose, defocus and mask
    of every particle are known.

    Use the dataset to train pickers and pose estimators, or to test a processing
    workflow. *Evaluate dataset* compares it with real micrographs.
    *Export dataset* writes it for programs outside of Scipion.

    *Inputs*
    - _Simulated micrographs_: output of *simulate micrographs*
    - _Noise model_: output of *train noise translator* or *import noise model*
    - _Real micrographs_: needed for noise with the spectrum of real micrographs;
      optional otherwise

    *Outputs*
    - outputMicrographs, and outputCTF with the defocus of each micrograph
    - outputCoordinates: the whole particles. Particles that the border cuts are
      only in the file particles.star.
    - outputParticles: extracted particles with poses and CTFs

    Method: [[https://arxiv.org/abs/2312.02235][CryoGEM (Zhang et al., 2024)]]
    """

    _label = "generate dataset"
    _possibleOutputs = LabelledOutputs
    _stage = "generate"
    _settings = GenerateSettings
    _folder = "dataset"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, GenerateSettings, before_section={"Noise": self._addSimulationInput},
                      after_field={"noise": self._addNoiseInputs}, conditions={})
        self._addParallel(form)

    def _addSimulationInput(self, form: Any) -> None:
        form.addParam("inputSimulation", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Simulated micrographs",
                      help="Output of simulate micrographs. New specimens are simulated with its settings. Choose a "
                      "subset only to reuse the simulated specimens.")

    def _addNoiseInputs(self, form: Any) -> None:
        form.addParam("inputModel", PointerParam, pointerClass="CryogemModel", condition=f"noise=={MODEL}",
                      label="Noise model", help="Output of train noise translator, or of import noise model.")
        form.addParam("inputMicrographs", PointerParam, pointerClass="SetOfMicrographs", allowsNull=True,
                      label="Real micrographs",
                      help="Noise spectrum, ice and contrast are measured from these micrographs. The noise 'spectrum' "
                      "needs them. An imported noise model needs them for ice; a trained one has its own ice. 3 or "
                      "more are enough.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputSimulation.get() is not None and (
            self.noise.get() != MODEL or self.inputModel.get() is not None)

    def inputValues(self) -> dict[str, Any]:
        simulated = self.inputSimulation.get()
        folder = simulation_folder(simulated)
        values: dict[str, Any] = {"simulation": str(folder)}
        if self.reuse.get() and simulated.getSize() < read_manifest(folder).micrographs:
            values["simulation_micrographs"] = str(self._subset())
        if self.noise.get() == MODEL:
            values["model"] = os.path.abspath(self.inputModel.get().getFileName())
        if self.inputMicrographs.get() is not None:
            values |= {"real": micrograph_files(self.inputMicrographs.get()),
                       "real_pixel_size": self.inputMicrographs.get().getSamplingRate()}
        return values

    def writeInputFiles(self) -> None:
        if self.reuse.get():
            simulated = self.inputSimulation.get()
            write_micrograph_subset(simulated, simulation_folder(simulated), self._subset())

    def _subset(self) -> Path:
        return Path(os.path.abspath(self._getExtraPath("simulation_micrographs.star")))

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        define_labelled_outputs(self, self.outFolder(), [self.inputSimulation, self.inputModel, self.inputMicrographs])

    # --------------------------- Information
    def inputErrors(self) -> list[str]:
        simulated = self.inputSimulation.get()
        working = simulated.getSamplingRate()
        folder = simulation_folder(simulated)
        manifest = read_manifest(folder)
        sources = (str(folder / source.path) for source in manifest.sources)
        errors = missing_file_errors("Simulated micrographs", sources)
        errors += self._sizeErrors(manifest)
        if self.noise.get() == MODEL:
            errors += missing_file_errors("Noise model", [self.inputModel.get().getFileName()])
            trained = self.inputModel.get().getSamplingRate()
            if trained and abs(trained / working - 1) > 1e-3:
                errors.append(f"*Noise model*: the model was trained at {trained:g} Å/px, but the simulation has "
                              f"{working:g} Å/px; choose a simulation at the model's pixel size.")
        if self.inputMicrographs.get() is not None:
            first = self.inputMicrographs.get().getFirstItem()
            if first is None:
                return [*errors, "*Real micrographs*: the set is empty; choose another."]
            errors += unreadable_file_errors("Real micrographs", first.getFileName())
            errors += coarse_pixel_errors("Real micrographs", self.inputMicrographs.get().getSamplingRate(), working)
        return errors

    def inputWarnings(self) -> list[str]:
        manifest = read_manifest(simulation_folder(self.inputSimulation.get()))
        simulation = manifest.simulation or {}
        size = self._micrographSize()
        warnings = []
        if size and simulation.get("particle_distance"):
            warnings += crowding_warnings(simulation["particles_mean"], size, manifest.pixel_size,
                                          simulation["particle_distance"])
        count, simulated = self.micrographs.get(), self.inputSimulation.get().getSize()
        if self.reuse.get() and count and count > simulated:
            warnings.append(f"{count} micrographs are asked for, but there are only {simulated} simulated micrographs "
                            f"to reuse; so only {simulated} are generated.")
        real = self.inputMicrographs.get()
        if real is not None:
            if real.getSize() < FEW_MICROGRAPHS:
                warnings.append(f"Only {real.getSize()} real micrographs: the noise measured from them is uncertain; "
                                f"{FEW_MICROGRAPHS} or more are better.")
            warnings += pixel_size_warnings("Real micrographs", real.getFirstItem().getFileName(), 2,
                                            real.getSamplingRate())
            warnings += acquisition_warnings(real, self.inputSimulation.get())
        return warnings

    def _micrographSize(self) -> tuple[int, int] | None:
        """The micrograph size (y, x; px) in the form, ``None`` where its field is empty."""
        size = form_values(self, GenerateSettings).get("micrograph_size")
        return (int(size[0]), int(size[1])) if size else None

    def _sizeErrors(self, manifest: Manifest) -> list[str]:
        """An error when the simulation's box size is larger than the micrographs."""
        box, size = manifest.box_size, self._micrographSize()
        if not (size and box) or box <= min(size):
            return []
        return [f"*Micrograph size*: the box of the simulation is {box} px, larger than micrographs of {size[0]} x "
                f"{size[1]} px; give a larger size, or leave it empty."]

    def resultSentences(self, manifest: Manifest) -> list[str]:
        size = manifest.settings.get("micrograph_size") or (manifest.simulation or {}).get("micrograph_size")
        noise = {"model": "the trained noise translator", "spectrum": "noise with the spectrum of real micrographs",
                 "gaussian": "white noise"}[manifest.settings.get("noise", "model")]
        return [*labelled_summary(manifest, size, "generated"), f"Noise: {noise}."]
