# SPDX-License-Identifier: GPL-3.0-or-later
"""Distances between a generated and a real set, with intervals, and the distances between halves of the sets."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.realism.frechet import feature_scale, frechet_distance

__all__ = ["DistanceEstimate", "GroupAverages", "PatchFeatures", "estimate_distances", "estimate_frechet_distance",
           "stack_averages"]

Means = TypeVar("Means", bound=tuple[Tensor, ...])

CONFIDENCE = 0.95
BOOTSTRAP_DRAWS = 400
"""Bootstrap samples for an interval."""
SPLITS = 40
"""Random splits of a set into halves."""
MANY_FEATURES = 512
"""From this number of features on, one Fréchet distance takes seconds; a tenth of the bootstrap samples are drawn."""


@dataclass(frozen=True)
class GroupAverages(Generic[Means]):
    """A set of micrographs as averages over groups of them; a group can be a single micrograph."""

    averages: Means
    """Named tuple of tensors; their first axis is the group."""
    counts: Float[Tensor, " groups"]
    """Micrographs in each group; float64."""

    def mean(self, weights: Float[Tensor, "*s groups"]) -> Means:
        """Averages of a set in which each group occurs ``weights`` times."""
        share = weights * self.counts
        share = share / share.sum(-1, keepdim=True)
        return type(self.averages)(*(torch.tensordot(share, part.double(), 1) for part in self.averages))


@dataclass(frozen=True)
class PatchFeatures:
    """A set of micrographs as feature vectors of patches."""

    features: Float[Tensor, "n d"]
    micrograph_indices: Int[Tensor, " n"]
    """Index of the micrograph that each patch comes from."""

    @property
    def counts(self) -> Float[Tensor, " micrographs"]:
        """Patches of each micrograph."""
        return torch.bincount(self.micrograph_indices).double()


@dataclass(frozen=True)
class DistanceEstimate:
    """A distance with its interval and its floor. The field names are keys in ``evaluation.json``."""

    value: float
    low: float
    high: float
    """Limits of the 95 % interval, in which the distance would lie for other micrographs from the same sources."""
    floor: float | None
    """Mean distance between two halves of the real set; None if the set is a single micrograph."""
    halves: float | None
    """Mean distance between half of the generated set and half of the real set; None if a set is a single micrograph.
    Compare this value with the floor: a distance of few micrographs is larger by chance."""


def stack_averages(averages: Sequence[Means]) -> GroupAverages[Means]:
    """A set whose groups are single micrographs, from the averages of each."""
    columns = [torch.stack([part.double() for part in column]) for column in zip(*averages, strict=True)]
    return GroupAverages(type(averages[0])(*columns), torch.ones(len(averages), dtype=torch.float64))


def estimate_distances(generated: GroupAverages[Means], real: GroupAverages[Means],
                       distances: Callable[[Means, Means], dict[str, Tensor]],
                       generator: torch.Generator) -> dict[str, DistanceEstimate]:
    """Distances between two sets, with their intervals and floors.

    The intervals come from bootstrap samples: the micrographs of both sets are drawn anew with repetition. Chance
    makes the distances of such samples larger on average, so the interval is moved until its median is the distance
    itself. If the distance is not negative, the interval is cut at 0.

    Parameters
    ----------
    distances
        Function that returns distances by name for the averages of two sets. The averages may have a leading axis of
        several sets.
    generator
        Random generator of the samples and splits.

    Raises
    ------
    DataError
        A set is empty.
    """
    generated_count, real_count = len(generated.counts), len(real.counts)
    if not generated_count or not real_count:
        raise DataError(f"there are {generated_count} generated and {real_count} real micrographs; give micrographs of "
                        "both sets")
    draws = distances(generated.mean(_bootstrap_weights(generated_count, BOOTSTRAP_DRAWS, generator)),
                      real.mean(_bootstrap_weights(real_count, BOOTSTRAP_DRAWS, generator)))
    values = distances(generated.mean(torch.ones(1, generated_count).double()),
                       real.mean(torch.ones(1, real_count).double()))
    floors: dict[str, Tensor] = {}
    halves: dict[str, Tensor] = {}
    if real_count > 1:
        real_half, other_real_half = _half_weights(real_count, SPLITS, generator)
        floors = distances(real.mean(real_half), real.mean(other_real_half))
        if generated_count > 1:
            halves = distances(generated.mean(_half_weights(generated_count, SPLITS, generator)[0]),
                               real.mean(real_half))
    return {name: _estimate(float(values[name]), draws[name], floors.get(name), halves.get(name))
            for name in values}


def estimate_frechet_distance(generated: PatchFeatures, real: PatchFeatures,
                              generator: torch.Generator) -> DistanceEstimate:
    """Fréchet distance between two sets, with its interval and floor as in ``estimate_distances``.

    Parameters
    ----------
    generator
        Random generator of the samples and splits.

    Raises
    ------
    DataError
        A set has fewer than two patches.

    References
    ----------
    arXiv:1706.08500
    """
    generated_count, real_count = len(generated.counts), len(real.counts)
    draw_count, splits = BOOTSTRAP_DRAWS // 4, SPLITS // 4
    if generated.features.shape[1] >= MANY_FEATURES:
        draw_count, splits = draw_count // 10, splits // 5
    scale = feature_scale(real.features)
    value = frechet_distance(generated.features, real.features, scale=scale)
    draws = _frechet_distances(generated, real, _bootstrap_weights(generated_count, draw_count, generator),
                               _bootstrap_weights(real_count, draw_count, generator), scale)
    if real_count < 2:
        return _estimate(value, draws, None, None)
    real_half, other_real_half = _half_weights(real_count, splits, generator)
    halves = None
    if generated_count > 1:
        generated_half = _half_weights(generated_count, splits, generator)[0]
        halves = _frechet_distances(generated, real, generated_half, real_half, scale)
    return _estimate(value, draws, _frechet_distances(real, real, real_half, other_real_half, scale), halves)


def _frechet_distances(first: PatchFeatures, second: PatchFeatures, first_weights: Float[Tensor, "s first"],
                       second_weights: Float[Tensor, "s second"], scale: Float[Tensor, " d"]) -> Float[Tensor, " s"]:
    """Fréchet distances of sets in which each micrograph occurs ``weights`` times."""
    values = []
    for first_row, second_row in zip(first_weights, second_weights, strict=True):
        patches, other_patches = first_row[first.micrograph_indices], second_row[second.micrograph_indices]
        values.append(frechet_distance(first.features[patches > 0], second.features[other_patches > 0],
                                       patches[patches > 0], other_patches[other_patches > 0], scale))
    return torch.tensor(values, dtype=torch.float64)


def _estimate(value: float, draws: Float[Tensor, " s"], floors: Tensor | None,
              halves: Tensor | None) -> DistanceEstimate:
    quantiles = torch.tensor([(1 - CONFIDENCE) / 2, 0.5, (1 + CONFIDENCE) / 2], dtype=torch.float64)
    low, median, high = torch.quantile(draws.double(), quantiles).tolist()
    low = value + low - median
    return DistanceEstimate(value, max(low, 0.0) if value >= 0 else low, value + high - median,
                            None if floors is None else float(floors.mean()),
                            None if halves is None else float(halves.mean()))


def _half_weights(count: int, splits: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights 0 and 1 of two random halves of ``count`` micrographs; if ``count`` is odd, one is in neither half."""
    order = torch.rand(splits, count, generator=generator).argsort(1)
    first, second = (torch.zeros(splits, count, dtype=torch.float64).scatter_(1, half, 1.0)
                     for half in (order[:, :count // 2], order[:, count // 2:2 * (count // 2)]))
    return first, second


def _bootstrap_weights(count: int, draws: int, generator: torch.Generator) -> Float[Tensor, "draws count"]:
    """How often each of ``count`` micrographs occurs in each bootstrap sample."""
    drawn = torch.randint(count, (draws, count), generator=generator)
    return torch.zeros(draws, count, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(draws, count, dtype=torch.float64))
