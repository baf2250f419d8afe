# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem export``."""
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["ExportSettings"]


class ExportSettings(RunSettings):
    """Write a dataset for RELION, cryoSPARC, Topaz or cryoDRGN; its README.txt explains the next steps."""

    dataset: Path = option(
        ..., "Dataset", "Dataset folder of 'cryogem simulate' or 'cryogem generate'.", form=False)
    dataset_micrographs: Path | None = option(
        None, "Micrographs to export", "STAR file with some rows of the dataset's micrographs.star. Empty exports all.",
        form=False)
    dataset_particles: Path | None = option(
        None, "Particles to export", "STAR file with some rows of the dataset's extracted.star. Empty exports all.",
        form=False)
    to: Literal["relion", "cryosparc", "topaz", "cryodrgn"] = option(
        "relion", "Program", "Program that will read the export. relion: STAR files with poses and CTFs, and particle "
        "stacks. cryosparc: the same for cryoSPARC's import jobs, and .cs files. topaz: normalised images, and "
        "coordinates for training. cryodrgn: one particle stack, CTFs and poses.", section="Export")
    files: Literal["link", "copy"] = option(
        "link", "Link or copy images", "link: the export contains links to the images of the dataset and takes no "
        "space. copy: it contains copies and can be moved to another machine. Images that have to be computed anew are "
        "always written as files.", section="Export")
    relative_to: Path | None = option(
        None, "Paths relative to", "Folder in which the other program runs, such as the folder of a RELION project. "
        "The export has to be inside it. Empty writes absolute paths (for cryoSPARC: paths relative to the export).",
        section="Export", advanced=True)
    extract: bool = option(
        True, "Particle stacks", "Yes: also export particle stacks with poses; protein is bright. The stacks of the "
        "dataset are used. If it has none, the particles are cut from its micrographs. No: only micrographs and "
        "coordinates.", section="Export")
    box_size: int | None = option(
        None, "Box size (px)", "Edge length of the particle images. A larger value keeps more of the signal that "
        "defocus spreads out, and takes more space; 1.3 to 2 diameters is usual. Empty uses the box size of the "
        "dataset. With another value the particles are cut again.", section="Export", ge=8, le=8192)
    random_shift: int = option(
        0, "Random shifts of the boxes (px)", "Each box is cut off-centre by a random shift of up to this value in x "
        "and in y. This is data augmentation for pose estimators. The particle's origin in the STAR file records the "
        "shift. Larger shifts are harder to estimate; 2 to 10 is usual, and 0 keeps the particles centred.",
        section="Export", ge=0, le=1000)
    binning: int = option(
        1, "Binning", "For Topaz only. Images and coordinates are downsampled by this factor. A higher value makes "
        "smaller particles; diameters of 10 to 50 pixels are good for Topaz. Pick the real micrographs at the same "
        "pixel size.", section="Export", ge=1, le=64)

    @model_validator(mode="after")
    def _consistent(self) -> "ExportSettings":
        if self.binning > 1 and self.to != "topaz":
            raise ValueError(f"binning {self.binning} is for Topaz only; set it to 1 for {self.to}, or simulate at a "
                             "larger pixel size")
        if self.random_shift and (self.to == "topaz" or not self.extract):
            raise ValueError(f"random_shift {self.random_shift} needs particle stacks, and this export writes none; "
                             "set it to 0")
        if self.to == "cryodrgn" and not self.extract:
            raise ValueError("cryoDRGN needs particle stacks; turn extract on")
        if self.to == "cryodrgn" and (self.box_size or 0) % 2:
            raise ValueError(f"cryoDRGN reads even box sizes only; give box_size {(self.box_size or 0) + 1}")
        if self.to == "cryodrgn" and self.relative_to is not None:
            raise ValueError("cryoDRGN's files hold no paths; leave relative_to empty")
        return self
