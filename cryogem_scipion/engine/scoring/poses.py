# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of orientation, shift and defocus of refined particles."""
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryogem_scipion.engine.scoring.alignment import align, map_shift, random_pose_errors, rotation_angles
from cryogem_scipion.engine.scoring.particles import ParticlePoses, pair_particles

__all__ = ["compare_poses"]

ERROR_LIMITS_DEGREES = (2, 5, 10, 20, 30)
"""The report gives the share of particles whose angular error is within each limit."""


def compare_poses(refined: ParticlePoses, truth: ParticlePoses, operators: NDArray[np.float64], alignment: str,
                  radius: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compare refined poses with the true ones.

    Parameters
    ----------
    refined, truth
        Particles of the refinement, and the true ones.
    operators
        Operators of the symmetry group (g, 3, 3), the identity first.
    alignment
        ``full`` aligns rotation and hand of the refined map, ``rotation`` keeps its hand, ``none`` aligns nothing.
    radius
        Centres of the same particle are closer than this, Å.

    Returns
    -------
    The report (angles in degrees, lengths in Å), and for each pair the arrays of indices, errors and true viewing
    direction. Without any pair, the report holds the numbers of particles only, and there are no arrays.

    Raises
    ------
    DataError
        The two sets cannot be paired.
    """
    partner, paired_by = pair_particles(refined, truth, radius)
    refined_rows, true_rows = np.flatnonzero(partner >= 0), partner[partner >= 0]
    report: dict[str, Any] = {"particles": len(refined_rows), "unknown_particles": len(refined) - len(refined_rows),
                              "left_out_particles": len(truth) - len(np.unique(true_rows)), "paired_by": paired_by}
    if not len(refined_rows):
        return report, {}
    fit_rotation = alignment != "none"
    true_poses = truth.rotations[true_rows]
    aligned = align(refined.rotations[refined_rows], true_poses, operators, fit_rotation=fit_rotation,
                    fit_hand=alignment == "full")
    views, in_plane = _view_and_in_plane(refined.rotations[refined_rows] @ np.swapaxes(aligned.true_rotations, 1, 2))
    chance = random_pose_errors(operators)
    report |= {
        "map": {"mirrored": aligned.mirrored, "turn_degrees": float(rotation_angles(aligned.rotation)),
                "turn": aligned.rotation.round(9).tolist(), "shift_angstrom": None},
        "angular_error_degrees": _statistics(aligned.errors_degrees) | {
            "within": {str(limit): float((aligned.errors_degrees <= limit).mean()) for limit in ERROR_LIMITS_DEGREES},
            "median_of_chance": float(np.median(chance))},
        "view_error_degrees": _statistics(views), "in_plane_error_degrees": _statistics(np.abs(in_plane)),
        "shift_error_angstrom": None, "defocus_error_angstrom": None}
    arrays = {"particle": refined_rows, "true_particle": true_rows, "angle": aligned.errors_degrees, "view": views,
              "in_plane": in_plane, "direction": true_poses[:, 2], "chance": chance[::20]}
    offsets = _offsets(refined, truth, refined_rows, true_rows, paired_by)
    if offsets is not None:
        shift = map_shift(offsets, true_poses, operators) if fit_rotation else np.zeros(3)
        offsets = offsets - true_poses[:, :2] @ shift
        report["map"]["shift_angstrom"] = shift.round(6).tolist()
        report["shift_error_angstrom"] = _statistics(np.linalg.norm(offsets, axis=1)) | {
            "offset_x": float(offsets[:, 0].mean()), "offset_y": float(offsets[:, 1].mean())}
        arrays["shift"] = offsets
    if refined.defocus is not None and truth.defocus is not None:
        error = refined.defocus[refined_rows] - truth.defocus[true_rows]
        report["defocus_error_angstrom"] = _statistics(np.abs(error)) | {"offset": float(error.mean())}
        arrays["defocus"] = error
    return report, arrays


def _offsets(refined: ParticlePoses, truth: ParticlePoses, refined_rows: NDArray[np.int64],
             true_rows: NDArray[np.int64], paired_by: str) -> NDArray[np.float64] | None:
    """Refined minus true centres (n, 2), Å; None if the files do not give them."""
    if paired_by == "image names":
        return truth.origins[true_rows] - refined.origins[refined_rows]
    if refined.positions is None or truth.positions is None:
        return None
    return np.asarray(refined.positions.centres[refined_rows] - truth.positions.centres[true_rows])


def _view_and_in_plane(errors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angle between the viewing directions, and signed in-plane rotation, of rotation errors (n, 3, 3), degrees."""
    views = np.degrees(np.arctan2(np.hypot(errors[:, 2, 0], errors[:, 2, 1]), errors[:, 2, 2]))
    in_plane = np.degrees(np.arctan2(errors[:, 1, 0] - errors[:, 0, 1], errors[:, 0, 0] + errors[:, 1, 1]))
    return views, in_plane


def _statistics(values: NDArray[np.float64]) -> dict[str, float]:
    low, middle, high = np.percentile(values, (16, 50, 84))
    return {"median": float(middle), "mean": float(values.mean()), "percentile_16": float(low),
            "percentile_84": float(high)}
