# SPDX-License-Identifier: GPL-3.0-or-later
"""Refinement of orientations and shifts between the points of the grid, by the method of Gauss and Newton."""
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogem_scipion.engine.pose_estimation.estimator import Particles, PoseEstimator
from cryogem_scipion.engine.pose_estimation.orientations import rotations_by
from cryogem_scipion.engine.pose_estimation.polar_spectra import centred_spectra

__all__ = ["refine_poses"]

ITERATIONS = 5
DIFFERENCE_DEGREES = 1.0
"""Angle of the finite differences."""
LARGEST_TURN_DEGREES = 4.0
"""Largest change of an orientation in one iteration."""
DAMPING = 1e-3


@torch.no_grad()
def refine_poses(estimator: PoseEstimator, spectra: Float[Tensor, "classes part z y x"], particles: Particles,
                 rotations: Float[Tensor, "n 3 3"], origins: Float[Tensor, "n xy"], classes: Int[Tensor, " n"],
                 weights: Float[Tensor, " rings"]
                 ) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n xy"], Float[Tensor, " n"]]:
    """Poses with a higher likelihood, near the given ones.

    Parameters
    ----------
    spectra
        Result of ``Reference.spectra()``.
    rotations, origins, classes
        Pose of each particle to begin with: rotation A, RELION's origin (Å), class.
    weights
        Weight of each ring in the log-likelihood.

    Returns
    -------
    Rotations and origins, those to begin with where nothing better is found, and their log-likelihoods up to a constant
    for each particle. Origins stay within 1.5 times the largest shift.
    """
    limit = 1.5 * estimator.largest_shift
    largest_step = 0.2 * estimator.grid.resolution_angstrom
    best_rotations, best_origins = rotations, origins
    best = torch.full((len(rotations),), -math.inf, device=rotations.device)
    for iteration in range(ITERATIONS + 1):
        fit, jacobian, residual = _linearised(estimator, spectra, particles, rotations, origins, classes, weights)
        improved = fit > best
        best = torch.where(improved, fit, best)
        best_rotations = torch.where(improved[:, None, None], rotations, best_rotations)
        best_origins = torch.where(improved[:, None], origins, best_origins)
        if iteration == ITERATIONS:
            break
        step = _step(jacobian, residual)
        turn, shift = step[:, :3], step[:, 3:]
        turn = turn * (math.radians(LARGEST_TURN_DEGREES) / turn.norm(dim=1, keepdim=True).clamp(min=1e-9)).clamp(max=1)
        shift = shift * (largest_step / shift.norm(dim=1, keepdim=True).clamp(min=1e-9)).clamp(max=1)
        rotations = rotations_by(turn) @ best_rotations
        origins = (best_origins + shift).clamp(-limit, limit)
    return best_rotations, best_origins, best


def _linearised(estimator: PoseEstimator, spectra: Tensor, particles: Particles, rotations: Tensor, origins: Tensor,
                classes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-likelihood (n,), derivatives (n, 5, values) of the weighted projection, and weighted residual (n, values)."""
    step = math.radians(DIFFERENCE_DEGREES)
    axes = torch.eye(3, device=rotations.device) * step
    turns = rotations_by(torch.cat([torch.zeros_like(axes[:1]), axes, -axes]))
    turned = (turns[:, None] @ rotations).flatten(0, 1)
    slices = estimator.reference.slices(spectra, turned, classes.repeat(7))
    amplitude = particles.ctf * weights.sqrt()[:, None]
    slices = slices.reshape(7, *amplitude.shape) * amplitude
    projection, derivatives = slices[0], (slices[1:4] - slices[4:7]) / (2 * step)
    frequencies = estimator.grid.frequencies(rotations.device)
    data = centred_spectra(particles.spectra * weights.sqrt()[:, None], origins, frequencies)
    residual = data - projection
    # A shift of the particle moves the projection the other way. The derivative of the projection has no noise, so that
    # its square is not too large.
    by_shift = 2j * math.pi * frequencies.float()[:, None] * projection
    jacobian = torch.cat([derivatives, by_shift.to(derivatives.dtype)]).permute(1, 0, 2, 3)
    fit = -residual.abs().square().sum((1, 2))
    return fit, torch.view_as_real(jacobian).flatten(2), torch.view_as_real(residual).flatten(1)


def _step(jacobian: Float[Tensor, "n p values"], residual: Float[Tensor, "n values"]) -> Float[Tensor, "n p"]:
    """Step of the parameters with a little damping."""
    normal = jacobian @ jacobian.mT
    diagonal = torch.diagonal(normal, dim1=1, dim2=2)
    # Scaled to a diagonal of 1, because angles and lengths have different units.
    scale = diagonal.clamp(min=1e-20).rsqrt()
    scaled = normal * scale[:, :, None] * scale[:, None, :]
    scaled = scaled + DAMPING * torch.eye(scaled.shape[1], device=scaled.device)
    right = (jacobian @ residual[..., None])[..., 0] * scale
    step: Tensor = torch.linalg.solve(scaled, right) * scale
    return step
