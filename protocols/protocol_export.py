# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol *export dataset*: a dataset, or a part of it, for programs outside of Scipion."""
import os
from pathlib import Path
from typing import Any

from pwem.objects import SetOfParticles
from pyworkflow.protocol.constants import LEVEL_ADVANCED
from pyworkflow.protocol.params import PathParam, PointerParam

from cryogem_scipion.engine.io.dataset import README, Manifest, read_manifest
from cryogem_scipion.engine.settings import ExportSettings
from cryogem_scipion.protocols.binding import define_fields
from cryogem_scipion.protocols.inputs import dataset_folder, write_micrograph_subset, write_particle_subset
from cryogem_scipion.protocols.protocol_stage import ProtCryogemStage

__all__ = ["ProtCryogemExport"]

PROGRAMS = {"relion": "RELION", "cryosparc": "cryoSPARC", "topaz": "Topaz", "cryodrgn": "cryoDRGN"}
STAR_PROGRAMS = ("relion", "cryosparc")
# The settings that only some programs use, with these programs.
PROGRAMS_OF_FIELD = {
    "files": STAR_PROGRAMS, "extract": STAR_PROGRAMS, "relative_to": (*STAR_PROGRAMS, "topaz"),
    "box_size": (*STAR_PROGRAMS, "cryodrgn"), "random_shift": (*STAR_PROGRAMS, "cryodrgn"), "binning": ("topaz",)}


class ProtCryogemExport(ProtCryogemStage):
    """Write a dataset for RELION, cryoSPARC, Topaz or cryoDRGN outside of Scipion.

    The protocol writes a simulated or generated dataset, or a part of it, in the
    format of the chosen program, with true poses, CTFs and coordinates. The summary
    lists the next steps in that program.

    Inside Scipion you do not need it: use the outputs of *generate dataset*.

    *Inputs*
    - _Micrographs or particles_: output of *generate dataset* or
      *simulate micrographs*, or a subset of it

    *Outputs*
    - no sets, but a folder with images, tables and a README. _Analyze Results_
      shows the images as they were written.

    Method: [[https://arxiv.org/abs/2312.02235][CryoGEM (Zhang et al., 2024)]]
    """

    _label = "export dataset"
    _stage = "export"
    _settings = ExportSettings
    _folder = "export"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        conditions = {field: f"to in {[list(PROGRAMS).index(name) for name in programs]}"
                      for field, programs in PROGRAMS_OF_FIELD.items()}
        define_fields(form, ExportSettings, before_section={"Export": self._addInput},
                      after_field={"to": self._addFolder}, conditions=conditions)
        self._addParallel(form)

    def _addInput(self, form: Any) -> None:
        form.addParam("inputSet", PointerParam, pointerClass="SetOfMicrographs,SetOfParticles", important=True,
                      label="Micrographs or particles",
                      help="Output of generate dataset or simulate micrographs, or a subset of it. Micrographs are "
                      "exported with all their particles, and particles with their micrographs. The export has "
                      "the true labels.")

    def _addFolder(self, form: Any) -> None:
        form.addParam("exportFolder", PathParam, default="", expertLevel=LEVEL_ADVANCED, label="Folder",
                      help="A new folder for the export, for example a folder inside a RELION project. The path is "
                      "absolute, or relative to this Scipion project. Empty: a folder inside the folder of this "
                      "run.")

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
        return values | self._hiddenValues()

    def _hiddenValues(self) -> dict[str, Any]:
        """The defaults of the settings that the chosen program does not use."""
        program = list(PROGRAMS)[self.to.get()]
        fields = [field for field, programs in PROGRAMS_OF_FIELD.items() if program not in programs]
        return {field: ExportSettings.model_fields[field].default for field in fields}

    def writeInputFiles(self) -> None:
        items = self.inputSet.get()
        write = write_particle_subset if isinstance(items, SetOfParticles) else write_micrograph_subset
        write(items, self._dataset(), self._subset())

    def _dataset(self) -> Path:
        items = self.inputSet.get()
        item = "particle" if isinstance(items, SetOfParticles) else "micrograph"
        return dataset_folder(items, f"generated or simulated {item}", "dataset", "generate dataset")

    def _subset(self) -> Path:
        return Path(os.path.abspath(self._getExtraPath("chosen.star")))

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        """Define no output: the export is for another program."""

    # --------------------------- Information
    def resultSentences(self, manifest: Manifest) -> list[str]:
        program = PROGRAMS[manifest.settings.get("to", "relion")]
        return [f"{manifest.micrographs} micrographs with {manifest.particles} particles were exported to {program} "
                f"at {manifest.pixel_size:.3g} Å/px, with their true labels."]

    def _summary(self) -> list[str]:
        lines = super()._summary()
        readme = self.outFolder() / README
        if self.manifest() and readme.is_file():
            lines += ["", f"Next, in {os.path.abspath(self.outFolder())} ({README}):",
                      *readme.read_text("utf-8").splitlines()]
        return lines
