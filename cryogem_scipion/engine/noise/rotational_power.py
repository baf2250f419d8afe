# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotational means of power spectra with their statistical errors, and of the rings that the CTF makes in them."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.compute.robust import NORMAL_DEVIATION
from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.spectrum import TILE, tile_periodograms

__all__ = ["LOSS", "RotationalPower", "chance_error", "rotational_power", "seen_modulation", "tile_edge"]

DIAMETERS = 4
"""Diameters of a particle that a tile holds at least: then the tile's window does not smear the particles' rings."""
LARGEST_TILE = 512
UNUSUAL = 3.5
"""Robust standard deviations from which the power of a tile is unusual: carbon, crystals, aggregates."""
WINDOW_WIDTH = 0.72
"""Standard deviation of a Hann window's power response, in frequency steps of its tile."""
LOSS = 1.75
"""Factor on the variance of a rotational mean. The Hann window uses the image unevenly (1.17 with half overlap,
doi:10.1109/TAU.1967.1161901), and neighbouring frequencies are correlated by it (1.5)."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RotationalPower:
    """Mean power spectrum of several images, at the frequencies 0, 1/n, 2/n … below 1/2 for tiles of n pixels."""

    frequency: Array
    """Cycles a pixel."""
    power: Array
    """White noise has its variance as power."""
    relative_error: Array
    """Standard error of the power by chance, as a fraction of it."""


def tile_edge(diameter_pixels: float, shapes: Sequence[tuple[int, int]]) -> int:
    """Return the edge in pixels of tiles that hold a few particles, for images of these ``shapes``."""
    wanted = 1 << max(0, math.ceil(math.log2(DIAMETERS * max(diameter_pixels, 1.0))))
    largest = 1 << ((min(min(shape) for shape in shapes) // 2).bit_length() - 1)
    return max(TILE, min(wanted, largest, LARGEST_TILE))


def rotational_power(images: Sequence[Float[Tensor, "_ _"]], edge: int, usual_only: bool) -> RotationalPower:
    """Return the mean power spectrum of images.

    Parameters
    ----------
    edge
        Of the tiles, pixels.
    usual_only
        Whether tiles with unusual power are left out, as those of contaminants.
    """
    def mean(image: Float[Tensor, "y x"]) -> tuple[Array, float]:
        curves = _tile_curves(image, edge)
        kept = _usual(curves) if usual_only else np.ones(len(curves), bool)
        return curves[kept].mean(0), float(kept.mean()) * image.numel()

    means = parallel_map(mean, images)
    return RotationalPower(np.arange(edge // 2) / edge, np.mean([curve for curve, _ in means], axis=0),
                           chance_error(edge, sum(pixels for _, pixels in means)))


def chance_error(edge: int, pixels: float) -> Array:
    """Return the relative standard error of a rotational mean over images with this number of pixels in all.

    Parameters
    ----------
    edge
        Of the tiles, pixels.
    """
    # A ring of one step holds π · ring / n² independent coefficients for each pixel.
    coefficients = np.pi * np.maximum(np.arange(edge // 2), 1) / edge**2 * pixels / LOSS
    error: Array = 1 / np.sqrt(coefficients)
    return error


def seen_modulation(exposure: Exposure, defoci: Sequence[float], edge: int) -> Array:
    """Return |CTF|², averaged over several defocus values, as power spectra of tiles show it.

    Parameters
    ----------
    exposure
        Gives pixel size and optics; its defocus does not count.
    defoci
        Å.
    edge
        Of the tiles, pixels.
    """
    steps = 16
    half = edge // 2 * steps
    frequency = np.arange(half + 1) / half
    square = np.mean([exposure.at_defocus(defocus).squared_ctf(frequency) for defocus in defoci], axis=0)
    reach = 4 * steps
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (WINDOW_WIDTH * steps)) ** 2)
    seen: Array = np.convolve(np.pad(square, reach, mode="reflect"), kernel / kernel.sum(), "valid")[:-1:steps]
    return seen


def _tile_curves(image: Float[Tensor, "y x"], edge: int) -> Array:
    """Rotational mean of each tile's periodogram."""
    ring, weight, total = _rings(edge)
    powers = tile_periodograms(image, edge).numpy().reshape(-1, len(ring))  # float32; bincount adds in float64
    curves: Array = np.stack([np.bincount(ring, power * weight)[:edge // 2] for power in powers]) / total
    return curves


@lru_cache(maxsize=4)
def _rings(edge: int) -> tuple[NDArray[np.int64], Array, Array]:
    """Ring and weight of each coefficient of a half plane, and the weight of each ring."""
    weight: Array
    total: Array
    ring = np.rint(np.hypot(np.fft.fftfreq(edge)[:, None], np.fft.rfftfreq(edge)) * edge).astype(np.int64)
    weight = np.full(ring.shape, 2.0)
    weight[:, [0, -1]] = 1
    total = np.bincount(ring.ravel(), weight.ravel()).astype(np.float64)[:edge // 2]
    return ring.ravel(), weight.ravel(), total


def _usual(curves: Array) -> NDArray[np.bool_]:
    """Which tiles have the usual power, at low and at all frequencies."""
    rings = np.arange(curves.shape[1])
    whitened = curves / np.maximum(np.median(curves, axis=0), 1e-30)
    usual = np.ones(len(curves), bool)
    for last in (curves.shape[1] // 8, curves.shape[1]):
        used = slice(2, max(last, 4))
        level = np.log(np.maximum(np.average(whitened[:, used], axis=1, weights=rings[used]), 1e-30))
        distance = np.abs(level - np.median(level))
        usual &= distance <= UNUSUAL * NORMAL_DEVIATION * np.median(distance) + 0.02
    return usual
