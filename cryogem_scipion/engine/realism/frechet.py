# SPDX-License-Identifier: GPL-3.0-or-later
"""Fréchet distance of two sets of feature vectors, taken as Gaussian clouds."""
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.errors import DataError

__all__ = ["feature_unit", "frechet"]

RIDGE = 1e-6
"""Added to the variances, so that features that never change do no harm."""


def frechet(one: Float[Tensor, "n d"], other: Float[Tensor, "m d"], one_weights: Float[Tensor, " n"] | None = None,
            other_weights: Float[Tensor, " m"] | None = None, unit: Float[Tensor, " d"] | None = None) -> float:
    """Squared distance |μ - ν|² + tr(A + B - 2 (A B)^½) of the Gaussians of two sets.

    Each feature is measured in a unit of its own, so that none counts by its size. With no more vectors than features
    the distance of equal distributions is far from 0: compare it with that of two real sets of the same sizes.

    Parameters
    ----------
    one, other
        A vector in each row.
    one_weights, other_weights
        How often each vector counts; once where None.
    unit
        Of each feature; None takes ``feature_unit(other)``.

    Raises
    ------
    DataError
        A set has fewer than two vectors.

    References
    ----------
    doi:10.1016/0047-259X(82)90077-X; as a score of generated images arXiv:1706.08500
    """
    if one_weights is None and other_weights is None and min(len(one), len(other)) < 2:
        raise DataError(f"{len(one)} and {len(other)} pieces of image; a Fréchet distance needs two of each set")
    (mean, covariance), (other_mean, other_covariance) = _moments(one, one_weights), _moments(other, other_weights)
    unit = feature_unit(other) if unit is None else unit
    shift = (mean - other_mean) / unit
    ridge = RIDGE * torch.eye(len(unit), dtype=torch.float64)
    first, second = (matrix / unit[:, None] / unit + ridge for matrix in (covariance, other_covariance))
    # tr (A B)^½ is the sum of the roots of the eigenvalues of A^½ B A^½, which is symmetric.
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float(shift.square().sum() + first.trace() + second.trace() - 2 * cross)


def feature_unit(features: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Standard deviation of each feature; of those that hardly ever change a hundredth of what is usual."""
    deviation = features.to("cpu", torch.float64).std(0)
    return deviation.clamp(min=max(0.01 * float(deviation.median()), RIDGE))


def _moments(features: Float[Tensor, "n d"], weights: Float[Tensor, " n"] | None
             ) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and covariance, float64 on the CPU."""
    values = features.to("cpu", torch.float64)
    share = torch.ones(len(values), dtype=torch.float64) if weights is None else weights.to("cpu", torch.float64)
    total = share.sum()
    mean = share @ values / total
    centred = values - mean
    return mean, (centred * share[:, None]).T @ centred / (total - 1).clamp(min=1)
