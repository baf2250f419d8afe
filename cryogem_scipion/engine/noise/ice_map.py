# SPDX-License-Identifier: GPL-3.0-or-later
"""The ice of real micrographs: its low-frequency transmission, and the noise of the background.

The micrograph is averaged in bins and a smooth surface is fitted to them: cubic B-splines with a penalty on their
second differences (doi:10.1214/ss/1038425655). The surface follows even slopes up to the border and bridges gaps.
Particles
only darken. So bins far below the surface get a low weight in the fit; bins above the surface do not. Regions with a
sharp edge (carbon, contaminants) are left out; the surface continues below them.
"""
import math
from functools import lru_cache

import numba
import numpy as np
import scipy.linalg
import scipy.ndimage
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from cryogem_scipion.engine.compute.robust import NORMAL_DEVIATION
from cryogem_scipion.engine.errors import DataError, SettingsError

__all__ = ["background_deviation", "ice_map", "upsample_ice"]

Array = NDArray[np.float64]

MIN_EDGE = 16  # smallest side in pixels of a micrograph whose ice can be measured
BINS = 96  # along the shorter side: fine enough to resolve particles, coarse enough to average noise
MAX_SPLINES = 600  # about the largest number of unknowns of one fit; a long field gets a coarser surface
BENDING = 0.035  # typical change of slope between neighbouring splines: the prior of the fit
CLIP = 6.0  # standard deviations at which a pixel is clipped
# An edge of carbon or of a contaminant: its change of transmission over four bins exceeds both limits.
MIN_EDGE_STEP, MIN_RELATIVE_EDGE_STEP = 0.045, 6.0  # absolute, and relative to the median change
MIN_ICE_SHARE = 0.1  # share of the field that a region between edges needs to count as ice
CUTS = (6.0, 4.0, 3.5, 3.0, 3.0)  # for each fit: bins further below the surface have no weight (standard deviations)


def ice_map(micrograph: Float[Tensor, "y x"], scale: float = 1 / 16) -> Float[Tensor, "gy gx"]:
    """Return the smooth low-frequency transmission of a real micrograph.

    Parameters
    ----------
    micrograph
        Grey values proportional to the dose; their median is positive.
    scale
        Distance of the splines as a fraction of the shorter side; about the size of the smallest detail.

    Returns
    -------
    Grid with two cells per spline distance and median 1; values belong to the centres of the cells.

    Raises
    ------
    DataError
        The micrograph has a side below 16 pixels, values that are not finite or no positive median.
    SettingsError
        The scale is not between 0.01 and 1.
    """
    if not 0.01 <= scale <= 1:
        raise SettingsError(f"scale of the ice map is {scale}; give a fraction from 0.01 to 1")
    pixels, typical, spread = _pixels(micrograph)
    binned = _binned(pixels, typical - CLIP * spread, typical + CLIP * spread) / typical
    spacing = max(scale * min(binned.shape), 4.0, math.sqrt(binned.size / MAX_SPLINES))
    surface = _Surface(binned.shape, pixels.shape, spacing, min(max(_bin_noise(binned) / BENDING, 0.01), 1) ** 2)
    good = ~_sharp_regions(binned)
    coefficients = surface.fit(binned, good.astype(np.float64))
    for cut in CUTS:
        residual = binned - surface.at_bins(coefficients)
        weights = good * _weights(residual / _upper_deviation(residual[good]), cut)
        coefficients = surface.fit(binned, weights)
    fitted = surface.at_bins(coefficients)[good]
    grid = surface.at_cells(coefficients, [max(2, round(2 * bins / spacing)) for bins in binned.shape])
    grid = np.clip(grid, 0.98 * fitted.min(), 1.02 * fitted.max())
    return torch.from_numpy(grid / np.median(grid)).to(micrograph)


def upsample_ice(grid: Float[Tensor, "gy gx"], shape: tuple[int, int]) -> Float[Tensor, "y x"]:
    """Return the ice map interpolated to a micrograph's pixels by natural cubic splines.

    Raises
    ------
    SettingsError
        The grid has fewer than 2 cells a side, or the image has no pixels.
    """
    if min(shape) < 1 or min(grid.shape) < 2:
        size = tuple(grid.shape)
        raise SettingsError(f"ice map is {size} cells for an image of {shape} pixels; give 2 cells or more")
    rows = torch.from_numpy(_interpolation(grid.shape[0], shape[0])).to(grid)
    columns = torch.from_numpy(_interpolation(grid.shape[1], shape[1])).to(grid)
    return rows @ grid @ columns.T


