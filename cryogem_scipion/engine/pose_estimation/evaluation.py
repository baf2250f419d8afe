# SPDX-License-Identifier: GPL-3.0-or-later
"""Confidence and errors of a pose estimator on held-out particles."""
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.pose_estimation.assignment import NEAR_DEGREES, PoseFinder, with_outliers
from cryogem_scipion.engine.pose_estimation.calibration import (
    SHARPNESS,
    chosen_class_sharpness,
    chosen_confidence,
    mean_ctf_particles,
    measured_noise,
)
from cryogem_scipion.engine.pose_estimation.estimator import Confidence, PoseEstimator
from cryogem_scipion.engine.pose_estimation.orientations import angles_modulo
from cryogem_scipion.engine.pose_estimation.training_particles import TrainingParticles

__all__ = ["calibrated", "held_out_report"]

MOST = 200
"""Largest number of held-out particles that are used."""


@torch.no_grad()
def calibrated(estimator: PoseEstimator, held_out: TrainingParticles) -> PoseEstimator:
    """The estimator with noise and confidence measured on held-out particles, with and without their CTFs."""
    estimator = replace(estimator, noise=measured_noise(estimator, held_out))
    some = _some(held_out)
    confidences: list[Confidence] = []
    for knows_ctf in (True, False):
        finder = PoseFinder(estimator, knows_ctf, estimator.grid.rings)
        particles = some.particles if knows_ctf else mean_ctf_particles(estimator, some.particles)

        def near(index: int, finder: PoseFinder = finder, particles: Any = particles) -> tuple[Tensor, Tensor]:
            one = slice(index, index + 1)
            return finder.probabilities_near(particles.part(index, index + 1), some.rotations[one], SHARPNESS)

        parts = parallel_map(near, range(len(some)))
        probabilities, fits = torch.cat([part for part, _ in parts], 1), torch.cat([fit for _, fit in parts])
        chance = with_outliers(torch.zeros(1), Confidence(1.0, 1.0), len(finder.operators))
        confidence = chosen_confidence(probabilities.cpu(), float(chance))
        confidences.append(replace(confidence, class_sharpness=chosen_class_sharpness(fits.cpu(), some.classes.cpu())))
        if not estimator.uses_ctf:
            return replace(estimator, confidence=(confidences[0], confidences[0]))
    return replace(estimator, confidence=(confidences[0], confidences[1]))


@torch.no_grad()
def held_out_report(estimator: PoseEstimator, held_out: TrainingParticles
                    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Numbers and arrays of the errors on held-out particles, for the report of a training."""
    some = _some(held_out)
    finder = PoseFinder(estimator, True, estimator.grid.rings)
    found = finder.find_all(some.particles)
    error = angles_modulo(found.rotations[:, 0], some.rotations, finder.operators)
    shift = (found.origins[:, 0] - some.origins).norm(dim=1)
    numbers: dict[str, Any] = {**_numbers(error, shift), "mean_confidence": float(found.confidence.mean()),
                               "class_accuracy": None}
    if estimator.reference.classes > 1:
        numbers["class_accuracy"] = float((found.classes[:, 0] == some.classes).double().mean())
    if estimator.uses_ctf:
        blind = PoseFinder(estimator, False, estimator.grid.rings)
        without = blind.find_all(mean_ctf_particles(estimator, some.particles))
        blind_error = angles_modulo(without.rotations[:, 0], some.rotations, finder.operators)
        numbers["median_error_without_ctf_degrees"] = float(blind_error.median())
    middle = estimator.reference.density.shape[1] // 2
    arrays = {"error_degrees": error, "shift_error_angstrom": shift, "confidence": found.confidence,
              "direction": some.rotations[:, 2], "noise": estimator.noise[0], "ring_power": estimator.ring_power,
              "central_section": (estimator.reference.density * estimator.reference.mask)[:, middle]}
    report = {"symmetry": estimator.symmetry, "diameter_angstrom": estimator.grid.diameter_angstrom,
              "resolution_angstrom": estimator.grid.resolution_angstrom,
              "largest_shift_angstrom": estimator.largest_shift, "class_numbers": list(estimator.class_numbers),
              "confidence": [vars(part) for part in estimator.confidence], "held_out": numbers}
    return report, {name: np.asarray(values.detach().cpu().numpy()) for name, values in arrays.items()}


def _numbers(error: Tensor, shift: Tensor) -> dict[str, float]:
    return {"particles": float(len(error)), "median_error_degrees": float(error.median()),
            "within_15_degrees": float((error <= NEAR_DEGREES).double().mean()),
            "within_30_degrees": float((error <= 30).double().mean()),
            "median_shift_error_angstrom": float(shift.median())}


def _some(held_out: TrainingParticles) -> TrainingParticles:
    """At most so many particles, evenly from all held-out micrographs."""
    count = min(MOST, len(held_out))
    step = max(1.0, (len(held_out) - 1) / max(1, count - 1))
    return held_out.subset(torch.tensor([math.floor(index * step + 1e-9) for index in range(count)],
                                        device=held_out.origins.device))
