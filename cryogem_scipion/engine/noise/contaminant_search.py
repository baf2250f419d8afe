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
"""Standard deviations at which pixels are clipped, so that a hot pixel is not treated as a contaminant."""
RIM_PIXELS = 1.5
"""Standard deviation in pixels of the Gaussian that softens the edge of a contaminant's opacity."""

Image = NDArray[np.float32]


@dataclass(frozen=True)
class StatisticsRange:
    """The range of local statistics in simulated images."""

    diameter_pixels: float
    """Particle diameter in pixels."""
    extremes: tuple[float, ...]
    """For each statistic, its maximum above the median."""
    usual: tuple[float, ...]
    """For each statistic, its 99th percentile above the median."""


def measure_range(images: Sequence[Float[Tensor, "_ _"]], diameter_pixels: float) -> StatisticsRange:
    """Return the range of the local statistics in simulated images.

    Parameters
    ----------
    images
        Noise and particles without ice, in standard deviations of the noise.
    diameter_pixels
        Particle diameter in pixels.
    """
    maps = parallel_map(lambda image: _statistics(image.numpy(), diameter_pixels), images)
    statistics = list(zip(*maps, strict=True))
    return StatisticsRange(
        diameter_pixels, tuple(max(float(values.max()) for values in statistic) for statistic in statistics),
        tuple(float(np.mean([np.quantile(values, 0.99) for values in statistic])) for statistic in statistics))


def find_contaminants(image: Float[Tensor, "y x"], statistics_range: StatisticsRange) -> tuple[Contaminant, ...]:
    """Cut out the contaminants of a real micrograph.

    Parameters
    ----------
    image
        Grey values without ice, in standard deviations of the noise around the background; not clipped.
    statistics_range
        Range of the same statistics in simulated images.
    """
    pixels = image.numpy()
    mask = np.zeros(pixels.shape, bool)
    diameter_pixels = statistics_range.diameter_pixels
    for values, extreme, usual in zip(_statistics(pixels, diameter_pixels), statistics_range.extremes,
                                      statistics_range.usual, strict=True):
        # A region of unusual values counts if one of them exceeds all values of simulated images.
        regions, _ = ndimage.label(values > usual)
        mask |= np.isin(regions, np.setdiff1d(np.unique(regions[values > extreme]), [0]))
    reach = max(2, round(diameter_pixels / 16))
    mask = ndimage.binary_closing(np.pad(mask, reach, mode="edge"), iterations=reach)[reach:-reach, reach:-reach]
    mask = ndimage.binary_fill_holes(ndimage.binary_dilation(mask, iterations=reach))
    opacity = ndimage.gaussian_filter(mask.astype(np.float32), RIM_PIXELS, mode="nearest")
    regions, _ = ndimage.label(opacity > 0.02)
    return tuple(_contaminant(pixels, opacity, regions == index + 1, window) for index, window in
                 enumerate(ndimage.find_objects(regions)))


def _contaminant(pixels: Image, opacity: Image, region: NDArray[np.bool_], window: tuple[slice, slice]) -> Contaminant:
    """The contaminant in one region; ``window`` holds the region."""
    sides = list(zip(window, pixels.shape, strict=True))
    cut = any(side.start == 0 or side.stop == edge for side, edge in sides)
    large = any(side.stop - side.start > edge / 3 for side, edge in sides)
    own_opacity = torch.from_numpy(np.where(region[window], opacity[window], 0).astype(np.float32))
    return Contaminant(torch.from_numpy(pixels[window].astype(np.float32)), own_opacity,
                       (window[0].start, window[1].start), cut or large)


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
