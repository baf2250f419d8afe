# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotation, shift and hand of a refined map relative to the true map, from the poses of the same particles.

Let A be a particle's rotation matrix in the true map, and S an operator of the map's symmetry. In a map that is rotated
by Q, the same image has the rotation matrix A S Qᵀ. In the mirrored map V(-r), it has D A S Qᵀ with
D = diag(-1, -1, 1), because a mirror along the viewing direction does not change the projection.
"""
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

__all__ = ["Alignment", "align", "map_shift", "random_pose_errors", "rotation_angles"]

HALF_TURN = np.diag([-1.0, -1.0, 1.0])
# Larger errors (degrees) tell nothing about the alignment. They count as this value.
MAX_ERROR_DEGREES = 40.0
# Numbers of particles that propose a rotation, that score the proposals, and that refine the best proposal.
PROPOSALS, SCORED, REFINED = 100, 500, 5000
CHUNK = 10_000


@dataclass(frozen=True)
class Alignment:
    """Alignment of the refined map to the true map."""

    rotation: NDArray[np.float64]
    """Rotation Q of the refined map (3, 3)."""
    mirrored: bool
    """Whether the refined map has the other hand."""
    errors_degrees: NDArray[np.float64]
    """Angular error of each particle after the alignment (n,), degrees, modulo symmetry."""
    true_rotations: NDArray[np.float64]
    """True rotation matrices in the frame of the refined map (n, 3, 3), each of the nearest symmetric copy."""


def align(refined: NDArray[np.float64], truth: NDArray[np.float64], operators: NDArray[np.float64], *,
          fit_rotation: bool = True, fit_hand: bool = True) -> Alignment:
    """Estimate the rotation and the hand of the refined map; up to half of the poses may be wrong.

    Some particles each propose their own difference as the rotation. The proposal with the smallest mean error (errors
    above 40° count as 40°) is refined by weighted means; a particle with a larger error has a smaller weight. The hand
    with the smaller mean error is taken.

    Parameters
    ----------
    refined, truth
        RELION's rotation matrices A of the same particles (n, 3, 3), n above 0.
    operators
        Operators of the symmetry group (g, 3, 3), the identity first.
    fit_rotation
        Estimate the rotation; if false, both maps are assumed to have the same frame and the same hand.
    fit_hand
        Also try the mirrored map; has no effect without ``fit_rotation``.
    """
    alignments = [_align_hand(refined, HALF_TURN @ truth if mirrored else truth, operators, fit_rotation, mirrored)
                  for mirrored in ([False, True] if fit_rotation and fit_hand else [False])]
    return min(alignments, key=lambda alignment: _capped_mean(alignment.errors_degrees))


def rotation_angles(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angle of each rotation matrix (..., 3, 3), in degrees."""
    # From sine and cosine, because the cosine alone loses small angles to rounding.
    m = matrices
    sine = np.sqrt((m[..., 2, 1] - m[..., 1, 2]) ** 2 + (m[..., 0, 2] - m[..., 2, 0]) ** 2
                   + (m[..., 1, 0] - m[..., 0, 1]) ** 2)
    return np.asarray(np.degrees(np.arctan2(sine, np.trace(m, axis1=-2, axis2=-1) - 1)))