def background_deviation(micrograph: Float[Tensor, "y x"], ice: Float[Tensor, "gy gx"]) -> float:
    """Return σ_n: the background's standard deviation divided by its mean.

    Ice, particles, contaminants and hot pixels are left out.

    Parameters
    ----------
    micrograph
        Grey values proportional to the dose.
    ice
        Result of ``ice_map`` for this micrograph.

    Returns
    -------
    σ_n, the noise that is added to ice · (1 − s).

    Raises
    ------
    DataError
        As for ``ice_map``; also when no background is left.
    """
    pixels, typical, spread = _pixels(micrograph)
    grid = ice.detach().cpu().to(torch.float32)
    transmission = upsample_ice(grid, (pixels.shape[0], pixels.shape[1])).numpy()
    low, high = typical - CLIP * spread, typical + CLIP * spread
    ratio = _binned(pixels, low, high) / _binned(transmission, -math.inf, math.inf)
    background = np.ones(ratio.shape, bool)
    for _ in range(4):
        level = float(np.median(ratio[background]))
        deviation = level * _upper_deviation(ratio[background] / level - 1)
        background = (ratio > level - 2.5 * deviation) & (ratio < level + 4 * deviation)
        if not background.any():
            raise DataError("micrograph has no background left after the ice is divided out; leave it out")
    rows, columns = (_edges(size, bins) for size, bins in zip(pixels.shape, background.shape, strict=True))
    count, total, squares = _moments(pixels, transmission, level, CLIP * spread, background, rows, columns)
    if count < 2:
        raise DataError("micrograph has no background left after the ice is divided out; leave it out")
    return math.sqrt(max(squares / count - (total / count) ** 2, 0.0)) / level


