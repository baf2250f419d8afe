# SPDX-License-Identifier: GPL-3.0-or-later
"""Two sets compared: each distance with its interval, and beside it that of two halves of the real set."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.realism.frechet import feature_unit, frechet

__all__ = ["Figure", "Pieces", "Sample", "compare", "compare_frechet", "stacked"]

Means = TypeVar("Means", bound=tuple[Tensor, ...])

CONFIDENCE = 0.95
REPLICAS = 400
"""Sets that are drawn for an interval."""
SPLITS = 40
"""How often a set is split into halves."""
COSTLY = 512
"""Features from which a Fréchet distance takes seconds, and a tenth as many are computed."""


@dataclass(frozen=True)
class Sample(Generic[Means]):
    """A set of micrographs as averages of each of them, or of each group of them."""

    averages: Means
    """A named tuple of tensors, stacked along the first axis."""
    counts: Float[Tensor, " groups"]
    """Micrographs in each group; float64."""

    def mean(self, weights: Float[Tensor, "*s groups"]) -> Means:
        """Averages of the set in which each group occurs so many times."""
        share = weights * self.counts
        share = share / share.sum(-1, keepdim=True)
        return type(self.averages)(*(torch.tensordot(share, part.double(), 1) for part in self.averages))


@dataclass(frozen=True)
class Pieces:
    """A set of micrographs as feature vectors of pieces of them."""

    features: Float[Tensor, "n d"]
    owners: Int[Tensor, " n"]
    """Which micrograph each piece comes from."""

    @property
    def counts(self) -> Float[Tensor, " groups"]:
        """Pieces of each micrograph."""
        return torch.bincount(self.owners).double()


@dataclass(frozen=True)
class Figure:
    """A distance, and what to hold it against."""

    value: float
    low: float
    high: float
    """Limits of its interval: what it would be for other micrographs of the same kinds."""
    floor: float | None
    """The same between two halves of the real set; None where it has a single micrograph."""
    halves: float | None
    """The same between half of the generated and half of the real set: this is what the floor is to be compared
    with, for chance adds the more to a distance the fewer micrographs it is taken of."""


def stacked(averages: Sequence[Means]) -> Sample[Means]:
    """A sample from the averages of its micrographs."""
    parts = [torch.stack([part.double() for part in column]) for column in zip(*averages, strict=True)]
    return Sample(type(averages[0])(*parts), torch.ones(len(averages), dtype=torch.float64))


def compare(generated: Sample[Means], real: Sample[Means], distances: Callable[[Means, Means], dict[str, Tensor]],
            generator: torch.Generator) -> dict[str, Figure]:
    """Return every distance with its interval and floor.

    The interval is that of a bootstrap: micrographs of both sets are drawn anew, with repetition. The distance of
    such draws is on average larger than that of the sets, since chance sets them apart; so the interval is moved
    until its middle lies on the value, and cut at 0.

    Parameters
    ----------
    distances
        Of the averages of two sets, by name; they may have a leading axis of several sets.
    generator
        For the draws; the same state gives the same figures.

    Raises
    ------
    DataError
        A set is empty.
    """
    one, other = len(generated.counts), len(real.counts)
    if not one or not other:
        raise DataError(f"{one} generated and {other} real micrographs; a comparison needs both")
    draws = distances(generated.mean(_drawn(one, REPLICAS, generator)), real.mean(_drawn(other, REPLICAS, generator)))
    values = distances(generated.mean(torch.ones(1, one).double()), real.mean(torch.ones(1, other).double()))
    floors: dict[str, Tensor] = {}
    halves: dict[str, Tensor] = {}
    if other > 1:
        left, right = _halves(other, SPLITS, generator)
        floors = distances(real.mean(left), real.mean(right))
        if one > 1:
            halves = distances(generated.mean(_halves(one, SPLITS, generator)[0]), real.mean(left))
    return {name: _figure(float(values[name]), draws[name], floors.get(name), halves.get(name))
            for name in values}


def compare_frechet(generated: Pieces, real: Pieces, generator: torch.Generator) -> Figure:
    """Return the Fréchet distance with its interval and floor, as ``compare`` does.

    Raises
    ------
    DataError
        A set has too few pieces.
    """
    one, other = len(generated.counts), len(real.counts)
    replicas, splits = REPLICAS // 4, SPLITS // 4
    if generated.features.shape[1] >= COSTLY:
        replicas, splits = replicas // 10, splits // 5
    unit = feature_unit(real.features)
    value = frechet(generated.features, real.features, unit=unit)
    draws = _distances(generated, real, _drawn(one, replicas, generator), _drawn(other, replicas, generator), unit)
    if other < 2:
        return _figure(value, draws, None, None)
    left, right = _halves(other, splits, generator)
    halves = _distances(generated, real, _halves(one, splits, generator)[0], left, unit) if one > 1 else None
    return _figure(value, draws, _distances(real, real, left, right, unit), halves)


def _distances(one: Pieces, other: Pieces, weights: Float[Tensor, "s one"], other_weights: Float[Tensor, "s other"],
               unit: Float[Tensor, " d"]) -> Float[Tensor, " s"]:
    """Fréchet distances of the sets in which each micrograph occurs so many times."""
    found = []
    for row, other_row in zip(weights, other_weights, strict=True):
        many, more = row[one.owners], other_row[other.owners]
        found.append(frechet(one.features[many > 0], other.features[more > 0], many[many > 0], more[more > 0], unit))
    return torch.tensor(found, dtype=torch.float64)


def _figure(value: float, draws: Float[Tensor, " s"], floors: Tensor | None, halves: Tensor | None) -> Figure:
    places = torch.tensor([(1 - CONFIDENCE) / 2, 0.5, (1 + CONFIDENCE) / 2], dtype=torch.float64)
    low, middle, high = torch.quantile(draws.double(), places).tolist()
    low = value + low - middle
    return Figure(value, max(low, 0.0) if value >= 0 else low, value + high - middle,
                  None if floors is None else float(floors.mean()), None if halves is None else float(halves.mean()))


def _halves(count: int, splits: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights 0 and 1 of two halves of so many things, at random; of an odd number one is left over."""
    order = torch.rand(splits, count, generator=generator).argsort(1)
    one, other = (torch.zeros(splits, count, dtype=torch.float64).scatter_(1, part, 1.0)
                  for part in (order[:, :count // 2], order[:, count // 2:2 * (count // 2)]))
    return one, other


def _drawn(count: int, replicas: int, generator: torch.Generator) -> Float[Tensor, "replicas count"]:
    """How often each of so many things occurs in draws with repetition."""
    places = torch.randint(count, (replicas, count), generator=generator)
    return torch.zeros(replicas, count, dtype=torch.float64).scatter_add_(
        1, places, torch.ones(replicas, count, dtype=torch.float64))
