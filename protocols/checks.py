# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors and warnings of a form before the run, from file headers and the project's database alone."""
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.mrc import read_header
from cryogem_scipion.plugin import Plugin

__all__ = ["acquisition_warnings", "coarse_pixel_errors", "crowding_warnings", "cryodrgn_errors",
           "missing_file_errors", "pixel_size_warnings", "unreadable_file_errors"]

# Share of the area that discs cover when they are placed at random until no more disc fits.
JAMMING_COVERAGE = 0.547
# A warning comes when Scipion's pixel size differs from the file's by more than this share.
PIXEL_SIZE_TOLERANCE = 0.01


def missing_file_errors(label: str, files: Iterable[str]) -> list[str]:
    """Return an error for the first file that does not exist."""
    return [f"*{label}*: {file} does not exist any more; import it again, or restore the file."
            for file in files if not os.path.isfile(file)][:1]


def unreadable_file_errors(label: str, file: str) -> list[str]:
    """Return an error when a micrograph's file is missing or is not an MRC image."""
    try:
        read_header(Path(file), 2)
    except DataError as error:
        return [f"*{label}*: {error}."]
    return []


def coarse_pixel_errors(label: str, real_pixel_size: float, working_pixel_size: float) -> list[str]:
    """Return an error when the real micrographs' pixel size (Å) is larger than the simulated micrographs'."""
    if real_pixel_size <= working_pixel_size * 1.001:
        return []
    return [f"*{label}*: their pixel size {real_pixel_size:g} Å is coarser than the simulation's "
            f"({working_pixel_size:g} Å); simulate at {real_pixel_size:g} Å or more."]


def cryodrgn_errors(folder: Path, on_queue: bool) -> list[str]:
    """Return the errors of a cryoDRGN folder, and of cryoDRGN's environment where it is known."""
    errors = [] if (folder / "config.yaml").is_file() else [
        f"*cryoDRGN folder*: {str(folder)!r} has no config.yaml; choose the folder that cryodrgn train_vae wrote."]
    # The queue's machines may have the environment that this machine lacks.
    if on_queue and Plugin.getCryodrgnActivationCmd():
        return errors
    return [*errors, *(f"*cryoDRGN folder*: {line}" for line in Plugin.cryodrgnErrors())]


def pixel_size_warnings(label: str, file: str, dimensions: int, scipion_pixel_size: float) -> list[str]:
    """Return a warning when the header of an image (2) or map (3) and Scipion have different pixel sizes (Å)."""
    try:
        header_pixel_size = read_header(Path(file), dimensions)[1]
    except DataError:
        return []
    # Programs that do not know the pixel size write 1.
    if header_pixel_size in (None, 1) or abs(header_pixel_size / scipion_pixel_size - 1) <= PIXEL_SIZE_TOLERANCE:
        return []
    return [f"*{label}*: the header of {os.path.basename(file)} has {header_pixel_size:.4g} Å/px, but the file was "
            f"imported with {scipion_pixel_size:.4g} Å/px, which is used; import it again if the header is right."]


def acquisition_warnings(real: Any, simulated: Any) -> list[str]:
    """Return a warning for each microscope parameter that differs between real and simulated micrographs."""
    of_real, of_simulated = real.getAcquisition(), simulated.getAcquisition()
    if of_real is None or of_simulated is None:
        return []
    pairs = [("voltage", "kV", of_real.getVoltage(), of_simulated.getVoltage()),
             ("spherical aberration", "mm", of_real.getSphericalAberration(), of_simulated.getSphericalAberration()),
             ("amplitude contrast", "", of_real.getAmplitudeContrast(), of_simulated.getAmplitudeContrast())]
    return [f"The real micrographs have a {name} of {first:g} {unit}".rstrip() + f", the simulated ones {second:g}; "
            "simulate with the acquisition of the real ones."
            for name, unit, first, second in pairs
            if first is not None and second is not None and abs(first - second) > 1e-3 * abs(first)]


def crowding_warnings(particles: float, shape: tuple[int, int], pixel_size: float, distance_angstrom: float,
                      assumption: str = "") -> list[str]:
    """Return a warning when more particles are asked for than fit at random positions.

    Parameters
    ----------
    particles
        Mean number of particles per micrograph.
    shape
        Micrograph size (y, x) in pixels.
    pixel_size
        Å per pixel.
    distance_angstrom
        Smallest distance between the centres of two particles.
    assumption
        If the distance is only estimated: the assumption of the estimate, in parentheses, for the message.
    """
    if not distance_angstrom > 0:
        return []
    capacity = JAMMING_COVERAGE * math.prod(shape) * pixel_size**2 / (math.pi / 4 * distance_angstrom**2)
    if particles <= capacity:
        return []
    return [f"About {capacity:.0f} particles fit at a distance of {distance_angstrom:.0f} Å{assumption}, but "
            f"{particles:g} are asked for; the other particles are left out."]

