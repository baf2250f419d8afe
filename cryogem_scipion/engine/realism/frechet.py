# SPDX-License-Identifier: GPL-3.0-or-later
"""Fréchet distance of two sets of feature vectors, each described by a Gaussian distribution."""
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.errors import DataError

__all__ = ["feature_scale", "frechet_distance"]

RIDGE = 1e-6
"""Added to the variances, in units of ``feature_scale``, so that the covariance matrices are positive definite."""


def frechet_distance(features: Float[Tensor, "n d"], other_features: Float[Tensor, "m d"],
                     weights: Float[Tensor, " n"] | None = None, other_weights: Float[Tensor, " m"] | None = None,
                     scale: Float[Tensor, " d"] | None = None) -> float:
    """Squared Fréchet distance |μ - ν|² + tr(A + B - 2 (A B)^½) of two Gaussian distributions.

    μ and ν are the means of the sets, A and B their covariance matrices. Each feature is divided by its scale first,
    so that all features count alike. If a set has fewer vectors than features, the distance of equal distributions is
    far from 0: compare it with the distance of two real sets of the same sizes.

    Parameters
    ----------
    features, other_features
        One feature vector in each row.
    weights, other_weights
        How often each vector counts. None: once.
    scale
        Unit of each feature. None: ``feature_scale(other_features)``.

    Raises
    ------
    DataError
        A set has fewer than two vectors. Sets with weights are not checked.

    References
    ----------
    doi:10.1016/0047-259X(82)90077-X; for generated images arXiv:1706.08500 (Fréchet inception distance)
    """
    if weights is None and other_weights is None and min(len(features), len(other_features)) < 2:
        raise DataError(f"the sets have {len(features)} and {len(other_features)} patches; a Fréchet distance needs at "
                        "least two of each set")
    mean, covariance = _moments(features, weights)
    other_mean, other_covariance = _moments(other_features, other_weights)
    scale = feature_scale(other_features) if scale is None else scale
    shift = (mean - other_mean) / scale
    ridge = RIDGE * torch.eye(len(scale), dtype=torch.float64)
    first, second = (matrix / scale[:, None] / scale + ridge for matrix in (covariance, other_covariance))
    # tr (A B)^½ is the sum of the roots of the eigenvalues of A^½ B A^½, which is symmetric.
    eigenvalues, eigenvectors = torch.linalg.eigh(first)
    root = eigenvectors * eigenvalues.clamp(min=0).sqrt() @ eigenvectors.T
    trace_of_root = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float(shift.square().sum() + first.trace() + second.trace() - 2 * trace_of_root)


def feature_scale(features: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Standard deviation of each feature, but at least 1 % of the median over all features."""
    deviation = features.to("cpu", torch.float64).std(0)
    return deviation.clamp(min=max(0.01 * float(deviation.median()), RIDGE))


def _moments(features: Float[Tensor, "n d"], weights: Float[Tensor, " n"] | None
             ) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Weighted mean and covariance matrix; float64 on the CPU."""
    values = features.to("cpu", torch.float64)
    weights = torch.ones(len(values), dtype=torch.float64) if weights is None else weights.to("cpu", torch.float64)
    total = weights.sum()
    mean = weights @ values / total
    centred = values - mean
    return mean, (centred * weights[:, None]).T @ centred / (total - 1).clamp(min=1)
