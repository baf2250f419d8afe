# SPDX-License-Identifier: GPL-3.0-or-later
"""Log-likelihoods of particles on a grid over classes, viewing directions, rotations in the plane and shifts.

The noise is Gaussian and its power depends on the frequency only (doi:10.1006/jsbi.1998.4014).
"""
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogem_scipion.engine.pose_estimation.estimator import Particles, PoseEstimator
from cryogem_scipion.engine.pose_estimation.orientations import about_z, shift_grid, view_frames
from cryogem_scipion.engine.pose_estimation.polar_spectra import centred_spectra, full_turn

__all__ = ["PoseGrid", "prepare_grid"]

SPACING_DEGREES = 7.5
"""Distance of the viewing directions."""
SEARCH_RINGS = 16
"""Largest number of rings that are searched; finer rings only refine."""


@dataclass(frozen=True)
class PoseGrid:
    """Projections of the reference at all viewing directions, ready to be compared with particles."""

    estimator: PoseEstimator
    knows_ctf: bool
    frames: Float[Tensor, "d 3 3"]
    """Rotations with psi = 0 of the viewing directions."""
    shifts: Float[Tensor, "t xy"]
    """RELION's origins, Å."""
    weights: Float[Tensor, " rings"]
    projections: Float[Tensor, "m2 rings cd"]
    """Angular Fourier coefficients of all classes' projections: cosines, then sines."""
    power: Float[Tensor, "rings cd"]
    """Power of the projections on each ring, summed over the full turn."""

    @property
    def angles(self) -> int:
        """Number of rotations in the plane."""
        return self.estimator.grid.angles

    def log_likelihoods(self, particles: Particles) -> Float[Tensor, "n t c d angles"]:
        """Log-likelihoods of particles, up to a constant for each particle."""
        rings, classes = len(self.weights), self.estimator.reference.classes
        count, shifts, angles = len(particles), len(self.shifts), self.angles
        ctf = particles.ctf[:, :rings]
        frequencies = self.estimator.grid.frequencies(ctf.device)[:, :rings]
        centred = centred_spectra((particles.spectra[:, :rings] * ctf)[:, None], self.shifts, frequencies)
        values = full_turn(centred) * self.weights[:, None]
        forward, backward = _angular_transforms(angles, values.device)
        coefficients = (values.reshape(-1, rings, angles) @ forward).permute(2, 0, 1).contiguous()
        # The correlation over the rotation in the plane is a product of angular Fourier coefficients.
        products = _correlation(coefficients, self.projections)
        correlations = (products.permute(1, 2, 0) @ backward).reshape(count, shifts, classes, -1, angles)
        strength = ctf.square().mean(2) * self.weights
        norms = (strength @ self.power).reshape(count, 1, classes, -1, 1)
        # 2 Re<particle, projection> - |projection|²; a sum over the full turn counts each sample twice.
        return correlations - norms / 2

    def rotations(self, directions: Int[Tensor, "*n"], rotations: Int[Tensor, "*n"]) -> Float[Tensor, "*n 3 3"]:
        """Rotations A of cells of the grid."""
        angle = rotations.to(torch.float32) * (2 * math.pi / self.angles)
        return about_z(angle) @ self.frames[directions]


@torch.no_grad()
def prepare_grid(estimator: PoseEstimator, knows_ctf: bool, rings: int, spacing_degrees: float = SPACING_DEGREES
                 ) -> PoseGrid:
    """Compute the projections of a grid.

    Parameters
    ----------
    knows_ctf
        Whether the particles come with their CTFs.
    rings
        Number of rings that the particles have.
    """
    grid, device = estimator.grid, estimator.device
    used = min(rings, SEARCH_RINGS)
    frames = view_frames(spacing_degrees, estimator.symmetry).to(device)
    shifts = shift_grid(estimator.largest_shift, 0.55 * grid.period_angstrom / used).to(device)
    spectra = estimator.reference.spectra()
    forward, _ = _angular_transforms(grid.angles, device)
    coefficients, powers = [], []
    for index in range(estimator.reference.classes):
        for part in torch.split(frames, 64):
            values = full_turn(estimator.reference.slices(spectra[index:index + 1], part)[:, :used])
            powers.append(values.square().sum(2))
            coefficients.append(values @ forward)
    return PoseGrid(estimator, knows_ctf, frames, shifts, estimator.weights(knows_ctf, rings)[:used],
                    torch.cat(coefficients).permute(2, 1, 0).contiguous(), torch.cat(powers).T.contiguous())


def _angular_transforms(angles: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices from values at angles to coefficients (cosines, then sines), and from products back to rotations."""
    orders = torch.arange(angles // 2 + 1, dtype=torch.float64, device=device)
    phase = 2 * math.pi / angles * torch.arange(angles, dtype=torch.float64, device=device)[:, None] * orders
    forward = torch.cat([torch.cos(phase), torch.sin(phase)], 1)
    double = torch.where((orders == 0) | (orders == angles // 2), 1.0, 2.0) / angles
    backward = torch.cat([torch.cos(phase) * double, torch.sin(phase) * double], 1).T
    return forward.float(), backward.float()


def _correlation(particles: Float[Tensor, "m2 n rings"], projections: Float[Tensor, "m2 rings cd"]
                 ) -> Float[Tensor, "m2 n cd"]:
    """Angular Fourier coefficients of the correlation: cosines, then sines."""
    half = len(particles) // 2
    cosine, sine = particles[:half], particles[half:]
    of_cosine, of_sine = projections[:half], projections[half:]
    return torch.cat([cosine @ of_cosine + sine @ of_sine, sine @ of_cosine - cosine @ of_sine])
