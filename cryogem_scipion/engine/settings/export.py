# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the hand-over of a data set to another program."""
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["ExportSettings"]


class ExportSettings(RunSettings):
    """Write a data set as RELION, cryoSPARC, Topaz or cryoDRGN reads it; README.txt there says what to do next."""

    dataset: Path = option(..., "Data set", "A folder that 'cryogem simulate' or 'cryogem generate' made.", form=False)
    dataset_micrographs: Path | None = option(
        None, "Micrographs to export", "A STAR file with a part of the rows of the data set's micrographs.star.",
        form=False)
    dataset_particles: Path | None = option(
        None, "Particles to export", "A STAR file with a part of the rows of the data set's extracted.star.",
        form=False)
    to: Literal["relion", "cryosparc", "topaz", "cryodrgn"] = option(
        "relion", "Program", "relion: STAR files with poses, CTFs and stacks; cryosparc: the same for its imports, and "
        ".cs files; topaz: normalised images and coordinates to train with; cryodrgn: one stack, CTFs and poses.",
        section="Export")
    files: Literal["link", "copy"] = option(
        "link", "Images", "link: the export points to the data set's images and takes no space; copy: the export can "
        "be moved to another machine. What has to be computed is always written.", section="Export")
    relative_to: Path | None = option(
        None, "Paths relative to", "The folder in which the other program runs, such as that of a RELION project; it "
        "has to hold the export. Empty: absolute paths (cryoSPARC: relative to the export).", section="Export",
        advanced=True)
    extract: bool = option(
        True, "Particle stacks", "Give the particles' boxes, bright, with their poses: those of the data set, or cut "
        "anew where it has none. Off: micrographs and coordinates only.", section="Export")
    box_size: int | None = option(
        None, "Box size (px)", "Empty takes that of the data set; another one cuts the boxes anew. Larger keeps more "
        "of what defocus spreads out, and takes more space; 1.3 to 2 diameters.", section="Export", ge=8, le=8192)
    random_shift: int = option(
        0, "Random shifts of the boxes (px)", "Boxes are cut off-centre by up to this in x and in y, as augmentation "
        "for pose estimators; the origins record it. Larger is harder for them; 0: centred, 2 to 10 is usual.",
        section="Export", ge=0, le=1000)
    binning: int = option(
        1, "Binning", "For Topaz: images are downsampled by this factor, and coordinates with them. Higher makes "
        "smaller particles; 10 to 50 pixels are good for these. Pick real micrographs at the same pixel size.",
        section="Export", ge=1, le=64)

    @model_validator(mode="after")
    def _consistent(self) -> "ExportSettings":
        if self.binning > 1 and self.to != "topaz":
            raise ValueError(f"binning {self.binning} is for Topaz only; leave it at 1 for {self.to}, or simulate at a "
                             "larger pixel size")
        if self.random_shift and (self.to == "topaz" or not self.extract):
            raise ValueError(f"random_shift {self.random_shift} moves the boxes of stacks, and none are written; "
                             "leave it at 0")
        if self.to == "cryodrgn" and not self.extract:
            raise ValueError("cryoDRGN reads stacks only; leave extract on")
        if self.to == "cryodrgn" and (self.box_size or 0) % 2:
            raise ValueError(f"cryoDRGN reads even boxes only; give box_size {(self.box_size or 0) + 1}")
        if self.to == "cryodrgn" and self.relative_to is not None:
            raise ValueError("cryoDRGN's files hold no paths; leave relative_to empty")
        return self
