# SPDX-License-Identifier: GPL-3.0-or-later
"""Ice: the low-frequency transmission of real micrographs, and the deviation of their background."""
import math

import numpy as np
import scipy.ndimage
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.errors import DataError, SettingsError

__all__ = ["background_deviation", "ice_map", "upsample_ice"]


def _bins(image: NDArray[np.float32], bins: int) -> NDArray[np.float32]:
    step = max(1, min(image.shape) // bins)
    rows, columns = image.shape[0] // step, image.shape[1] // step
    tiles = image[: rows * step, : columns * step].reshape(rows, step, columns, step)
    return np.asarray(tiles.mean((1, 3)), np.float32)


def ice_map(micrograph: Float[Tensor, "y x"], cells: int = 32) -> Float[Tensor, "gy gx"]:
    """Smooth low-frequency transmission whose typical value is 1."""
    image = micrograph.detach().cpu().to(torch.float32).numpy()
    if not np.isfinite(image).all() or image.min() == image.max():
        raise DataError("micrograph holds one value only or values that are not finite; leave it out")
    typical = float(np.median(image))
    if typical <= 0:
        raise DataError(f"micrograph has median {typical:g}: no transmission to measure; turn the ice map off")
    spread = 1.4826 * float(np.median(np.abs(image - typical)))
    clipped = np.clip(image, typical - 6 * spread, typical + 6 * spread) / typical
    binned = _bins(clipped, 4 * cells)
    weight = np.ones_like(binned)
    width = 0.05 * min(binned.shape)
    surface = binned
    for _ in range(6):
        total = scipy.ndimage.gaussian_filter(weight, width, mode="nearest")
        surface = scipy.ndimage.gaussian_filter(weight * binned, width, mode="nearest") / np.maximum(total, 1e-6)
        residual = binned - surface
        deviation = 1.4826 * np.median(np.abs(residual[residual > 0])) + 1e-9
        weight = (residual > -2 * deviation).astype(binned.dtype)
    step = max(1, min(binned.shape) // cells)
    grid = surface[step // 2 :: step, step // 2 :: step]
    return torch.from_numpy(grid / np.median(grid)).to(micrograph)


def upsample_ice(grid: Float[Tensor, "gy gx"], shape: tuple[int, int]) -> Float[Tensor, "y x"]:
    """Ice map at the size of a micrograph."""
    if min(shape) < 1:
        raise SettingsError(f"image size is {shape}; give at least one pixel a side")
    return torch.nn.functional.interpolate(grid[None, None], size=shape, mode="bicubic", align_corners=False)[0, 0]


def background_deviation(micrograph: Float[Tensor, "y x"], ice: Float[Tensor, "gy gx"]) -> float:
    """Standard deviation of the background over its mean, after the ice is divided out."""
    flat = micrograph / upsample_ice(ice, (micrograph.shape[0], micrograph.shape[1])).to(micrograph)
    typical = float(flat.median())
    spread = 1.4826 * float((flat - typical).abs().median())
    kept = flat[(flat - typical).abs() < 4 * spread]
    result = float(kept.to(torch.float64).std()) / typical
    if not math.isfinite(result):
        raise DataError("micrograph has no background to measure; leave it out")
    return result
