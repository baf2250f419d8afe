# SPDX-License-Identifier: GPL-3.0-or-later
"""Choice of the checkpoint that becomes the model, and of the end of a training that no longer improves."""
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

__all__ = ["LARGEST_GROWTH", "SMALLEST_AUC_IMPROVEMENT", "SMALLEST_REALISM_IMPROVEMENT", "StateChoice"]

LARGEST_GROWTH = 1.2
"""If the distance metric is more than this many times that of the first validation, the generator returns to the best
checkpoint. The critic sees small squares only, and this keeps larger structures and the ice."""
SMALLEST_AUC_IMPROVEMENT = 0.035
"""By how much the AUC has to fall for another checkpoint to become the best one. Smaller differences are chance: two
standard errors of the difference of two validations near 0.5, each the mean of two AUCs from 512 squares of both sets
(doi:10.1148/radiology.143.1.7063747)."""
SMALLEST_REALISM_IMPROVEMENT = 0.05
"""By which share the distance metric has to fall for another checkpoint to become the best one, where the AUC does not
rise. So the distance decides where the critic tells nothing apart."""


@dataclass(frozen=True)
class StateChoice:
    """The best validation so far. The field names are keys of a checkpoint."""

    first_realism: float | None = None
    """Distance metric of the first validation; None before it."""
    best_step: int = 0
    best_realism: float | None = None
    """Distance metric of the best checkpoint; None before the first validation."""
    best_auc: float | None = None
    """Mean AUC of the critic for the best checkpoint; None before the first validation."""
    without_improvement: int = 0
    """Number of validations since the best one."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "StateChoice":
        """Read the choice from the values of a checkpoint.

        In a checkpoint of a version without the critic, the AUC is missing. Then the best checkpoint stays the best one
        until the next validation, which counts as the first one.
        """
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    def values(self) -> dict[str, Any]:
        """Values for a checkpoint."""
        return asdict(self)

    def after(self, step: int, validation: Mapping[str, float]) -> "StateChoice":
        """Choice after another validation; ``best_step`` is ``step`` if this is the best one.

        Parameters
        ----------
        step
            Number of finished steps.
        validation
            Result of ``ValidationMetric``.
        """
        realism, auc = validation["realism"], validation["auc"]
        first = realism if self.first_realism is None else self.first_realism
        if realism <= LARGEST_GROWTH * first and self._improved_by(realism, auc):
            return StateChoice(first, step, realism, auc, 0)
        return replace(self, first_realism=first, without_improvement=self.without_improvement + 1)

    def is_too_far(self, validation: Mapping[str, float]) -> bool:
        """Whether the distance metric of a validation is too much larger than that of the first one.

        Parameters
        ----------
        validation
            Result of ``ValidationMetric``.
        """
        return self.first_realism is not None and validation["realism"] > LARGEST_GROWTH * self.first_realism

    def _improved_by(self, realism: float, auc: float) -> bool:
        """Whether the AUC is lower, or, where it is not higher, the distance."""
        if self.best_auc is None or self.best_realism is None:
            return True
        return (auc < self.best_auc - SMALLEST_AUC_IMPROVEMENT
                or (auc <= self.best_auc and realism < (1 - SMALLEST_REALISM_IMPROVEMENT) * self.best_realism))
