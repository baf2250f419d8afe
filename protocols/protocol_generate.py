# SPDX-License-Identifier: GPL-3.0-or-later
"""Box 3: a labelled data set that looks real, of fresh specimens."""
import os
from pathlib import Path
from typing import Any

from pyworkflow.protocol.params import PointerParam

from cryogem_scipion.engine.io.dataset import Manifest, read_manifest
from cryogem_scipion.engine.settings import GenerateSettings
from cryogem_scipion.protocols.binding import define_fields, form_values
from cryogem_scipion.protocols.checks import (
    acquisitions_differ,
    crowding,
    missing,
    pixel_sizes_differ,
    too_coarse,
    unreadable,
)
from cryogem_scipion.protocols.inputs import real_files, simulation_folder, write_subset
from cryogem_scipion.protocols.labelled import LabelledOutputs, define_labelled_outputs, labelled_sentences
from cryogem_scipion.protocols.stage import ProtCryogemStage

__all__ = ["ProtCryogemGenerate"]

# The trained model is the first choice of the noise.
MODEL = 0
# Fewer real micrographs than this leave their noise uncertain.
FEW = 3


class ProtCryogemGenerate(ProtCryogemStage):
    """Generate micrographs that look like the real ones, with exact labels: fresh specimens with the settings of
    the simulation, seen through the trained noise model (or through measured or white noise, without training).
    The outputs are training data for pickers, refinement and pose estimators."""

    _label = "generate dataset"
    _possibleOutputs = LabelledOutputs
    _stage = "generate"
    _settings = GenerateSettings
    _folder = "dataset"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, GenerateSettings, first={"Noise": self._specimens}, after={"noise": self._noise},
                      conditions={})
        self._addParallel(form)

    def _specimens(self, form: Any) -> None:
        form.addParam("inputSimulation", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Simulated micrographs",
                      help="Output of simulate micrographs: its settings are used for fresh specimens; a subset "
                      "matters only when the simulated specimens are reused.")

    def _noise(self, form: Any) -> None:
        form.addParam("inputModel", PointerParam, pointerClass="CryogemModel", condition=f"noise=={MODEL}",
                      label="Noise model", help="Output of train noise translator, or of import noise model.")
        form.addParam("inputMicrographs", PointerParam, pointerClass="SetOfMicrographs", allowsNull=True,
                      label="Real micrographs",
                      help="Noise spectrum, ice and contrast are measured from them; needed for spectrum noise. An "
                      "imported noise model takes its ice from them, a trained one has its own. 3 or more are enough.")

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
            values |= {"real": real_files(self.inputMicrographs.get()),
                       "real_pixel_size": self.inputMicrographs.get().getSamplingRate()}
        return values

    def writeInputs(self) -> None:
        if self.reuse.get():
            simulated = self.inputSimulation.get()
            write_subset(simulated, simulation_folder(simulated), self._subset())

    def _subset(self) -> Path:
        return Path(os.path.abspath(self._getExtraPath("simulation_micrographs.star")))

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        define_labelled_outputs(self, self.outFolder(), [self.inputSimulation, self.inputModel, self.inputMicrographs])

    # --------------------------- Information
    def crossChecks(self) -> list[str]:
        simulated = self.inputSimulation.get()
        working = simulated.getSamplingRate()
        folder = simulation_folder(simulated)
        manifest = read_manifest(folder)
        errors = missing("Simulated micrographs", (str(folder / source.path) for source in manifest.sources))
        errors += self._sizeErrors(manifest)
        if self.noise.get() == MODEL:
            errors += missing("Noise model", [self.inputModel.get().getFileName()])
            trained = self.inputModel.get().getSamplingRate()
            if trained and abs(trained / working - 1) > 1e-3:
                errors.append(f"*Noise model*: it was trained at {trained:g} Å/px, and the simulation has {working:g} "
                              "Å/px; choose a simulation at the model's pixel size.")
        if self.inputMicrographs.get() is not None:
            first = self.inputMicrographs.get().getFirstItem()
            if first is None:
                return [*errors, "*Real micrographs*: the set is empty; choose another."]
            errors += unreadable("Real micrographs", first.getFileName())
            errors += too_coarse("Real micrographs", self.inputMicrographs.get().getSamplingRate(), working)
        return errors

    def doubts(self) -> list[str]:
        manifest = read_manifest(simulation_folder(self.inputSimulation.get()))
        simulation = manifest.simulation or {}
        size = self._askedSize()
        doubts = []
        if size and simulation.get("particle_distance"):
            doubts += crowding(simulation["particles_mean"], size, manifest.pixel_size, simulation["particle_distance"])
        wanted = self.micrographs.get()
        if self.reuse.get() and wanted and wanted > self.inputSimulation.get().getSize():
            doubts.append(f"{wanted} micrographs are asked for, and only {self.inputSimulation.get().getSize()} "
                          "simulated ones are there to be reused.")
        real = self.inputMicrographs.get()
        if real is not None:
            if real.getSize() < FEW:
                doubts.append(f"Only {real.getSize()} real micrographs: their noise is measured with little to average "
                              f"over; {FEW} or more are better.")
            doubts += pixel_sizes_differ("Real micrographs", real.getFirstItem().getFileName(), 2,
                                         real.getSamplingRate())
            doubts += acquisitions_differ(real, self.inputSimulation.get())
        return doubts

    def _askedSize(self) -> tuple[int, int] | None:
        """The size (y, x) that the form asks for."""
        size = form_values(self, GenerateSettings).get("micrograph_size")
        return (int(size[0]), int(size[1])) if size else None

    def _sizeErrors(self, manifest: Manifest) -> list[str]:
        """The box of the simulation has to fit on the micrographs."""
        box, size = manifest.box_size, self._askedSize()
        if not (size and box) or box <= min(size):
            return []
        return [f"*Micrograph size*: the box of the simulation is {box} px, larger than micrographs of {size[0]} x "
                f"{size[1]} px; give a larger size, or leave it empty."]

    def sentences(self, manifest: Manifest) -> list[str]:
        size = manifest.settings.get("micrograph_size") or (manifest.simulation or {}).get("micrograph_size")
        noise = {"model": "the trained noise translator", "spectrum": "noise with the spectrum of real micrographs",
                 "gaussian": "white noise"}[manifest.settings.get("noise", "model")]
        return [*labelled_sentences(manifest, size, "generated"), f"Noise: {noise}."]
