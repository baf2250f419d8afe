# SPDX-License-Identifier: GPL-3.0-or-later
"""How well the discriminator tells generated from real crops, and how fast the generator learns from it."""
import math
import statistics
from collections import deque
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["DiscriminatorAdvantage"]

STEPS = 100
"""Number of the last steps over which the advantage is averaged."""
FULL_ADVANTAGE = 0.2
"""Advantage from which on the generator learns at the full learning rate."""
CERTAINTY = 2.0
"""Standard errors that are subtracted from the advantage, so that chance is not taken for an advantage."""


class DiscriminatorAdvantage:
    """Mean score of real minus mean score of generated crops over the last steps.

    The advantage is 0 if the discriminator does not tell the crops apart, and 1 if it always does.

    Parameters
    ----------
    differences
        Score differences of the last steps, from a checkpoint.
    """

    def __init__(self, differences: Iterable[float] = ()) -> None:
        self.differences = deque(differences, maxlen=STEPS)

    def add(self, difference: float) -> None:
        """Add the score difference of a step: mean score of its real minus that of its generated crops.

        Parameters
        ----------
        difference
            The score difference, measured before the discriminator learns from these crops.
        """
        self.differences.append(difference)

    def values(self) -> Float[Tensor, " steps"]:
        """Return the score differences for a checkpoint: always as many values, those that are missing infinite."""
        values = torch.full((STEPS,), math.inf, dtype=torch.float64)
        values[:len(self.differences)] = torch.tensor(list(self.differences), dtype=torch.float64)
        return values

    @classmethod
    def from_values(cls, values: Float[Tensor, " steps"] | None) -> "DiscriminatorAdvantage":
        """Return what a checkpoint holds; None: one of a version without it."""
        return cls([] if values is None else values[values.isfinite()].tolist())

    def generator_pace(self) -> float:
        """Factor of the generator's learning rate, from 0 to 1.

        Without an advantage, trainings drifted away from the real micrographs. The probable cause: the gradient of the
        adversarial loss is chance then, and the optimiser (Adam) divides gradients by their own size, so that the
        generator takes steps of full length in random directions. In the first steps, the discriminator learns alone.
        """
        if len(self.differences) < STEPS:
            return 0.0
        error = statistics.stdev(self.differences) / math.sqrt(STEPS)
        certain = statistics.fmean(self.differences) - CERTAINTY * error
        return min(max(certain / FULL_ADVANTAGE, 0.0), 1.0)
