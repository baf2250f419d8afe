# SPDX-License-Identifier: GPL-3.0-or-later
"""The compiled loop that adds atoms, each a sum of Gaussians, to a grid; ``atomic_model`` explains the method."""
import math
from typing import Any

import numba
import numpy as np

__all__ = ["add_gaussians"]


@numba.njit(cache=True, nogil=True)
def add_gaussians(positions: Any, heights: Any, sigmas: Any, cutoff: Any, grid: Any) -> None:
    """Add isotropic Gaussians to a periodic cube, in place; all lengths are voxels.

    Parameters
    ----------
    positions
        ``[n, 3]``, (x, y, z), counted from the voxel at index 0.
    heights, sigmas
        ``[n, terms]``: value at the centre, and standard deviation, of each Gaussian of each atom.
    cutoff
        Number of standard deviations at which a Gaussian ends.
    grid
        ``[z, y, x]``, float32, cubic; the Gaussians are added to it.
    """
    size = grid.shape[0]
    max_half_width = math.ceil(cutoff * sigmas.max()) + 1 if sigmas.size else 0
    profiles = np.empty((3, 2 * max_half_width + 1))
    wrapped = np.empty((3, 2 * max_half_width + 1), np.int64)
    for n in range(len(positions)):
        for term in range(sigmas.shape[1]):
            sigma, height = sigmas[n, term], heights[n, term]
            if height == 0:
                continue
            half_width = min(math.ceil(cutoff * sigma), max_half_width)
            for axis in range(3):
                first = math.floor(positions[n, axis] + 0.5) - half_width
                for step in range(2 * half_width + 1):
                    distance = (first + step - positions[n, axis]) / sigma
                    profiles[axis, step] = math.exp(-0.5 * distance * distance)
                    wrapped[axis, step] = (first + step) % size
            for k in range(2 * half_width + 1):
                plane = grid[wrapped[2, k]]
                for j in range(2 * half_width + 1):
                    row, factor = plane[wrapped[1, j]], np.float32(height * profiles[2, k] * profiles[1, j])
                    for i in range(2 * half_width + 1):
                        row[wrapped[0, i]] += factor * np.float32(profiles[0, i])