def map_shift(offsets: NDArray[np.float64], truth: NDArray[np.float64],
              operators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimate the position (x, y, z) of the refined map's origin in the true map, by least absolute deviations.

    Parameters
    ----------
    offsets
        Refined minus true centre (x, y) of each particle (n, 2).
    truth
        RELION's rotation matrices A of the particles in the true map (n, 3, 3).
    operators
        Operators of the symmetry group (g, 3, 3); the position lies on all its axes.

    Returns
    -------
    The position (3,), in the unit of the offsets.
    """
    eigenvalues, axes = np.linalg.eigh(operators.mean(0))
    free_axes = axes[:, eigenvalues > 0.5]
    if not free_axes.shape[1]:
        return np.zeros(3)
    design = truth[:, :2] @ free_axes
    weights = np.ones(len(offsets))
    for _ in range(30):
        rows = np.sqrt(weights)[:, None, None]
        solution = np.linalg.lstsq((design * rows).reshape(-1, free_axes.shape[1]), (offsets * rows[..., 0]).ravel(),
                                   rcond=1e-9)[0]
        weights = 1 / np.maximum(np.linalg.norm(offsets - design @ solution, axis=1), 0.1)
    return np.asarray(free_axes @ solution)


def random_pose_errors(operators: NDArray[np.float64], count: int = 20000) -> NDArray[np.float64]:
    """Return the errors of random poses, uniform on SO(3): the errors by chance.

    Parameters
    ----------
    operators
        Operators of the symmetry group (g, 3, 3), the identity first.
    count
        Number of random poses.

    Returns
    -------
    Angular errors (count,), degrees, modulo symmetry, sorted; the same at each call.
    """
    rotations = Rotation.random(count, random_state=0).as_matrix()
    return np.sort(_nearest_copies(rotations, operators, np.eye(3)[None])[0][0])


def _align_hand(refined: NDArray[np.float64], truth: NDArray[np.float64], operators: NDArray[np.float64],
                fit_rotation: bool, mirrored: bool) -> Alignment:
    """Alignment to the true poses of one hand."""
    differences = np.swapaxes(refined, 1, 2) @ truth
    rotation = np.eye(3)
    if fit_rotation:
        scored = differences[_even_sample(len(differences), SCORED)]
        proposals = differences[_even_sample(len(differences), PROPOSALS)]
        means = [_capped_mean(errors) for errors in _nearest_copies(scored, operators, proposals)[0]]
        rotation = _refine_rotation(differences[_even_sample(len(differences), REFINED)], operators,
                                    proposals[int(np.argmin(means))])
    nearest = np.concatenate([_nearest_copies(differences[start:start + CHUNK], operators, rotation[None])[1][0]
                              for start in range(0, len(differences), CHUNK)])
    true_rotations = truth @ operators[nearest] @ rotation.T
    errors = rotation_angles(refined @ np.swapaxes(true_rotations, 1, 2))
    return Alignment(rotation, mirrored, errors, true_rotations)


def _nearest_copies(differences: NDArray[np.float64], operators: NDArray[np.float64], rotations: NDArray[np.float64]
                    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Errors (k, n) of n particles for each of k rotations, and the operators (k, n) that make them smallest."""
    copies = (differences[:, None] @ operators).reshape(-1, 9)
    errors = np.empty((len(rotations), len(differences)))
    nearest = np.empty((len(rotations), len(differences)), int)
    for number, rotation in enumerate(rotations):
        traces = (copies @ rotation.ravel()).reshape(len(differences), len(operators))
        nearest[number] = traces.argmax(1)
        errors[number] = np.degrees(np.arccos(np.clip((traces.max(1) - 1) / 2, -1, 1)))
    return errors, nearest


def _refine_rotation(differences: NDArray[np.float64], operators: NDArray[np.float64], rotation: NDArray[np.float64]
                     ) -> NDArray[np.float64]:
    """The rotation near the given one that makes the sum of the errors below 40° smallest."""
    for _ in range(30):
        errors, nearest = _nearest_copies(differences, operators, rotation[None])
        weights = np.where(errors[0] < MAX_ERROR_DEGREES, 1 / np.maximum(errors[0], 0.1), 0.0)
        if not weights.any():
            return rotation
        mean = np.einsum("n,nij->ij", weights, differences @ operators[nearest[0]])
        left, _, right = np.linalg.svd(mean)
        rotation = np.asarray(left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right)
    return rotation


def _capped_mean(errors: NDArray[np.float64]) -> float:
    """Mean of errors (degrees) in which those above 40° count as 40°."""
    return float(np.minimum(errors, MAX_ERROR_DEGREES).mean())


def _even_sample(count: int, limit: int) -> NDArray[np.int64]:
    """At most ``limit`` indices below ``count``, evenly spaced."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)
