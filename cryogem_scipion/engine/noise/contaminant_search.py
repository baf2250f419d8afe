# SPDX-License-Identifier: GPL-3.0-or-later
"""Search for contaminants on real micrographs without labels.

Local statistics of a real micrograph (darkness, and power of fine structure) are compared with those of
simulated images that have the same noise spectrum, particles and signal-to-noise ratio. A place that exceeds
everything in the simulated images is neither particle nor noise.
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

__all__ = ["StatisticsRange", "find_contaminants", "measure_range"]

CLIP = 8.0
"""Standard deviations at which pixels are clipped, so that a hot pixel is not taken for a contaminant."""
RIM = 1.5
"""Pixels over which the opacity of a contaminant falls."""

Image = NDArray[np.float32]


@dataclass(frozen=True)
class StatisticsRange:
    """The range of local statistics in simulated images."""

    particle_pixels: float
    extremes: tuple[float, ...]
    """For each statistic, its maximum above the median."""
    usual: tuple[float, ...]
    """For each statistic, its 99th percentile above the median."""


def measure_range(made: Sequence[Float[Tensor, "_ _"]], particle_pixels: float) -> StatisticsRange:
    """Measure simulated images: noise and particles, without ice, in standard deviations of the noise."""
    statistics = parallel_map(lambda image: _statistics(image.numpy(), particle_pixels), made)
    kinds = list(zip(*statistics, strict=True))
    return StatisticsRange(particle_pixels, tuple(max(float(image.max()) for image in kind) for kind in kinds),
                           tuple(float(np.mean([np.quantile(image, 0.99) for image in kind])) for kind in kinds))


def find_contaminants(image: Float[Tensor, "y x"], usual: StatisticsRange) -> tuple[Contaminant, ...]:
    """Cut out the contaminants of a real micrograph.

    Parameters
    ----------
    image
        Grey values without ice, in standard deviations of the noise around the background; not clipped.
    """
    pixels = image.numpy()
    found = np.zeros(pixels.shape, bool)
    for values, most, common in zip(_statistics(pixels, usual.particle_pixels), usual.extremes, usual.usual,
                                    strict=True):
        grown, _ = ndimage.label(values > common)
        found |= np.isin(grown, np.setdiff1d(np.unique(grown[values > most]), [0]))
    reach = max(2, round(usual.particle_pixels / 16))
    found = ndimage.binary_closing(np.pad(found, reach, mode="edge"), iterations=reach)[reach:-reach, reach:-reach]
    found = ndimage.binary_fill_holes(ndimage.binary_dilation(found, iterations=reach))
    weight = ndimage.gaussian_filter(found.astype(np.float32), RIM, mode="nearest")
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
    """Darkness, and power of fine structure, both averaged over about a particle and relative to their medians."""
    values = np.clip(pixels - np.median(pixels), -CLIP, CLIP).astype(np.float32)
    dark = -_blurred(values, max(1.0, size / 12))
    # Slow changes belong to the ice, and the finest noise carries no information about particles.
    fine = _blurred(values - _blurred(values, size / 6), 0.7) ** 2
    power = np.log(_blurred(fine, size / 5).clip(1e-6))
    return (dark - np.median(dark)).astype(np.float32), (power - np.median(power)).astype(np.float32)


def _blurred(image: Image, width: float) -> Image:
    blurred: Image = ndimage.gaussian_filter(image, width, mode="reflect", truncate=3.0)
    return blurred
