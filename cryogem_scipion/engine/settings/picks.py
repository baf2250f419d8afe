# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the comparison of picks with the truth."""
from pathlib import Path

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["PicksSettings", "default_radius"]


class PicksSettings(RunSettings):
    """Compare a picker's coordinates with the true ones."""

    picks: tuple[str, ...] = option(
        ..., "Picks", "Files or quoted patterns: STAR, tables of Topaz (.txt, .tsv, .csv), .box, .cs; with scores "
        "where the picker gives them.", form=False, min_length=1)
    truth: tuple[str, ...] = option(
        ..., "True coordinates", "particles.star of a simulated or generated folder, or any file of coordinates.",
        form=False, min_length=1)
    radius: float | None = option(
        None, "Matching radius (Å)", "A pick that is closer than this to a particle can be a hit. Smaller asks for "
        "better centred picks. Empty takes 0.265 of the particle's diameter: there two discs of that diameter share "
        "half of what they cover together.", section="Data", gt=0)
    pixel_size: float | None = option(
        None, "Pixel size of the picks (Å)", "Of the micrographs that were picked; needed where the files do not say "
        "it.", form=False, gt=0)
    truth_pixel_size: float | None = option(
        None, "Pixel size of the true coordinates (Å)", "Needed where the files do not say it.", form=False, gt=0)
    truth_micrographs: Path | None = option(
        None, "Labelled micrographs", "A STAR file that lists all of them, also those without particles; empty takes "
        "the micrographs.star beside the true coordinates, if there is one.", form=False)
    seed: int = option(0, "Random seed", "Nothing is drawn here.", form=False, ge=0, lt=2**31)


def default_radius(diameter_angstrom: float) -> float:
    """Return the distance (Å) at which two discs share half of their union."""
    return 0.265 * diameter_angstrom
