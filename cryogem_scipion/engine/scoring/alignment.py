# SPDX-License-Identifier: GPL-3.0-or-later
"""How a refined map is turned, moved and mirrored against the true one, from the poses of the same particles alone.

With A of a particle in the true map and S an operator of its symmetry, the same image is seen of a map turned by Q at
A S Qᵀ, and of the mirrored map (V(-r)) at D A S Qᵀ with D = diag(-1, -1, 1): mirroring the map along the axis of view
leaves the projection as it is.
"""
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

__all__ = ["Alignment", "align", "angles_of", "map_shift", "uniform_errors"]

HALF_TURN = np.diag([-1.0, -1.0, 1.0])
# Errors beyond this (degrees) say nothing more about the alignment: such particles are lost.
LOST = 40.0
# Particles whose own difference is tried as the map's turn, that each trial is judged by, that refine the best.
TRIALS, JUDGES, REFINERS = 100, 500, 5000
CHUNK = 10_000


@dataclass(frozen=True)
class Alignment:
    """The refined map against the true one."""

    turn: NDArray[np.float64]
    """Q (3, 3)."""
    mirrored: bool
    errors: NDArray[np.float64]
    """Of each particle after it (n,), degrees, modulo symmetry."""
    expected: NDArray[np.float64]
    """The true poses in the refined map's frame, of the symmetric copy that is nearest (n, 3, 3)."""


def align(found: NDArray[np.float64], truth: NDArray[np.float64], group: NDArray[np.float64], *, turn: bool = True,
          hand: bool = True) -> Alignment:
    """Estimate the map's turn and hand, robustly: half of the particles may be lost.

    Each of some particles proposes its own difference as the turn; the proposal with the smallest mean error, cut off
    at 40°, is refined by weighted means in which a particle counts the less the larger its error is. Hands are
    compared by the same mean.

    Parameters
    ----------
    found, truth
        RELION's A of the same particles (n, 3, 3), n above 0.
    group
        Operators of the symmetry (g, 3, 3), the identity first.
    turn, hand
        Whether to look for them; without ``turn`` the frames are taken for the same.
    """
    aligned = [_aligned(found, HALF_TURN @ truth if mirrored else truth, group, turn, mirrored)
               for mirrored in ([False, True] if turn and hand else [False])]
    return min(aligned, key=lambda one: _lost_mean(one.errors))


def angles_of(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angles of rotations (..., 3, 3) in degrees."""
    # From sine and cosine: the cosine alone loses small angles to rounding.
    m = matrices
    sine = np.sqrt((m[..., 2, 1] - m[..., 1, 2]) ** 2 + (m[..., 0, 2] - m[..., 2, 0]) ** 2
                   + (m[..., 1, 0] - m[..., 0, 1]) ** 2)
    return np.asarray(np.degrees(np.arctan2(sine, np.trace(m, axis1=-2, axis2=-1) - 1)))


def map_shift(offsets: NDArray[np.float64], truth: NDArray[np.float64],
              group: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimate the point of the true map (x, y, z) that the refined map has its origin at.

    Parameters
    ----------
    offsets
        Refined less true centre of each particle (n, 2).
    truth
        RELION's A (n, 3, 3).
    group
        Operators of the symmetry; the point lies on every axis of it.

    Returns
    -------
    In the unit of the offsets; least absolute deviations.
    """
    strength, axes = np.linalg.eigh(group.mean(0))
    free = axes[:, strength > 0.5]
    if not free.shape[1]:
        return np.zeros(3)
    design = truth[:, :2] @ free
    weights = np.ones(len(offsets))
    for _ in range(30):
        rows = np.sqrt(weights)[:, None, None]
        solution = np.linalg.lstsq((design * rows).reshape(-1, free.shape[1]), (offsets * rows[..., 0]).ravel(),
                                   rcond=1e-9)[0]
        weights = 1 / np.maximum(np.linalg.norm(offsets - design @ solution, axis=1), 0.1)
    return np.asarray(free @ solution)


def uniform_errors(group: NDArray[np.float64], count: int = 20000) -> NDArray[np.float64]:
    """Return the errors (degrees, sorted) of poses that know nothing: uniform on SO(3), modulo symmetry."""
    drawn = Rotation.random(count, random_state=0).as_matrix()
    return np.sort(_nearest(drawn, group, np.eye(3)[None])[0][0])


def _aligned(found: NDArray[np.float64], truth: NDArray[np.float64], group: NDArray[np.float64], turn: bool,
             mirrored: bool) -> Alignment:
    differences = np.swapaxes(found, 1, 2) @ truth
    best = np.eye(3)
    if turn:
        judges = differences[_evenly(len(differences), JUDGES)]
        trials = differences[_evenly(len(differences), TRIALS)]
        means = [_lost_mean(errors) for errors in _nearest(judges, group, trials)[0]]
        best = _refined(differences[_evenly(len(differences), REFINERS)], group, trials[int(np.argmin(means))])
    copies = np.concatenate([_nearest(differences[start:start + CHUNK], group, best[None])[1][0]
                             for start in range(0, len(differences), CHUNK)])
    expected = truth @ group[copies] @ best.T
    return Alignment(best, mirrored, angles_of(found @ np.swapaxes(expected, 1, 2)), expected)


def _nearest(differences: NDArray[np.float64], group: NDArray[np.float64], turns: NDArray[np.float64]) -> tuple[
        NDArray[np.float64], NDArray[np.int64]]:
    """Errors (k, n) of particles at each of k turns, and the operators (k, n) that make them smallest."""
    copies = (differences[:, None] @ group).reshape(-1, 9)
    errors = np.empty((len(turns), len(differences)))
    operators = np.empty((len(turns), len(differences)), int)
    for number, turn in enumerate(turns):
        traces = (copies @ turn.ravel()).reshape(len(differences), len(group))
        operators[number] = traces.argmax(1)
        errors[number] = np.degrees(np.arccos(np.clip((traces.max(1) - 1) / 2, -1, 1)))
    return errors, operators


def _refined(differences: NDArray[np.float64], group: NDArray[np.float64], turn: NDArray[np.float64]) -> NDArray[
        np.float64]:
    """The turn that makes the sum of errors smallest, lost particles left out, from a start near it."""
    for _ in range(30):
        errors, operators = _nearest(differences, group, turn[None])
        weights = np.where(errors[0] < LOST, 1 / np.maximum(errors[0], 0.1), 0.0)
        if not weights.any():
            return turn
        mean = np.einsum("n,nij->ij", weights, differences @ group[operators[0]])
        left, _, right = np.linalg.svd(mean)
        turn = np.asarray(left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right)
    return turn


def _lost_mean(errors: NDArray[np.float64]) -> float:
    return float(np.minimum(errors, LOST).mean())


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
