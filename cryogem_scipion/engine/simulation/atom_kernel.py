# SPDX-License-Identifier: GPL-3.0-or-later
"""The compiled loop that puts atoms, each a sum of Gaussians, on a grid; ``structure`` says why."""
import math
from typing import Any

import numba
import numpy as np

__all__ = ["add_gaussians"]


@numba.njit(cache=True, nogil=True)
def add_gaussians(places: Any, heights: Any, sigmas: Any, cutoff: Any, grid: Any) -> None:
    """Add isotropic Gaussians to a periodic cube; all lengths in voxels.

    Parameters
    ----------
    places
        ``[n, 3]``, (x, y, z) from the voxel at index 0.
    heights, sigmas
        ``[n, terms]``: value at the centre, and standard deviation, of each term of each atom.
    cutoff
        Deviations after which a term counts as zero.
    grid
        ``[z, y, x]``, float32; added to in place.
    """
    size = grid.shape[0]
    reach = math.ceil(cutoff * sigmas.max()) + 1 if sigmas.size else 0
    profiles = np.empty((3, 2 * reach + 1))
    wrapped = np.empty((3, 2 * reach + 1), np.int64)
    for n in range(len(places)):
        for term in range(sigmas.shape[1]):
            sigma, height = sigmas[n, term], heights[n, term]
            if height == 0:
                continue
            around = min(math.ceil(cutoff * sigma), reach)
            for axis in range(3):
                first = math.floor(places[n, axis] + 0.5) - around
                for step in range(2 * around + 1):
                    distance = (first + step - places[n, axis]) / sigma
                    profiles[axis, step] = math.exp(-0.5 * distance * distance)
                    wrapped[axis, step] = (first + step) % size
            for k in range(2 * around + 1):
                plane = grid[wrapped[2, k]]
                for j in range(2 * around + 1):
                    row, factor = plane[wrapped[1, j]], np.float32(height * profiles[2, k] * profiles[1, j])
                    for i in range(2 * around + 1):
                        row[wrapped[0, i]] += factor * np.float32(profiles[0, i])
