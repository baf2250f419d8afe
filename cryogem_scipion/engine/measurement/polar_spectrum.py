# SPDX-License-Identifier: GPL-3.0-or-later
"""Power spectrum of a micrograph on a polar grid: the data to which Thon rings are fitted."""
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.compute.robust import robust_deviation
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.spectrum import tile_periodograms

__all__ = ["SECTORS", "PolarSpectrum", "polar_spectrum"]

SECTORS = 24
"""Directions, each of 7.5°, on half of the plane. The other half holds the same values."""
UNUSUAL = 4.0
"""Tiles are left out whose logarithm of power is this many robust deviations above the median: carbon, contaminants."""


@dataclass(frozen=True)
class PolarSpectrum:
    """Mean power in bins of frequency and direction; each array has the shape (frequency, sector)."""

    power: NDArray[np.float64]
    square: NDArray[np.float64]
    """Mean squared frequency in the bin, Å⁻²."""
    difference: NDArray[np.float64]
    """Mean of x² − y² of the frequencies in the bin, Å⁻²."""
    product: NDArray[np.float64]
    """Mean of x y of the frequencies in the bin, Å⁻²."""
    count: NDArray[np.float64]
    """Fourier pixels in the bin; 0 where the bin is empty."""
    draws: float
    """Independent tiles that the power was averaged over, about."""

    @property
    def frequency(self) -> NDArray[np.float64]:
        """Root mean square frequency of each row, 1/Å."""
        total = self.count.sum(1)
        mean: NDArray[np.float64] = np.sqrt((self.square * self.count).sum(1) / np.maximum(total, 1))
        return mean

    @property
    def radial(self) -> NDArray[np.float64]:
        """Rotational mean of the power for each row."""
        mean: NDArray[np.float64] = (self.power * self.count).sum(1) / np.maximum(self.count.sum(1), 1)
        return mean


def polar_spectrum(image: Float[Tensor, "y x"], pixel_size: float, tile: int) -> PolarSpectrum:
    """Return the mean power of a micrograph's tiles on a polar grid.

    Parameters
    ----------
    image
        Micrograph of any grey scale.
    pixel_size
        Å per pixel.
    tile
        Edge of the tiles in pixels. The frequencies of the rows are its multiples of 1 / (tile · pixel_size).

    Raises
    ------
    DataError
        The image is smaller than a tile, or constant.
    """
    powers = tile_periodograms(image, tile)
    level = powers.flatten(1)[:, 1:].mean(1).clamp_min(1e-30).log()
    spread = robust_deviation(level)
    usual = level <= level.median() + UNUSUAL * max(spread, 0.05)
    mean = powers[usual].mean(0).double().numpy()
    if not mean.max() > 0:
        raise DataError("the micrograph has no power at any frequency; give an image with contents")
    y = np.fft.fftfreq(tile, pixel_size)[:, None] + np.zeros(tile // 2 + 1)
    x = np.fft.rfftfreq(tile, pixel_size) + np.zeros((tile, 1))
    ring = np.rint(np.hypot(x, y) * tile * pixel_size).astype(int)
    sector = np.floor(np.mod(np.arctan2(y, x), np.pi) / np.pi * SECTORS).astype(int) % SECTORS
    rows = tile // 2 + 1
    # The column x = 0 holds both signs of y, so each of its values stands there twice.
    weight = np.where(x > 0, 1.0, 0.5) * (ring < rows)
    place = (np.minimum(ring, rows - 1) * SECTORS + sector).ravel()

    def summed(values: NDArray[Any]) -> NDArray[np.float64]:
        total: NDArray[np.float64] = np.bincount(place, (values * weight).ravel(), rows * SECTORS).astype(np.float64)
        return total.reshape(rows, SECTORS)

    count = summed(np.ones_like(mean))
    safe = np.maximum(count, 1e-12)
    independent = max(1.0, image.numel() / tile**2) * float(usual.float().mean())
    return PolarSpectrum(summed(mean) / safe, summed(x * x + y * y) / safe, summed(x * x - y * y) / safe,
                         summed(x * y) / safe, count, independent)
