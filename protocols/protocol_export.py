# SPDX-License-Identifier: GPL-3.0-or-later
"""The last box: a data set, or a part of it, as another program reads it outside of Scipion."""
import os
from pathlib import Path
from typing import Any

from pwem.objects import SetOfParticles
from pyworkflow.protocol.constants import LEVEL_ADVANCED
from pyworkflow.protocol.params import PathParam, PointerParam

from cryogem_scipion.engine.io.dataset import README, Manifest, read_manifest
from cryogem_scipion.engine.settings import ExportSettings
from cryogem_scipion.protocols.binding import define_fields
from cryogem_scipion.protocols.inputs import stage_folder, write_particle_subset, write_subset
from cryogem_scipion.protocols.stage import ProtCryogemStage

__all__ = ["ProtCryogemExport"]

NAMES = {"relion": "RELION", "cryosparc": "cryoSPARC", "topaz": "Topaz", "cryodrgn": "cryoDRGN"}
STAR = ("relion", "cryosparc")
# Fields that not every program asks for.
ASKED = {"files": STAR, "extract": STAR, "relative_to": (*STAR, "topaz"), "box_size": (*STAR, "cryodrgn"),
         "random_shift": (*STAR, "cryodrgn"), "binning": ("topaz",)}


class ProtCryogemExport(ProtCryogemStage):
    """Write a simulated or generated data set, or a part of it, as RELION, cryoSPARC, Topaz or cryoDRGN reads it
    outside of Scipion, with true poses, CTFs and coordinates. The summary says what to do next in that program."""

    _label = "export dataset"
    _stage = "export"
    _settings = ExportSettings
    _folder = "export"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        conditions = {field: f"to in {[list(NAMES).index(name) for name in programs]}"
                      for field, programs in ASKED.items()}
        define_fields(form, ExportSettings, first={"Export": self._data}, after={"to": self._place},
                      conditions=conditions)
        self._addParallel(form)

    def _data(self, form: Any) -> None:
        form.addParam("inputSet", PointerParam, pointerClass="SetOfMicrographs,SetOfParticles", important=True,
                      label="Micrographs or particles",
                      help="Output of generate dataset or simulate micrographs, or a subset of it: of micrographs, "
                      "with all that lies in them; of particles, with the micrographs they lie in. The labels written "
                      "are the true ones.")

    def _place(self, form: Any) -> None:
        form.addParam("exportFolder", PathParam, default="", expertLevel=LEVEL_ADVANCED, label="Folder",
                      help="A new folder to write to, such as one inside a RELION project; relative to this Scipion "
                      "project or absolute. Empty: inside this run's own folder.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputSet.get() is not None

    def outFolder(self) -> Path:
        chosen = (self.exportFolder.get() or "").strip()
        return Path(chosen) if chosen else super().outFolder()

    def inputValues(self) -> dict[str, Any]:
        folder, items = self._dataset(), self.inputSet.get()
        manifest = read_manifest(folder)
        values: dict[str, Any] = {"dataset": str(folder)}
        if isinstance(items, SetOfParticles):
            if items.getSize() < manifest.whole_particles:
                values["dataset_particles"] = str(self._subset())
        elif items.getSize() < manifest.micrographs:
            values["dataset_micrographs"] = str(self._subset())
        return values | self._unshown()

    def _unshown(self) -> dict[str, Any]:
        """What another program than the chosen one would ask for goes back to its default."""
        chosen = list(NAMES)[self.to.get()]
        fields = [field for field, programs in ASKED.items() if chosen not in programs]
        return {field: ExportSettings.model_fields[field].default for field in fields}

    def writeInputs(self) -> None:
        items = self.inputSet.get()
        write = write_particle_subset if isinstance(items, SetOfParticles) else write_subset
        write(items, self._dataset(), self._subset())

    def _dataset(self) -> Path:
        items = self.inputSet.get()
        what = "particle" if isinstance(items, SetOfParticles) else "micrograph"
        return stage_folder(items, f"generated or simulated {what}", "data set", "generate dataset")

    def _subset(self) -> Path:
        return Path(os.path.abspath(self._getExtraPath("chosen.star")))

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        """Nothing: what was made is for another program."""

    # --------------------------- Information
    def sentences(self, manifest: Manifest) -> list[str]:
        program = NAMES[manifest.settings.get("to", "relion")]
        return [f"{manifest.micrographs} micrographs with {manifest.particles} particles were exported to {program} "
                f"at {manifest.pixel_size:.3g} Å/px, with their true labels."]

    def _summary(self) -> list[str]:
        words = super()._summary()
        readme = self.outFolder() / README
        if self.manifest() and readme.is_file():
            words += ["", f"Next, in {os.path.abspath(self.outFolder())} ({README}):",
                      *readme.read_text("utf-8").splitlines()]
        return words
