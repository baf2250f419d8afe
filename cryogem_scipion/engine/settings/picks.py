# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem picks``."""
from pathlib import Path

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["PicksSettings", "default_matching_radius"]


class PicksSettings(RunSettings):
    """Compare the coordinates of a picker with the true coordinates."""

    picks: tuple[str, ...] = option(
        ..., "Picks", "Files or patterns in quotation marks: STAR, Topaz tables (.txt, .tsv, .csv), .box or .cs. "
        "Scores are used where the files have them.", form=False, min_length=1)
    truth: tuple[str, ...] = option(
        ..., "True coordinates", "The particles.star of a simulated or generated dataset, or any file of coordinates.",
        form=False, min_length=1)
    radius: float | None = option(
        None, "Matching radius (Å)", "A pick can be a hit only if it is closer than this to a true particle. A smaller "
        "value asks for better centred picks. Empty uses 0.265 particle diameters: at this distance, the overlap of "
        "two discs of that diameter is half of the area that they cover together.", section="Data", gt=0)
    pixel_size: float | None = option(
        None, "Pixel size of the picks (Å)", "Pixel size of the picked micrographs. Needed only if the files do not "
        "contain it.", form=False, gt=0)
    truth_pixel_size: float | None = option(
        None, "Pixel size of the true coordinates (Å)", "Needed only if the files do not contain it.", form=False, gt=0)
    truth_micrographs: Path | None = option(
        None, "Labelled micrographs", "STAR file that lists all labelled micrographs, also those without particles. "
        "Empty uses the file micrographs.star beside the true coordinates, if there is one.", form=False)
    seed: int = option(
        0, "Random seed", "Has no effect here: this stage draws no random numbers.", form=False, ge=0, lt=2**31)


def default_matching_radius(diameter_angstrom: float) -> float:
    """Return the matching radius (Å) for particles of a diameter (Å).

    At this distance the overlap of two discs of that diameter is half of the area that they cover together.
    """
    return 0.265 * diameter_angstrom
