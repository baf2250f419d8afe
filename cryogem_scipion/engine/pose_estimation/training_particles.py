# SPDX-License-Identifier: GPL-3.0-or-later
"""Spectra of particles whose poses are known."""
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryogem_scipion.engine.pose_estimation.estimator import Particles
from cryogem_scipion.engine.pose_estimation.polar_spectra import PolarGrid, centred_spectra

__all__ = ["TrainingParticles"]


@dataclass(frozen=True)
class TrainingParticles:
    """Particles with known poses."""

    particles: Particles
    rotations: Float[Tensor, "n 3 3"]
    origins: Float[Tensor, "n xy"]
    """RELION's origins, Å."""
    classes: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.particles)

    def subset(self, indices: Int[Tensor, " m"]) -> "TrainingParticles":
        """Some of the particles."""
        chosen = Particles(self.particles.spectra[indices], self.particles.ctf[indices])
        return TrainingParticles(chosen, self.rotations[indices], self.origins[indices], self.classes[indices])

    def moved_to(self, device: torch.device) -> "TrainingParticles":
        """The same particles on another device."""
        moved = Particles(self.particles.spectra.to(device), self.particles.ctf.to(device))
        return TrainingParticles(moved, self.rotations.to(device), self.origins.to(device), self.classes.to(device))

    def centred(self, grid: PolarGrid) -> Complex[Tensor, "n rings half"]:
        """Spectra of the particles, each shifted to its centre."""
        return centred_spectra(self.particles.spectra, self.origins, grid.frequencies(self.origins.device))
