# SPDX-License-Identifier: GPL-3.0-or-later
"""Random positions of the particles, by random sequential addition with a smallest particle distance.

Centres are (y, x) in pixels; the centre of the first pixel is (0, 0). Each placed centre is stored in the cell of a
grid. The cells are at least as large as the particle distance, so that a new centre has to be compared with those in
nine cells only. If many random positions in a row are too near to placed centres, only the squares that are still free
are searched. They are divided until none is left, so that as many particles are placed as fit.
"""
import math

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.errors import SettingsError

__all__ = ["CLUSTER_REACH", "draw_particle_count", "place_centres"]

MAX_MISSES = 200  # random positions in a row that are not free, before the free squares are searched
NEIGHBOUR_ATTEMPTS = 30  # positions tried near a neighbour, before a clustered centre is placed anywhere
CLUSTER_REACH = 1.15  # largest distance of a clustered centre from its neighbour, in particle distances
MAX_HALVINGS = 24  # halvings of the free squares; more would be below the rounding error


def draw_particle_count(mean: float, sigma: float, generator: torch.Generator) -> int:
    """Draw a number of particles from a normal distribution that is cut at two sigmas; at least 0.

    Parameters
    ----------
    mean, sigma
        Mean and standard deviation of the number of particles per micrograph.
    generator
        Random generator.

    Raises
    ------
    SettingsError
        A number is negative or not finite.
    """
    if not (mean >= 0 and sigma >= 0 and math.isfinite(mean + sigma)):
        raise SettingsError(f"particles per micrograph are {mean} ± {sigma}; give numbers of 0 or more")
    deviation = math.inf
    while abs(deviation) > 2:
        deviation = float(torch.randn(1, generator=generator, dtype=torch.float64))
    return max(0, round(mean + sigma * deviation))


def place_centres(
    count: int,
    shape: tuple[int, int],
    distance: float,
    generator: torch.Generator,
    inset: float = 0.0,
    clusters: float = 0.0,
) -> Float[Tensor, "m 2"]:
    """Place centres at random, with at least ``distance`` between any two.

    Parameters
    ----------
    count
        Number of centres to place.
    shape
        Micrograph size (y, x), pixels.
    distance
        Smallest Euclidean distance between two centres, pixels; 0 allows any overlap.
    generator
        Random generator; it gives one seed.
    inset
        Centres lie in [inset, size − inset), pixels. With half the box size all particles are whole, with 0 the border
        cuts some, and with a negative inset some centres lie outside the micrograph.
    clusters
        Probability, from 0 to 1, that a centre is placed directly beside an earlier one. The others are placed first.

    Returns
    -------
    Sub-pixel (y, x) of the centres, float64, in the order in which they were placed; fewer than ``count`` if not all
    fit.

    Raises
    ------
    SettingsError
        The count or the distance is negative, ``clusters`` is not between 0 and 1, or a value is not finite.
    """
    if count < 0:
        raise SettingsError(f"number of particles is {count}; give 0 or more")
    if not 0 <= distance < math.inf:
        raise SettingsError(f"particle distance is {distance} pixels; give 0 or more")
    if not 0 <= clusters <= 1:
        raise SettingsError(f"degree of clustering is {clusters}; give a number from 0 to 1")
    if not math.isfinite(inset):
        raise SettingsError(f"inset is {inset} pixels; give a finite number")
    seed = int(torch.randint(2**62, (1,), generator=generator))
    size_y, size_x = shape[0] - 2 * inset, shape[1] - 2 * inset
    if count == 0 or size_y <= 0 or size_x <= 0:
        return torch.zeros(0, 2, dtype=torch.float64)
    centres = _place(count, size_y, size_x, float(distance), float(clusters), np.uint64(seed))
    return torch.from_numpy(centres) + inset


