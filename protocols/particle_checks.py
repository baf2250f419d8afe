# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors and warnings of a form about the images of particles, before the run."""
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.mrc import read_stack_header
from cryogem_scipion.protocols.particle_tables import image_file, read_named_images, spread_image_names

__all__ = ["contrast_warnings", "particle_image_errors"]

INSPECTED = 100
"""Particles whose contrast is inspected."""
CLEAR_DIFFERENCE = 5.0
"""Difference between particles and background, in standard errors, that is not due to noise."""
RINGS = 8
"""Rings of the radial profile; the last one is the background."""


def particle_image_errors(label: str, particles: Any) -> list[str]:
    """Return an error when the first image of a SetOfParticles cannot be read, or the set is empty."""
    first = particles.getFirstItem()
    if first is None:
        return [f"*{label}*: the set is empty; choose another."]
    file = Path(image_file(first.getFileName()))
    if file.suffix.lower() not in (".mrc", ".mrcs"):
        return [f"*{label}*: {file.name} is not an MRC stack; convert the particles to MRC first, for example with "
                "RELION's 'preprocess particles'."]
    try:
        read_stack_header(file)
    except DataError as error:
        return [f"*{label}*: {error}."]
    return []


def contrast_warnings(label: str, particles: Any, bright: bool) -> list[str]:
    """Return a warning when the particles' contrast is clearly the opposite of what the form says.

    Parameters
    ----------
    label
        Label of the particles in the form.
    particles
        SetOfParticles.
    bright
        Whether the form says that protein is bright.
    """
    try:
        images = read_named_images(spread_image_names(particles, INSPECTED))
    except DataError:
        return []  # The run names the cause.
    if len(images) < 2:
        return []
    deviation = _strongest_deviation(np.stack(images))
    if (deviation if bright else -deviation) >= 0:
        return []
    found, other = ("dark", "bright") if bright else ("bright", "dark")
    return [f"*{label}*: protein seems to be {found} in these images, but the form says {other}; choose {found} as "
            "the particle contrast."]


def _strongest_deviation(images: NDArray[np.float32]) -> float:
    """Largest deviation from the background in the mean radial profile of particles; 0 where noise can explain it.

    The deviation of the protein is stronger than that of the fringe around it, also in a hollow particle.

    Parameters
    ----------
    images
        (n, y, x).
    """
    y, x = (np.arange(edge) - edge // 2 for edge in images.shape[1:])
    half = min(images.shape[1:]) // 2
    ring = np.minimum((np.hypot(y[:, None], x) / half * RINGS).astype(int), RINGS)
    profiles = np.stack([images[:, ring == number].mean(1) for number in range(RINGS)], axis=1)
    deviations = (profiles - profiles[:, -1:])[:, :-1]
    mean, error = deviations.mean(0), deviations.std(0) / len(images) ** 0.5
    mean[np.abs(mean) < CLEAR_DIFFERENCE * error] = 0.0
    return float(mean[np.argmax(np.abs(mean))])
