# SPDX-License-Identifier: GPL-3.0-or-later
"""What a form can know before anything runs, from headers and the project's database alone."""
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.mrc import read_header

__all__ = ["acquisitions_differ", "crowding", "missing", "pixel_sizes_differ", "too_coarse",
           "unreadable"]

# Coverage of discs thrown at random until no more fits.
JAMMING = 0.547
# A pixel size given to Scipion may differ from the file's by this much before it is said.
CLOSE = 0.01


def missing(label: str, files: Iterable[str]) -> list[str]:
    """Return an error for the first file that is not there."""
    return [f"*{label}*: {file} is not there any more; import it again, or give back the file."
            for file in files if not os.path.isfile(file)][:1]


def unreadable(label: str, file: str) -> list[str]:
    """Return an error where a micrograph cannot be read: it is missing, or no MRC image."""
    try:
        read_header(Path(file), 2)
    except DataError as error:
        return [f"*{label}*: {error}."]
    return []


def too_coarse(label: str, found: float, working: float) -> list[str]:
    """Return an error where real micrographs have larger pixels (Å) than the simulated ones."""
    if found <= working * 1.001:
        return []
    return [f"*{label}*: their pixel size {found:g} Å is coarser than the simulation's ({working:g} Å); simulate at "
            f"{found:g} Å or more."]


def pixel_sizes_differ(label: str, file: str, dimensions: int, given: float) -> list[str]:
    """Return a warning where the header of an image (2) or map (3) has not the pixel size (Å) Scipion was given."""
    try:
        found = read_header(Path(file), dimensions)[1]
    except DataError:
        return []
    # 1 is what programs write that do not know it.
    if found is None or found == 1 or abs(found / given - 1) <= CLOSE:
        return []
    return [f"*{label}*: {os.path.basename(file)} says {found:.4g} Å/px in its header, and it was imported with "
            f"{given:.4g} Å/px, which is used; import it again if the header is right."]


def acquisitions_differ(real: Any, simulated: Any) -> list[str]:
    """Return a warning where two sets of micrographs come from different microscopes."""
    one, other = real.getAcquisition(), simulated.getAcquisition()
    if one is None or other is None:
        return []
    pairs = [("voltage", "kV", one.getVoltage(), other.getVoltage()),
             ("spherical aberration", "mm", one.getSphericalAberration(), other.getSphericalAberration()),
             ("amplitude contrast", "", one.getAmplitudeContrast(), other.getAmplitudeContrast())]
    return [f"The real micrographs have a {name} of {first:g} {unit}".rstrip() + f", the simulated ones {second:g}; "
            "simulate with the acquisition of the real ones."
            for name, unit, first, second in pairs
            if first is not None and second is not None and abs(first - second) > 1e-3 * abs(first)]


def crowding(particles: float, shape: tuple[int, int], pixel_size: float, distance_angstrom: float,
             why: str = "") -> list[str]:
    """Return a warning where more particles are asked for than random places have room for.

    Parameters
    ----------
    particles
        Mean number for each micrograph.
    shape
        Micrograph size (y, x) in pixels.
    pixel_size
        Å per pixel.
    distance_angstrom
        Smallest distance of two centres.
    why
        Where that is only assumed: what from.
    """
    if not distance_angstrom > 0:
        return []
    room = JAMMING * math.prod(shape) * pixel_size**2 / (math.pi / 4 * distance_angstrom**2)
    if particles <= room:
        return []
    return [f"About {room:.0f} particles fit at a distance of {distance_angstrom:.0f} Å{why}, and {particles:g} are "
            "asked for; the rest is left out."]

