# SPDX-License-Identifier: GPL-3.0-or-later
"""Contaminants found on real micrographs without labels: places that look like nothing the model makes.

Local statistics of real micrographs (grey value, and the power of fine structure) are compared with
those of images made with the same spectrum, the same particles and their strength. What exceeds all
that was made is no particle and no noise.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.noise.contaminants import Contaminant

__all__ = ["Ordinary", "find_contaminants", "ordinary"]

CLIP = 8.0
"""Deviations at which single pixels are cut, so that a hot one is no contaminant."""
RIM = 1.5
"""Pixels over which the weight of a piece falls."""

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Ordinary:
    """The range of local statistics in made images."""

    particle_pixels: float
    extremes: tuple[float, ...]
    """For each statistic, the most that made images reach above their median."""
    usual: tuple[float, ...]
    """What one place in a hundred reaches."""


def ordinary(made: Sequence[Float[Tensor, "_ _"]], particle_pixels: float) -> Ordinary:
    """Measure made images: noise and particles, without ice, in deviations of the noise."""
    statistics = parallel_map(lambda image: _statistics(image.numpy(), particle_pixels), made)
    kinds = list(zip(*statistics, strict=True))
    return Ordinary(particle_pixels, tuple(max(float(image.max()) for image in kind) for kind in kinds),
                    tuple(float(np.mean([np.quantile(image, 0.99) for image in kind])) for kind in kinds))


def find_contaminants(image: Float[Tensor, "y x"], usual: Ordinary) -> tuple[Contaminant, ...]:
    """Cut out what a real micrograph has and no made image.

    Parameters
    ----------
    image
        Without ice, in deviations of the noise around the background; not clipped.
    """
    pixels = image.numpy()
    seen = np.zeros(pixels.shape, bool)
    for values, most, common in zip(_statistics(pixels, usual.particle_pixels), usual.extremes, usual.usual,
                                    strict=True):
        grown, _ = ndimage.label(values > common)
        seen |= np.isin(grown, np.setdiff1d(np.unique(grown[values > most]), [0]))
    reach = max(2, round(usual.particle_pixels / 16))
    seen = ndimage.binary_closing(np.pad(seen, reach, mode="edge"), iterations=reach)[reach:-reach, reach:-reach]
    seen = ndimage.binary_fill_holes(ndimage.binary_dilation(seen, iterations=reach))
    weight = ndimage.gaussian_filter(seen.astype(np.float32), RIM, mode="nearest")
    pieces, _ = ndimage.label(weight > 0.02)
    return tuple(_piece(pixels, weight, pieces == number + 1, place) for number, place in
                 enumerate(ndimage.find_objects(pieces)))


def _piece(pixels: Image, weight: Image, own: NDArray[np.bool_], place: tuple[slice, slice]) -> Contaminant:
    shape = pixels.shape
    cut = any(one.start == 0 or one.stop == edge for one, edge in zip(place, shape, strict=True))
    large = any(one.stop - one.start > edge / 3 for one, edge in zip(place, shape, strict=True))
    kept = torch.from_numpy(np.where(own[place], weight[place], 0).astype(np.float32))
    return Contaminant(torch.from_numpy(pixels[place].astype(np.float32)), kept,
                       (place[0].start, place[1].start), cut or large)


def _statistics(pixels: Image, size: float) -> tuple[Image, Image]:
    """Darkness, and power of fine structure over about a particle; above their medians."""
    values = np.clip(pixels - np.median(pixels), -CLIP, CLIP).astype(np.float32)
    dark = -_blurred(values, max(1.0, size / 12))
    # Slow changes are left to the ice; the finest noise tells nothing of particles.
    fine = _blurred(values - _blurred(values, size / 6), 0.7) ** 2
    power = np.log(_blurred(fine, size / 5).clip(1e-6))
    return (dark - np.median(dark)).astype(np.float32), (power - np.median(power)).astype(np.float32)


def _blurred(image: Image, width: float) -> Image:
    blurred: Image = ndimage.gaussian_filter(image, width, mode="reflect", truncate=3.0)
    return blurred
