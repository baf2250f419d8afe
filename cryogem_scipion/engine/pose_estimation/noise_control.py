# SPDX-License-Identifier: GPL-3.0-or-later
"""How confident the poses of noise are: a control for the confidences of particles.

Poses are found with a reference, and noise resembles any reference a little. If particles are no more confident than
images of the same power with random phases, their poses tell nothing. A map from such poses shows the reference all the
same.

References
----------
Maps of a reference from noise: Henderson, PNAS 110 (2013) 18037, doi:10.1073/pnas.1314449110
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.pose_estimation.particle_images import ParticleSet
from cryogem_scipion.engine.simulation.specimen import seeded_generator

__all__ = ["NoiseControl", "RandomPhases", "noise_control"]

MOST = 100
"""Largest number of particles that are compared."""
FEWEST = 10
"""With fewer particles, the two confidences are not compared."""
CERTAIN_ERRORS = 3.0
"""Standard errors by which particles have to be more confident than noise."""


class RandomPhases(ParticleSet):
    """Particles whose images have random phases, and the same power at each frequency."""

    def images(self, indices: Sequence[int], bright: bool) -> Float[Tensor, "n y x"]:
        """Images of particles with the same box size; the phases of each depend on its row only.

        Parameters
        ----------
        indices, bright
            As for ``ParticleSet``.
        """
        images = super().images(indices, bright)
        shape = (images.shape[1], images.shape[2])
        noise = torch.stack([torch.randn(shape, generator=seeded_generator("random phases", index))
                             for index in indices])
        spectrum = fourier.rfft2(noise)
        phases = spectrum / spectrum.abs().clamp(min=torch.finfo(torch.float32).tiny)
        return fourier.irfft2(fourier.rfft2(images).abs() * phases, shape)


@dataclass(frozen=True)
class NoiseControl:
    """Mean confidences of some particles, and of the same particles with random phases."""

    of_particles: float
    of_noise: float
    error: float
    """Standard error of the difference."""

    @property
    def warning(self) -> str | None:
        """What a user has to know about the poses; None if particles are more confident than noise."""
        if self.of_particles - self.of_noise > CERTAIN_ERRORS * self.error:
            return None
        return (f"the particles are not clearly more confident ({self.of_particles:.2f} ± {self.error:.2f}) than "
                f"images with random phases ({self.of_noise:.2f}): they hardly tell their orientations, and a map from "
                "these poses shows the reference")


def noise_control(particles: ParticleSet, confidence: Float[Tensor, " n"],
                  find: Callable[[ParticleSet, list[int]], Float[Tensor, " m"]]) -> NoiseControl | None:
    """Compare the confidences of evenly spaced particles with those of noise; None with too few particles.

    Parameters
    ----------
    confidence
        Of all particles.
    find
        Returns the confidences of some rows of a set.
    """
    rows = list(range(0, len(particles), math.ceil(len(particles) / MOST)))
    if len(rows) < FEWEST:
        return None
    own = confidence[rows].double()
    noise = find(RandomPhases(**vars(particles)), rows).double()
    error = float((own - noise).std()) / math.sqrt(len(rows))
    return NoiseControl(float(own.mean()), float(noise.mean()), error)