def _pixels(micrograph: Float[Tensor, "y x"]) -> tuple[NDArray[np.float32], float, float]:
    """Checked pixels, and median and robust standard deviation of an even sample of them."""
    pixels = micrograph.detach().cpu().to(torch.float32).contiguous().numpy()
    if min(pixels.shape) < MIN_EDGE:
        raise DataError(f"micrograph has {pixels.shape} pixels; the ice map needs at least {MIN_EDGE} on each side")
    if not np.isfinite(pixels.sum(dtype=np.float64)):
        raise DataError("micrograph holds values that are not finite; leave it out")
    sample = pixels.ravel()[:: max(1, pixels.size // 100_000) | 1]
    typical = float(np.median(sample))
    if typical <= 0:
        raise DataError(f"the median of the micrograph is {typical:g}, so its ice map cannot be measured; turn the ice "
                        "map off")
    return pixels, typical, NORMAL_DEVIATION * float(np.median(np.abs(sample - typical)))


def _edges(size: int, bins: int) -> NDArray[np.int64]:
    return np.asarray(np.round(np.linspace(0, size, bins + 1)), np.int64)


def _binned(pixels: NDArray[np.float32], low: float, high: float) -> Array:
    """Means of the pixels, clipped to the range, in nearly square bins that cover the whole field."""
    step = max(1.0, min(pixels.shape) / BINS)
    rows, columns = (_edges(size, max(1, round(size / step))) for size in pixels.shape)
    out = np.empty((rows.size - 1, columns.size - 1), np.float64)
    _bin_kernel(pixels, low, high, rows, columns, out)
    return out


@numba.njit(cache=True, nogil=True)
def _bin_kernel(pixels, low, high, rows, columns, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total = 0.0
            for y in range(rows[i], rows[i + 1]):
                for x in range(columns[j], columns[j + 1]):
                    total += min(max(pixels[y, x], low), high)
            out[i, j] = total / ((rows[i + 1] - rows[i]) * (columns[j + 1] - columns[j]))


@numba.njit(cache=True, nogil=True)
def _moments(pixels, transmission, level, limit, background, rows, columns):  # type: ignore[no-untyped-def]
    """Count, sum and sum of squares of pixel − level · transmission in the background bins."""
    count, total, squares = 0, 0.0, 0.0
    for i in range(background.shape[0]):
        for j in range(background.shape[1]):
            if background[i, j]:
                for y in range(rows[i], rows[i + 1]):
                    for x in range(columns[j], columns[j + 1]):
                        value = pixels[y, x] - level * transmission[y, x]
                        if abs(value) < limit:
                            count += 1
                            total += value
                            squares += value * value
    return count, total, squares


def _bin_noise(binned: Array) -> float:
    """Standard deviation of the bins' noise, from differences of neighbours, in which the smooth ice cancels."""
    return NORMAL_DEVIATION * float(np.median(np.abs(np.diff(binned, axis=1)))) / math.sqrt(2)


def _upper_deviation(residual: Array) -> float:
    """Standard deviation of the residuals, from those above zero, because particles lie below zero."""
    above = residual[residual > 0]
    return max(float(np.quantile(above, 0.6827)), 1e-6) if above.size else 1e-6


def _weights(residual: Array, cut: float) -> Array:
    """Weights: 1 above the surface, falling to 0 at ``cut`` deviations below it.

    Source: doi:10.1080/00401706.1974.10489171.
    """
    return np.where(residual < 0, (1 - np.minimum(residual / cut, 1) ** 2).clip(0) ** 2, residual < cut + 2)


def _sharp_regions(binned: Array) -> NDArray[np.bool_]:
    """Regions that sharp edges separate from the ice: contaminants, and carbon on one side of the field.

    The ice is the brightest large region between the edges, and all regions that are as bright as the darkest parts of
    that region.
    """
    smooth = scipy.ndimage.gaussian_filter(binned, 1.5, mode="nearest")
    slopes = [scipy.ndimage.correlate1d(smooth, [-1, 0, 0, 0, 1], axis=axis, mode="nearest") for axis in (0, 1)]
    steep = np.hypot(*slopes)
    edges = steep > max(MIN_EDGE_STEP, MIN_RELATIVE_EDGE_STEP * float(np.median(steep)))
    labels, count = scipy.ndimage.label(~edges)
    if count < 2:
        return np.asarray(edges)
    levels = np.asarray(scipy.ndimage.median(smooth, labels, np.arange(1, count + 1)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    main = int(np.argmax(np.where(areas >= max(MIN_ICE_SHARE * binned.size, areas.max() * MIN_ICE_SHARE),
                                  levels, -np.inf)))
    ice = levels >= np.quantile(smooth[labels == main + 1], 0.02)
    dark = ~np.concatenate([[True], ice])[labels]
    return np.asarray(edges | scipy.ndimage.binary_dilation(dark, iterations=3))


class _Surface:
    """Penalised cubic B-splines over a field of bins, fitted by weighted least squares.

    The bins are summed along one axis and then along the other (doi:10.1016/j.csda.2004.07.008), and only for splines
    that overlap. So the normal matrix is banded, and a fit takes milliseconds.
    """

    def __init__(self, bins: tuple[int, ...], pixels: tuple[int, ...], spacing: float, stiffness: float) -> None:
        self.intervals = [max(1, round(size / spacing)) for size in bins]
        edges = [_edges(size, number) / size for size, number in zip(pixels, bins, strict=True)]
        self.bases = [_splines((e[1:] + e[:-1]) / 2, k) for e, k in zip(edges, self.intervals, strict=True)]
        self.products = [_products(self.bases[0], range(4)), _products(self.bases[1], range(-3, 4))]
        p, q = (basis.shape[1] for basis in self.bases)
        bends = [np.diff(np.eye(size), n=2, axis=0) for size in (p, q)]
        penalty = np.zeros((4, p, 7, q))
        for away in range(3):
            for axis, bend in enumerate(bends):
                band = np.diagonal(bend.T @ bend, away)
                if axis == 0:
                    penalty[away, : band.size, 3] += band[:, None]
                else:
                    penalty[0, :, 3 + away, : band.size] += band
        penalty[0, :, 3] += 1e-9  # a weak ridge, for fields without any weight
        self.penalty = stiffness * bins[0] * bins[1] / (p * q) * penalty

    def fit(self, values: Array, weights: Array) -> Array:
        """Coefficients (rows, columns) of the surface nearest to the values."""
        p, q = (basis.shape[1] for basis in self.bases)
        normal = (self.products[0].T @ weights @ self.products[1]).reshape(4, p, 7, q) + self.penalty
        banded = np.zeros((3 * q + 4, p, q))
        for down in range(4):
            for right in range(-3 if down else 0, 4):
                banded[down * q + right] += normal[down, :, right + 3]
        target = self.bases[0].T @ (weights * values) @ self.bases[1]
        solution = scipy.linalg.solveh_banded(banded.reshape(-1, p * q), target.ravel(), lower=True, check_finite=False)
        return np.asarray(solution, np.float64).reshape(p, q)

    def at_bins(self, coefficients: Array) -> Array:
        return self.bases[0] @ coefficients @ self.bases[1].T

    def at_cells(self, coefficients: Array, cells: list[int]) -> Array:
        rows, columns = (_splines((np.arange(n) + 0.5) / n, k) for n, k in zip(cells, self.intervals, strict=True))
        return rows @ coefficients @ columns.T


def _products(basis: Array, shifts: range) -> Array:
    """Products of each spline with its neighbours: one row a bin, the columns (shift, spline)."""
    padded = np.pad(basis, ((0, 0), (3, 3)))
    size = basis.shape[1]
    return np.concatenate([basis * padded[:, 3 + shift : 3 + shift + size] for shift in shifts], axis=1)


def _splines(positions: Array, intervals: int) -> Array:
    """Cubic B-splines on equal intervals of [0, 1]: one row a position, intervals + 3 columns."""
    t = np.abs(positions[:, None] * intervals - np.arange(-1, intervals + 2))
    return np.where(t < 1, 2 / 3 - t * t + 0.5 * t**3, np.maximum(2 - t, 0) ** 3 / 6)


@lru_cache(maxsize=32)
def _interpolation(cells: int, size: int) -> Array:
    """Matrix from values at the cells' centres to pixels; linear beyond the outermost centres."""
    middles = (np.arange(cells) + 0.5) / cells
    pixels = (np.arange(size) + 0.5) / size
    spline = CubicSpline(middles, np.eye(cells), bc_type="natural")
    within = np.clip(pixels, middles[0], middles[-1])
    return np.asarray(spline(within) + (pixels - within)[:, None] * spline(within, 1), np.float64)
