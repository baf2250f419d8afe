# SPDX-License-Identifier: GPL-3.0-or-later
"""Noise and confidence of a pose estimator, measured on held-out particles."""
import itertools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogem_scipion.engine.pose_estimation.estimator import Confidence, Particles, PoseEstimator
from cryogem_scipion.engine.pose_estimation.training_particles import TrainingParticles

__all__ = ["SHARPNESS", "chosen_class_sharpness", "chosen_confidence", "mean_ctf_particles", "measured_noise"]

SHARPNESS = [1.0, 0.8, 0.6, 0.4, 0.25, 0.15, 0.08, 0.04]
"""Values that are tried; the true noise is never simpler than the model, so none is above 1."""
OUTLIERS = [0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2]


@torch.no_grad()
def measured_noise(estimator: PoseEstimator, held_out: TrainingParticles) -> Float[Tensor, "modes rings"]:
    """Power of the noise on each ring: what the reference does not explain, with the CTFs and with the mean CTF."""
    reference, grid = estimator.reference, estimator.grid
    spectra = held_out.centred(grid)
    slices = reference.slices(reference.spectra(), held_out.rotations, held_out.classes)
    mean_ctf = estimator.mean_ctf[:, None]
    powers = [(spectra - slices * ctf).abs().square().mean((0, 2)) for ctf in (held_out.particles.ctf, mean_ctf)]
    return torch.stack(powers).clamp(min=1e-12)


def mean_ctf_particles(estimator: PoseEstimator, particles: Particles) -> Particles:
    """The same particles, as if their CTFs were not known."""
    return Particles(particles.spectra, estimator.mean_ctf[None, :, None].expand_as(particles.ctf))


def chosen_confidence(probabilities: Float[Tensor, "s n"], chance: float) -> Confidence:
    """The sharpness and the fraction of outliers with which the true poses are most probable.

    Parameters
    ----------
    probabilities
        Probability within 15° of the true orientation of each held-out particle, for each of ``SHARPNESS``.
    chance
        The same probability for a random orientation.

    Returns
    -------
    The best values. The fraction of outliers is at least what so many particles cannot exclude.

    References
    ----------
    Scaling of log-likelihoods: arXiv:1706.04599
    """
    count = probabilities.shape[1]
    least = 1 / (count + 2)
    fractions = [least, *(fraction for fraction in OUTLIERS if fraction > least)]
    best = (-math.inf, Confidence())
    for (row, sharpness), fraction in itertools.product(enumerate(SHARPNESS), fractions):
        # The mean over an exact number of float64 values: the order of the sum is fixed.
        score = float((probabilities[row].double() * (1 - fraction) + fraction * chance).log().mean())
        if score > best[0]:
            best = (score, Confidence(sharpness, fraction))
    return best[1]


def chosen_class_sharpness(fits: Float[Tensor, "n classes"], classes: Int[Tensor, " n"]) -> float:
    """The factor of the classes' log-likelihoods with which the true classes are most probable.

    Parameters
    ----------
    fits
        Log-likelihood of each class for each held-out particle.
    classes
        True class of each particle.
    """
    def score(sharpness: float) -> float:
        logarithms = torch.log_softmax(fits.double() * sharpness, 1)
        return float(logarithms.gather(1, classes[:, None]).mean())

    return max(SHARPNESS, key=score)
