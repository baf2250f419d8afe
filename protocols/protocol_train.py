# SPDX-License-Identifier: GPL-3.0-or-later
"""Box 2: the noise translator, trained on real micrographs without labels."""
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
from cryogem_scipion.protocols.checks import acquisitions_differ, pixel_sizes_differ, too_coarse, unreadable
from cryogem_scipion.protocols.inputs import real_files, simulation_folder, write_subset
from cryogem_scipion.protocols.outputs import model_output, real_micrographs_output
from cryogem_scipion.protocols.stage import ProtCryogemStage

__all__ = ["ProtCryogemTrain", "TrainOutputs"]

# Fewer real micrographs than this show the translator too little of the noise.
FEW = 5
# Those that the summary tells.
LOSSES = ("adversarial", "contrastive", "discriminator")


class TrainOutputs(Enum):
    """The model, and the real micrographs at its pixel size for a picker trained on the generated ones."""

    outputModel = CryogemModel
    outputMicrographs = SetOfMicrographs


class ProtCryogemTrain(ProtCryogemStage):
    """Learn the noise of real micrographs, without any labels: the simulated micrographs of the first box are
    translated until a second network cannot tell them from the real ones. The result is a noise model for
    generate dataset."""

    _label = "train noise translator"
    _possibleOutputs = TrainOutputs
    _stage = "train"
    _settings = TrainSettings
    _folder = "training"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, TrainSettings, first={"Data": self._data}, after={}, conditions={})
        self._addParallel(form)

    def _data(self, form: Any) -> None:
        form.addParam("inputMicrographs", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Real micrographs",
                      help="Motion-corrected micrographs of the sample, at a pixel size not coarser than the "
                      "simulation's. 10 to 500 are enough; more adds variety and reading time.")
        form.addParam("inputSimulation", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Simulated micrographs",
                      help="Output of simulate micrographs, or a subset of it; 10 to 100 are enough.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputMicrographs.get() is not None and self.inputSimulation.get() is not None

    def inputValues(self) -> dict[str, Any]:
        simulated = self.inputSimulation.get()
        folder = simulation_folder(simulated)
        values: dict[str, Any] = {
            "real": real_files(self.inputMicrographs.get()),
            "real_pixel_size": self.inputMicrographs.get().getSamplingRate(), "simulation": str(folder)}
        if simulated.getSize() < read_manifest(folder).micrographs:
            values["simulation_micrographs"] = str(self._subset())
        return values

    def writeInputs(self) -> None:
        simulated = self.inputSimulation.get()
        write_subset(simulated, simulation_folder(simulated), self._subset())

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
    def crossChecks(self) -> list[str]:
        real, simulated = self.inputMicrographs.get(), self.inputSimulation.get()
        first = real.getFirstItem()
        if first is None:
            return ["*Real micrographs*: the set is empty; choose another."]
        broken = [*unreadable("Real micrographs", first.getFileName()),
                  *unreadable("Simulated micrographs", simulated.getFirstItem().getFileName())]
        if broken:
            return broken
        working, found = simulated.getSamplingRate(), real.getSamplingRate()
        errors = []
        asked = self.pixelSize.get()
        if asked and abs(asked / working - 1) > 1e-3:
            errors.append(f"*Working pixel size*: {asked:g} Å is not that of the simulation ({working:g} Å); leave it "
                          "empty, or simulate at that pixel size.")
        errors += too_coarse("Real micrographs", found, working)
        for label, micrographs, scale in (("Real", real, found / working), ("Simulated", simulated, 1.0)):
            dimensions = micrographs.getDim()
            if dimensions and min(dimensions[:2]) * scale < self.crop.get():
                errors.append(f"*{label} micrographs*: they are {min(dimensions[:2]) * scale:.0f} px at the working "
                              f"pixel size, smaller than the crop ({self.crop.get()} px); lower the crop.")
        return errors

    def doubts(self) -> list[str]:
        real = self.inputMicrographs.get()
        doubts = [] if real.getSize() >= FEW else [
            f"Real micrographs: only {real.getSize()}. The translator sees little of the noise's variety; 10 or more "
            "are better."]
        doubts += pixel_sizes_differ("Real micrographs", real.getFirstItem().getFileName(), 2, real.getSamplingRate())
        return doubts + acquisitions_differ(real, self.inputSimulation.get())

    def sentences(self, manifest: Manifest) -> list[str]:
        settings = manifest.settings
        words = [f"A noise translator was trained for {settings.get('steps')} steps on pieces of "
                 f"{settings.get('crop')} px at {manifest.pixel_size:.3g} Å/px, from "
                 f"{len(settings.get('real', ()))} real micrographs."]
        if manifest.contrast:
            words.append(f"Noise of the background: {manifest.contrast.background_deviation:.3g} of its mean; "
                         f"signal-to-noise ratio {manifest.contrast.snr:.3g}.")
        losses = [f"{name} {manifest.figures[name]:.3g}" for name in LOSSES if name in manifest.figures]
        if losses:
            words.append(f"Losses of the last step: {', '.join(losses)}.")
        return words
