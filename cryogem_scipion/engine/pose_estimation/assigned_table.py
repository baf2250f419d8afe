# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables and report of assigned poses, and the files of finished parts of a run."""
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cryogem_scipion.engine.pose_estimation.assignment import AssignedPoses
from cryogem_scipion.engine.pose_estimation.estimator import PoseEstimator
from cryogem_scipion.engine.pose_estimation.particle_images import ANGLES, ORIGIN, ParticleSet
from cryogem_scipion.engine.simulation.projection import euler_angles
from cryogem_scipion.engine.translator.tensor_files import load_tensors, save_tensors

__all__ = ["CANDIDATES", "CLASS_PROBABILITY", "CONFIDENCE", "assignment_report", "candidate_rows", "particle_rows",
           "read_part", "write_part"]

CANDIDATES = "candidates.star"
CONFIDENCE = "rlnMaxValueProbDistribution"
CLASS_PROBABILITY = "cryogemClassProbability"
"""Column of particles.star for each class, followed by its number."""
PROBABILITY = "cryogemProbability"
REPLACED = {"rlnOriginX", "rlnOriginY", "rlnOriginZ", "rlnOriginZAngst", "rlnAngleRotPrior", "rlnAngleTiltPrior",
            "rlnAnglePsiPrior", "rlnOriginXPrior", "rlnOriginYPrior", "rlnOriginXPriorAngst", "rlnOriginYPriorAngst"}
"""Columns of an earlier pose, which contradict the new one."""
PART_KIND = "assigned poses"


def write_part(path: Path, poses: AssignedPoses) -> None:
    """Write the poses of a part of the particles."""
    save_tensors(path, PART_KIND, {name: getattr(poses, name) for name in AssignedPoses.__dataclass_fields__}, {})


def read_part(path: Path) -> AssignedPoses:
    """Read the poses of a part of the particles."""
    tensors, _ = load_tensors(path, PART_KIND)
    return AssignedPoses(**tensors)


def particle_rows(particles: ParticleSet, poses: AssignedPoses, estimator: PoseEstimator) -> pd.DataFrame:
    """Rows of particles.star: all columns of the input, with the new poses and absolute paths of the stacks."""
    kept = [name for name in particles.columns if name not in REPLACED]
    values: dict[str, Any] = {"rlnImageName": _image_names(particles), **_pose_columns(poses, 0),
                              CONFIDENCE: _rounded(poses.confidence)}
    if len(estimator.class_numbers) > 1:
        values["rlnClassNumber"] = np.array(estimator.class_numbers)[poses.classes[:, 0].numpy()]
        values |= {f"{CLASS_PROBABILITY}{number}": _rounded(poses.class_probabilities[:, index])
                   for index, number in enumerate(estimator.class_numbers)}
    if "rlnOpticsGroup" not in kept:
        values["rlnOpticsGroup"] = 1
    return particles.rows[kept].assign(**values)


def candidate_rows(particles: ParticleSet, poses: AssignedPoses, estimator: PoseEstimator) -> pd.DataFrame:
    """Rows of candidates.star: all candidates of the first particle, then those of the second one."""
    names = _image_names(particles)
    tables = []
    for rank in range(poses.probabilities.shape[1]):
        exists = (poses.probabilities[:, rank] > 0).numpy()
        columns = {"rlnImageName": names, **_pose_columns(poses, rank),
                   PROBABILITY: _rounded(poses.probabilities[:, rank]),
                   "rlnClassNumber": np.array(estimator.class_numbers)[poses.classes[:, rank].numpy()]}
        if "rlnOpticsGroup" in particles.columns:
            columns["rlnOpticsGroup"] = particles.rows["rlnOpticsGroup"].to_numpy()
        tables.append(pd.DataFrame(columns)[exists])
    return pd.concat(tables).sort_index(kind="stable").reset_index(drop=True)


def assignment_report(poses: AssignedPoses, estimator: PoseEstimator, knows_ctf: bool, rings: int
                      ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Numbers and arrays of the figure.

    Parameters
    ----------
    knows_ctf
        Whether the poses were found with the particles' CTFs.
    rings
        Number of rings that the particles have.
    """
    confidence = poses.confidence.double().numpy()
    shift = poses.origins[:, 0].double().norm(dim=1).numpy()
    numbers = np.array(estimator.class_numbers)[poses.classes[:, 0].numpy()]
    report = {"particles": len(confidence), "symmetry": estimator.symmetry, "uses_ctf": knows_ctf,
              "resolution_angstrom": estimator.grid.period_angstrom / rings,
              "largest_shift_angstrom": estimator.largest_shift, "mean_confidence": float(confidence.mean()),
              "confident": float((confidence >= 0.5).mean()), "median_shift_angstrom": float(np.median(shift)),
              "classes": {str(number): int((numbers == number).sum()) for number in estimator.class_numbers}}
    angles = euler_angles(poses.rotations[:, 0].double()).numpy()
    return report, {"rot": angles[:, 0], "tilt": angles[:, 1], "psi": angles[:, 2], "confidence": confidence,
                    "origin": poses.origins[:, 0].numpy(), "class_number": numbers,
                    "class_probabilities": poses.class_probabilities.numpy()}


def _image_names(particles: ParticleSet) -> list[str]:
    return [f"{number + 1:06d}@{stack}" for number, stack in zip(particles.numbers, particles.stacks, strict=True)]


def _pose_columns(poses: AssignedPoses, rank: int) -> dict[str, Any]:
    angles = euler_angles(poses.rotations[:, rank].double()).numpy()
    origins = poses.origins[:, rank].double().numpy()
    return {**{name: angles[:, axis].round(3) for axis, name in enumerate(ANGLES)},
            **{name: origins[:, axis].round(3) for axis, name in enumerate(ORIGIN)}}


def _rounded(values: torch.Tensor) -> NDArray[np.float64]:
    rounded: NDArray[np.float64] = values.double().clamp(0, 1).numpy().round(5)
    return rounded
