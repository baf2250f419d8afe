# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the comparison of poses with the truth."""
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from cryogem_scipion.engine.settings.base import RunSettings, option
from cryogem_scipion.engine.settings.simulate import symmetry_name

__all__ = ["PosesSettings"]


class PosesSettings(RunSettings):
    """Compare refined orientations, shifts and defocus with the true ones."""

    particles: Path = option(
        ..., "Particles", "A STAR file with rlnAngleRot, rlnAngleTilt, rlnAnglePsi, as refinements write it.",
        form=False)
    truth: Path = option(
        ..., "True particles", "particles.star or extracted.star of a simulated or generated folder.", form=False)
    symmetry: str = option(
        "C1", "Symmetry", "Of the particle: C1, C7, D2, T, O, I (I1 to I4), as RELION names them. Poses that it makes "
        "equal count as equal.", section="Data")
    alignment: Literal["full", "rotation", "none"] = option(
        "full", "Alignment of the maps", "A refinement may turn, move and mirror its map. full: rotation, shift and "
        "hand are estimated over all particles and taken off; rotation: the hand is taken as it is; none: refined "
        "against the true map itself.", section="Data")
    radius: float = option(
        50.0, "Pairing radius (Å)", "A refined particle is the true one whose centre is next to its own, and closer "
        "than this. Larger still finds particles whose shifts are wrong; 20 to 100, and at most half of the distance "
        "between particles.",
        section="Data", advanced=True, gt=0)
    pixel_size: float | None = option(
        None, "Pixel size of the particles' micrographs (Å)", "Of the coordinates; needed where the file does not say "
        "it.", form=False, gt=0)
    truth_pixel_size: float | None = option(
        None, "Pixel size of the true particles' micrographs (Å)", "Needed where the file does not say it.",
        form=False, gt=0)
    seed: int = option(0, "Random seed", "Nothing is drawn that changes a result.", form=False, ge=0, lt=2**31)

    @field_validator("symmetry")
    @classmethod
    def _known(cls, name: str) -> str:
        return symmetry_name(name)