@numba.njit(cache=True, nogil=True)
def _uniform(state):  # type: ignore[no-untyped-def]
    """Next number in [0, 1) of the splitmix64 sequence whose state is ``state[0]``."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@numba.njit(cache=True, nogil=True)
def _is_free(y, x, centres, heads, following, cell, distance):  # type: ignore[no-untyped-def]
    """Whether (y, x) is at least ``distance`` away from all placed centres."""
    row, column = int(y / cell), int(x / cell)
    for r in range(max(row - 1, 0), min(row + 2, heads.shape[0])):
        for c in range(max(column - 1, 0), min(column + 2, heads.shape[1])):
            other = heads[r, c]
            while other >= 0:
                dy, dx = centres[other, 0] - y, centres[other, 1] - x
                if dy * dy + dx * dx < distance * distance:
                    return False
                other = following[other]
    return True


@numba.njit(cache=True, nogil=True)
def _add(y, x, placed, centres, heads, following, cell):  # type: ignore[no-untyped-def]
    centres[placed, 0], centres[placed, 1] = y, x
    row, column = int(y / cell), int(x / cell)
    following[placed] = heads[row, column]
    heads[row, column] = placed


@numba.njit(cache=True, nogil=True)
def _is_covered(y, x, side, centres, heads, following, cell, distance):  # type: ignore[no-untyped-def]
    """Whether one placed centre alone excludes the whole square whose corner is (y, x)."""
    middle_y, middle_x = y + 0.5 * side, x + 0.5 * side
    row, column = int(middle_y / cell), int(middle_x / cell)
    for r in range(max(row - 1, 0), min(row + 2, heads.shape[0])):
        for c in range(max(column - 1, 0), min(column + 2, heads.shape[1])):
            other = heads[r, c]
            while other >= 0:
                dy = abs(centres[other, 0] - middle_y) + 0.5 * side
                dx = abs(centres[other, 1] - middle_x) + 0.5 * side
                if dy * dy + dx * dx < distance * distance:
                    return True
                other = following[other]
    return False


@numba.njit(cache=True, nogil=True)
def _place(count, size_y, size_x, distance, clusters, seed):  # type: ignore[no-untyped-def]
    state = np.empty(1, np.uint64)
    state[0] = seed
    centres = np.empty((count, 2), np.float64)
    following = np.full(count, -1, np.int64)
    cell = max(distance, math.sqrt(size_y * size_x / count), max(size_y, size_x) / 4096)
    # A linked list for each cell: heads holds the last centre of the cell, following the centre before each centre.
    heads = np.full((int(size_y / cell) + 1, int(size_x / cell) + 1), -1, np.int64)
    placed = 0
    misses = 0
    alone = max(1, round((1.0 - clusters) * count))  # centres that are placed anywhere, before the others beside them
    while placed < count and misses < MAX_MISSES:
        has_room = False
        y = x = 0.0
        if placed >= alone:
            for _ in range(NEIGHBOUR_ATTEMPTS):
                neighbour = int(_uniform(state) * placed)
                reach = max(distance, 1.0) * math.sqrt(1.0 + _uniform(state) * (CLUSTER_REACH**2 - 1.0))
                angle = 2.0 * math.pi * _uniform(state)
                y = centres[neighbour, 0] + reach * math.sin(angle)
                x = centres[neighbour, 1] + reach * math.cos(angle)
                inside = 0.0 <= y < size_y and 0.0 <= x < size_x
                if inside and _is_free(y, x, centres, heads, following, cell, distance):
                    has_room = True
                    break
        if not has_room:
            y, x = _uniform(state) * size_y, _uniform(state) * size_x
            has_room = _is_free(y, x, centres, heads, following, cell, distance)
        if has_room:
            _add(y, x, placed, centres, heads, following, cell)
            placed += 1
            misses = 0
        else:
            misses += 1
    if placed < count:
        placed = _fill(placed, count, size_y, size_x, distance, state, centres, heads, following, cell)
    return centres[:placed]


@numba.njit(cache=True, nogil=True)
def _fill(  # type: ignore[no-untyped-def]
    placed, count, size_y, size_x, distance, state, centres, heads, following, cell
):
    """Place centres in the squares that are not excluded, and halve these squares, until none is left."""
    side = 0.5 * distance
    rows, columns = int(size_y / side) + 1, int(size_x / side) + 1
    corners = np.empty((rows * columns, 2), np.float64)
    for index in range(rows * columns):
        corners[index, 0], corners[index, 1] = (index // columns) * side, (index % columns) * side
    for _ in range(MAX_HALVINGS):
        active = 0
        for index in range(corners.shape[0]):
            y, x = corners[index, 0], corners[index, 1]
            inside = y < size_y and x < size_x
            if inside and not _is_covered(y, x, side, centres, heads, following, cell, distance):
                corners[active, 0], corners[active, 1] = y, x
                active += 1
        if active == 0:
            break
        for _ in range(active):
            chosen = int(_uniform(state) * active)
            y = corners[chosen, 0] + _uniform(state) * side
            x = corners[chosen, 1] + _uniform(state) * side
            if y < size_y and x < size_x and _is_free(y, x, centres, heads, following, cell, distance):
                _add(y, x, placed, centres, heads, following, cell)
                placed += 1
                if placed == count:
                    return placed
        side *= 0.5
        halves = np.empty((4 * active, 2), np.float64)
        for index in range(active):
            for quarter in range(4):
                halves[4 * index + quarter, 0] = corners[index, 0] + (quarter // 2) * side
                halves[4 * index + quarter, 1] = corners[index, 1] + (quarter % 2) * side
        corners = halves
    return placed
