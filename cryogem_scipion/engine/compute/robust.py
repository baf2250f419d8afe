# SPDX-License-Identifier: GPL-3.0-or-later
"""Standard deviations that outliers do not change."""
from jaxtyping import Shaped
from torch import Tensor

__all__ = ["NORMAL_DEVIATION", "robust_deviation"]

NORMAL_DEVIATION = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def robust_deviation(values: Shaped[Tensor, "..."]) -> float:
    """Standard deviation of ``values`` from their median absolute deviation, as if they were normally distributed."""
    return NORMAL_DEVIATION * float((values - values.median()).abs().median())
