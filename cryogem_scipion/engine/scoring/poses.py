# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of orientation, shift and defocus, over paired particles."""
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryogem_scipion.engine.scoring.alignment import align, angles_of, map_shift, uniform_errors
from cryogem_scipion.engine.scoring.particles import Poses, pair

__all__ = ["compare"]

LIMITS = (2, 5, 10, 20, 30)


def compare(found: Poses, truth: Poses, group: NDArray[np.float64], alignment: str, radius: float) -> tuple[
        dict[str, Any], dict[str, Any]]:
    """Compare found poses with the true ones.

    Parameters
    ----------
    group
        Operators of the symmetry (g, 3, 3), the identity first.
    alignment
        ``full``, ``rotation`` (not the hand) or ``none``.
    radius
        Å, for pairing.

    Returns
    -------
    The report, and the arrays of each pair: indices, errors, the true view direction. Nothing but the numbers of
    particles when there is no pair.

    Raises
    ------
    DataError
        The sets cannot be paired.
    """
    partner, paired_by = pair(found, truth, radius)
    mine, theirs = np.flatnonzero(partner >= 0), partner[partner >= 0]
    report: dict[str, Any] = {"particles": len(mine), "unknown_particles": len(found) - len(mine),
                              "left_out_particles": len(truth) - len(np.unique(theirs)), "paired_by": paired_by}
    if not len(mine):
        return report, {}
    turn = alignment != "none"
    true_poses = truth.matrices[theirs]
    aligned = align(found.matrices[mine], true_poses, group, turn=turn, hand=alignment == "full")
    views, in_plane = _split(found.matrices[mine] @ np.swapaxes(aligned.expected, 1, 2))
    chance = uniform_errors(group)
    report |= {
        "map": {"mirrored": aligned.mirrored, "turn_degrees": float(angles_of(aligned.turn)),
                "turn": aligned.turn.round(9).tolist(), "shift_angstrom": None},
        "angular_error_degrees": _spread(aligned.errors) | {
            "within": {str(limit): float((aligned.errors <= limit).mean()) for limit in LIMITS},
            "median_of_chance": float(np.median(chance))},
        "view_error_degrees": _spread(views), "in_plane_error_degrees": _spread(np.abs(in_plane)),
        "shift_error_angstrom": None, "defocus_error_angstrom": None}
    arrays = {"particle": mine, "true_particle": theirs, "angle": aligned.errors, "view": views,
              "in_plane": in_plane, "direction": true_poses[:, 2], "chance": chance[::20]}
    offsets = _offsets(found, truth, mine, theirs, paired_by)
    if offsets is not None:
        shift = map_shift(offsets, true_poses, group) if turn else np.zeros(3)
        offsets = offsets - true_poses[:, :2] @ shift
        report["map"]["shift_angstrom"] = shift.round(6).tolist()
        report["shift_error_angstrom"] = _spread(np.linalg.norm(offsets, axis=1)) | {
            "offset_x": float(offsets[:, 0].mean()), "offset_y": float(offsets[:, 1].mean())}
        arrays["shift"] = offsets
    if found.defocus is not None and truth.defocus is not None:
        error = found.defocus[mine] - truth.defocus[theirs]
        report["defocus_error_angstrom"] = _spread(np.abs(error)) | {"offset": float(error.mean())}
        arrays["defocus"] = error
    return report, arrays


def _offsets(found: Poses, truth: Poses, mine: NDArray[np.int64], theirs: NDArray[np.int64],
             paired_by: str) -> NDArray[np.float64] | None:
    """Refined less true centres, Å; of the same images, the difference of the origins."""
    if paired_by == "image names":
        return truth.origins[theirs] - found.origins[mine]
    if found.places is None or truth.places is None:
        return None
    return np.asarray(found.places.centres[mine] - truth.places.centres[theirs])


def _split(errors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split rotations into the angle between the view directions, and the turn about them (signed), degrees."""
    views = np.degrees(np.arctan2(np.hypot(errors[:, 2, 0], errors[:, 2, 1]), errors[:, 2, 2]))
    about = np.degrees(np.arctan2(errors[:, 1, 0] - errors[:, 0, 1], errors[:, 0, 0] + errors[:, 1, 1]))
    return views, about


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    low, middle, high = np.percentile(values, (16, 50, 84))
    return {"median": float(middle), "mean": float(values.mean()), "percentile_16": float(low),
            "percentile_84": float(high)}
