# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors and warnings of a form about the images of particles, before the run."""
from pathlib import Path
from typing import Any

import numpy as np

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.mrc import read_stack_header
from cryogem_scipion.protocols.particle_tables import image_file, read_named_images, spread_image_names

__all__ = ["contrast_warnings", "particle_image_errors"]

INSPECTED = 100
"""Particles whose contrast is inspected."""
CLEAR_DIFFERENCE = 5.0
"""Difference between particles and background, in standard errors, that is not due to noise."""


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
    y, x = (np.arange(edge) - edge // 2 for edge in images[0].shape)
    radius = np.hypot(y[:, None], x) / (min(images[0].shape) / 2)
    # Brightness of the middle above that of a ring near the border, for each particle.
    differences = np.array([image[radius < 0.4].mean() - image[(radius > 0.8) & (radius < 1)].mean()
                            for image in images])
    significance = differences.mean() / max(differences.std() / len(differences) ** 0.5, 1e-12)
    if len(images) < 2 or (significance if bright else -significance) > -CLEAR_DIFFERENCE:
        return []
    found, other = ("dark", "bright") if bright else ("bright", "dark")
    return [f"*{label}*: protein seems to be {found} in these images, but the form says {other}; choose {found} as "
            "the particle contrast."]
