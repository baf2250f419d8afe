# SPDX-License-Identifier: GPL-3.0-or-later
"""Variation between the particles of a micrograph: contrast, sharpness, and what is left of broken ones."""
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryogem_scipion.engine.settings import SimulateSettings

__all__ = ["Variation", "draw_variation"]

DEVIATIONS = 2.0
"""Standard deviations at which the extra B-factor is truncated, so that no particle is sharpened without limit."""


@dataclass(frozen=True)
class Variation:
    """What differs between particles besides place, orientation, map and height."""

    contrasts: Float[Tensor, " n"]
    """Factor on each particle's signal; the mean is 1."""
    extra_b_factors: Float[Tensor, " n"]
    """Å²; added to the B-factor of the micrograph. Negative: this particle is sharper than the mean."""
    remaining: Float[Tensor, " n"]
    """Fraction of the map's mass that is left of the particle: 1 for a whole one, less for a broken one."""
    cut_normals: Float[Tensor, "n 3"]
    """Unit vector (x, y, z) in the frame of the map. A broken particle has lost the side to which it points."""

    @property
    def broken(self) -> Bool[Tensor, " n"]:
        """Which particles are broken."""
        return self.remaining < 1

    def subset(self, selected: Bool[Tensor, " n"]) -> "Variation":
        """The variation of the selected particles only."""
        return Variation(self.contrasts[selected], self.extra_b_factors[selected], self.remaining[selected],
                         self.cut_normals[selected])


def draw_variation(settings: SimulateSettings, count: int, generator: torch.Generator) -> Variation | None:
    """Draw the variation of particles; None if the settings make all particles alike.

    The contrast is log-normal: it is positive, its mean is 1, and ``contrast_variation`` is its standard deviation.
    The extra B-factor is normal, truncated at two standard deviations. The same numbers are drawn for any settings, so
    that one variation does not change when another one is switched on.

    Parameters
    ----------
    settings
        Settings of the simulation.
    count
        Number of particles.
    generator
        Random generator.
    """
    if not (settings.contrast_variation or settings.b_factor_variation or settings.broken_fraction):
        return None
    width = math.sqrt(math.log1p(settings.contrast_variation**2))
    normal = torch.randn(count, generator=generator, dtype=torch.float64)
    contrasts = torch.exp(width * normal - 0.5 * width**2)
    extra = settings.b_factor_variation * _truncated_normal(count, generator)
    is_broken = torch.rand(count, generator=generator, dtype=torch.float64) < settings.broken_fraction
    part = torch.rand(count, generator=generator, dtype=torch.float64)
    remaining = torch.where(is_broken, settings.broken_remainder + (1 - settings.broken_remainder) * part, 1.0)
    normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)
    return Variation(contrasts, extra, remaining, normals * is_broken[:, None])


def _truncated_normal(count: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Numbers of a normal distribution that is cut at DEVIATIONS and has a standard deviation of 1 again."""
    edge = 0.5 * math.erf(DEVIATIONS / math.sqrt(2))
    uniform = (2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1) * edge
    density = math.exp(-0.5 * DEVIATIONS**2) / math.sqrt(2 * math.pi)
    deviation = math.sqrt(1 - DEVIATIONS * density / edge)
    numbers: Float[Tensor, " n"] = torch.special.ndtri(0.5 + uniform) / deviation
    return numbers
