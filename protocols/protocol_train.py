# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol *train noise translator*: learn the noise of real micrographs without labels."""
import os
from enum import Enum
from pathlib import Path
from typing import Any

from pwem.objects import SetOfMicrographs
from pyworkflow.protocol.params import PointerParam

from cryogem_scipion.engine.io.dataset import Manifest, read_manifest
from cryogem_scipion.engine.settings import TrainSettings
from cryogem_scipion.objects import CryogemModel
from cryogem_scipion.protocols.binding import define_fields
from cryogem_scipion.protocols.checks import (
    acquisition_warnings,
    coarse_pixel_errors,
    pixel_size_warnings,
    unreadable_file_errors,
)
from cryogem_scipion.protocols.inputs import micrograph_files, simulation_folder, write_micrograph_subset
from cryogem_scipion.protocols.outputs import model_output, real_micrographs_output
from cryogem_scipion.protocols.protocol_stage import ProtCryogemStage

__all__ = ["ProtCryogemTrain", "TrainOutputs"]

# A warning comes below this number of real micrographs: they show too little of the noise's variety.
FEW_MICROGRAPHS = 5
# Losses that the summary reports.
LOSSES = ("adversarial", "contrastive", "discriminator")


class TrainOutputs(Enum):
    """The noise model, and the real micrographs at the working pixel size, for pickers."""

    outputModel = CryogemModel
    outputMicrographs = SetOfMicrographs


class ProtCryogemTrain(ProtCryogemStage):
    """Learn the noise of your own micrographs, without any labels.

    A network, the noise translator, changes simulated micrographs until a second
    network cannot tell them from real micrographs. _Analyze Results_ shows losses
    and previews while the training runs. _Continue_ goes on with a stopped
    training.

    Run this protocol after *simulate micrographs* and before *generate dataset*.

    *Inputs*
    - _Real micrographs_: motion-corrected micrographs of the specimen, without
      labels. Their pixel size must not be coarser than the simulation's.
    - _Simulated micrographs_: output of *simulate micrographs*, or a subset of it

    *Outputs*
    - outputModel: the noise model, for *generate dataset*
    - outputMicrographs: the real micrographs at the working pixel size. A picker
      that was trained on the generated dataset picks these. *Return coordinates*
      then moves the picks to the original micrographs.

    Method: [[https://arxiv.org/abs/2312.02235][CryoGEM (Zhang et al., 2024)]]
    """

    _label = "train noise translator"
    _possibleOutputs = TrainOutputs
    _stage = "train"
    _settings = TrainSettings
    _folder = "training"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, TrainSettings, before_section={"Data": self._addInputs}, after_field={}, conditions={})
        self._addParallel(form)

    def _addInputs(self, form: Any) -> None:
        form.addParam("inputMicrographs", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Real micrographs",
                      help="Motion-corrected micrographs of the specimen. Their pixel size must not be coarser than "
                      "the simulation's. 10 to 500 are enough. More micrographs add variety and reading time.")
        form.addParam("inputSimulation", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Simulated micrographs",
                      help="Output of simulate micrographs, or a subset of it. 10 to 100 are enough.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputMicrographs.get() is not None and self.inputSimulation.get() is not None

    def inputValues(self) -> dict[str, Any]:
        simulated = self.inputSimulation.get()
        folder = simulation_folder(simulated)
        values: dict[str, Any] = {
            "real": micrograph_files(self.inputMicrographs.get()),
            "real_pixel_size": self.inputMicrographs.get().getSamplingRate(), "simulation": str(folder)}
        if simulated.getSize() < read_manifest(folder).micrographs:
            values["simulation_micrographs"] = str(self._subset())
        return values

    def writeInputFiles(self) -> None:
        simulated = self.inputSimulation.get()
        write_micrograph_subset(simulated, simulation_folder(simulated), self._subset())

    def _subset(self) -> Path:
        return Path(os.path.abspath(self._getExtraPath("simulation_micrographs.star")))

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        folder = self.outFolder()
        manifest = read_manifest(folder)
        model = model_output(folder, manifest)
        micrographs = real_micrographs_output(self, folder, manifest, self.inputMicrographs.get())
        self._defineOutputs(**{TrainOutputs.outputModel.name: model, TrainOutputs.outputMicrographs.name: micrographs})
        self._defineTransformRelation(self.inputMicrographs, micrographs)
        for pointer in (self.inputMicrographs, self.inputSimulation):
            self._defineSourceRelation(pointer, model)

    # --------------------------- Information
    def inputErrors(self) -> list[str]:
        real, simulated = self.inputMicrographs.get(), self.inputSimulation.get()
        first = real.getFirstItem()
        if first is None:
            return ["*Real micrographs*: the set is empty; choose another."]
        unreadable = [*unreadable_file_errors("Real micrographs", first.getFileName()),
                      *unreadable_file_errors("Simulated micrographs", simulated.getFirstItem().getFileName())]
        if unreadable:
            return unreadable
        working, real_pixel_size = simulated.getSamplingRate(), real.getSamplingRate()
        errors = []
        pixel_size = self.pixelSize.get()
        if pixel_size and abs(pixel_size / working - 1) > 1e-3:
            errors.append(f"*Working pixel size*: {pixel_size:g} Å is not the pixel size of the simulation "
                          f"({working:g} Å); leave the field empty, or simulate at {pixel_size:g} Å.")
        errors += coarse_pixel_errors("Real micrographs", real_pixel_size, working)
        for label, micrographs, scale in (("Real", real, real_pixel_size / working), ("Simulated", simulated, 1.0)):
            dimensions = micrographs.getDim()
            if dimensions and min(dimensions[:2]) * scale < self.crop.get():
                errors.append(f"*{label} micrographs*: their shorter side is {min(dimensions[:2]) * scale:.0f} px at "
                              f"the working pixel size, less than the crop ({self.crop.get()} px); lower the crop.")
        return errors

    def inputWarnings(self) -> list[str]:
        real = self.inputMicrographs.get()
        warnings = [] if real.getSize() >= FEW_MICROGRAPHS else [
            f"The number of real micrographs is only {real.getSize()}. They show little of the variety of the noise; "
            "10 or more are better."]
        warnings += pixel_size_warnings("Real micrographs", real.getFirstItem().getFileName(), 2,
                                        real.getSamplingRate())
        return warnings + acquisition_warnings(real, self.inputSimulation.get())

    def resultSentences(self, manifest: Manifest) -> list[str]:
        settings = manifest.settings
        sentences = [f"A noise translator was trained for {settings.get('steps')} steps on crops of "
                     f"{settings.get('crop')} px at {manifest.pixel_size:.3g} Å/px, from "
                     f"{len(settings.get('real', ()))} real micrographs."]
        if "stopped_early_at" in manifest.figures:
            sentences.append(f"It stopped early at step {manifest.figures['stopped_early_at']:.0f}, because the "
                             "validation no longer improved.")
        if manifest.contrast:
            contrast = manifest.contrast
            sentences.append(f"The standard deviation of the background is {contrast.background_deviation:.3g} of its "
                             f"mean; the signal-to-noise ratio is {contrast.snr:.3g}.")
        losses = [f"{name} {manifest.figures[name]:.3g}" for name in LOSSES if name in manifest.figures]
        if losses:
            sentences.append(f"Losses of the last step: {', '.join(losses)}.")
        return sentences
