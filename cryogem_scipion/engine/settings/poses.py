# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem poses``."""
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from cryogem_scipion.engine.settings.base import RunSettings, option
from cryogem_scipion.engine.settings.simulate import symmetry_name

__all__ = ["PosesSettings"]


class PosesSettings(RunSettings):
    """Compare refined orientations, shifts and defocus values with the true ones."""

    particles: Path = option(
        ..., "Particles", "STAR file of a refinement, with rlnAngleRot, rlnAngleTilt and rlnAnglePsi.", form=False)
    truth: Path = option(
        ..., "True particles", "The particles.star or extracted.star of a simulated or generated dataset.", form=False)
    symmetry: str = option(
        "C1", "Symmetry", "Point group of the particle, as in RELION: C1, C7, D2, T, O, I (I1 to I4). Poses that are "
        "equal by symmetry count as equal.", section="Data")
    alignment: Literal["full", "rotation", "none"] = option(
        "full", "Alignment of the maps", "A refinement may rotate, shift and mirror its map against the true map. "
        "full: rotation, shift and handedness are estimated from all particles and removed. rotation: rotation and "
        "shift are removed, and the handedness is kept. none: the refinement used the true map as its reference, so "
        "nothing is removed.", section="Data")
    radius: float = option(
        50.0, "Pairing radius (Å)", "A refined particle is paired with the nearest true particle if their centres are "
        "closer than this. A larger value also pairs particles with wrong shifts; 20 to 100 is usual, and at most half "
        "of the particle distance.", section="Data", advanced=True, gt=0)
    pixel_size: float | None = option(
        None, "Pixel size of the particles' micrographs (Å)", "Pixel size of the coordinates. Needed only if the file "
        "does not contain it.", form=False, gt=0)
    truth_pixel_size: float | None = option(
        None, "Pixel size of the true particles' micrographs (Å)", "Needed only if the file does not contain it.",
        form=False, gt=0)
    seed: int = option(
        0, "Random seed", "Has no effect here: no random number changes a result.", form=False, ge=0, lt=2**31)

    @field_validator("symmetry")
    @classmethod
    def _known_symmetry(cls, name: str) -> str:
        return symmetry_name(name)
