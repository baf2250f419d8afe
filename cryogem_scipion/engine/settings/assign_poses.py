# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem assign-poses``."""
from pathlib import Path
from typing import ClassVar, Literal

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["AssignPosesSettings"]


class AssignPosesSettings(RunSettings):
    """Give particles the poses, shifts and confidences that a trained pose estimator finds."""

    memory_remedy: ClassVar[str] = "lower threads"

    model: Path = option(
        ..., "Pose estimator", "The model.safetensors of 'cryogem train-poses'.", form=False)
    particles: Path = option(
        ..., "Particles", "STAR file of particles with rlnImageName. Their box size and pixel size may differ from "
        "those of the training.", form=False)
    pixel_size: float | None = option(
        None, "Pixel size of the particles (Å)", "Needed only if the STAR file does not contain it.", form=False, gt=0)
    contrast: Literal["bright", "dark"] = option(
        "bright", "Particle contrast", "Contrast of the protein in the images. bright: as in RELION's stacks. dark: "
        "as on micrographs.", section="Particles")
    candidates: int = option(
        5, "Candidates for each particle", "Number of poses that candidates.star keeps for each particle, the most "
        "probable one first. More candidates more often include the true pose; 1 to 20 is usual.",
        section="Particles", advanced=True, ge=1, le=100)
    seed: int = option(
        0, "Random seed", "Has no effect here: no random number changes a result.", form=False, ge=0, lt=2**31)
