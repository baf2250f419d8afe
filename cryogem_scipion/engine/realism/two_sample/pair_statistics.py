# SPDX-License-Identifier: GPL-3.0-or-later
"""AUC of judged micrographs, its interval over micrographs and seeds, and what chance gives."""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["AucEstimate", "Verdict", "adjusted_for_all", "estimate_auc", "pair_matrix"]

BOOTSTRAP_DRAWS = 1000
"""Bootstrap samples for an interval."""
PERMUTATIONS = 1000
"""Random assignments of the judged micrographs to the two sets."""
NORMAL_97_5 = 1.96
"""Deviations of a normal distribution within which 95 % lie."""


@dataclass(frozen=True)
class Verdict:
    """What one trained network says about the micrographs that it was not trained on."""

    seed_index: int
    positive: tuple[int, ...]
    """Index in its set of each judged micrograph of the first set."""
    negative: tuple[int, ...]
    """The same of the second set."""
    pairs: Float[Tensor, "n n"]
    """``pair_matrix`` of the judged micrographs, those of the first set before those of the second."""

    @property
    def across(self) -> Float[Tensor, "positive negative"]:
        """The comparisons between the sets."""
        return self.pairs[:len(self.positive), len(self.positive):]


@dataclass(frozen=True)
class AucEstimate:
    """AUC with two intervals. The field names are keys in ``evaluation.json``."""

    auc: float
    """Probability that a square of the first set gets more evidence for this set than a square of the second set."""
    low: float
    high: float
    """Limits of the 95 % interval, from bootstrap samples of the micrographs and seeds."""
    chance_low: float
    chance_high: float
    """Limits in which 95 % of the values lie if the two sets do not differ."""
    p: float
    """Probability of this AUC or a higher one if the two sets do not differ."""


def pair_matrix(scores: Float[Tensor, "micrographs squares"]) -> Float[Tensor, "micrographs micrographs"]:
    """Probability that a square of micrograph i has a higher score than a square of micrograph j.

    Equal scores count half. float64.
    """
    flat = scores.double()
    higher = flat[:, None, :, None] > flat[None, :, None, :]
    equal = flat[:, None, :, None] == flat[None, :, None, :]
    return (higher.double() + 0.5 * equal.double()).mean((2, 3))


def estimate_auc(verdicts: Sequence[Verdict], sizes: tuple[int, int], generator: torch.Generator,
                 by_chance: Float[Tensor, " draws"] | None = None) -> AucEstimate:
    """Combine the verdicts of all folds and seeds.

    The networks never saw the micrographs that they judge. So without a difference between the sets, the labels of
    these micrographs can be exchanged, and the spread of the AUC over such exchanges is the spread by chance. The AUCs
    of different folds and seeds depend on each other. The standard deviation of their mean is at most the mean of their
    standard deviations, and this largest value is used.

    Parameters
    ----------
    verdicts
        What each network says.
    sizes
        Number of micrographs of the two sets.
    generator
        Random generator of permutations and bootstrap samples.
    by_chance
        AUCs of random assignments with new networks for each. If they are given, what chance gives comes from them, and
        exactly.
    """
    auc = float(torch.stack([verdict.across.mean() for verdict in verdicts]).mean())
    low, high = _bootstrap_interval(verdicts, sizes, generator)
    if by_chance is not None:
        limits = torch.quantile(by_chance, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        p = (1 + int((by_chance >= auc).sum())) / (1 + len(by_chance))
        return AucEstimate(auc, min(low, auc), max(high, auc), limits[0], limits[1], p)
    spread = sum(_permutation_deviation(verdict, generator) for verdict in verdicts) / len(verdicts)
    # Networks whose scores are all equal have an AUC of 0.5 and no spread.
    p = 0.5 * math.erfc((auc - 0.5) / max(spread, 1e-12) / math.sqrt(2))
    return AucEstimate(auc, min(low, auc), max(high, auc), 0.5 - NORMAL_97_5 * spread, 0.5 + NORMAL_97_5 * spread, p)


def adjusted_for_all(probabilities: Sequence[float]) -> list[float]:
    """Return probabilities of several tests, adjusted for their number by the method of Holm.

    If none of the tests has anything to find, the probability that any adjusted value is below 0.05 is at most 5 %. The
    tests may depend on each other.

    Parameters
    ----------
    probabilities
        Probability by chance of each test's result.

    References
    ----------
    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    adjusted, largest = [0.0] * len(probabilities), 0.0
    order = sorted(range(len(probabilities)), key=lambda index: probabilities[index])
    for rank, index in enumerate(order):
        largest = min(1.0, max(largest, (len(order) - rank) * probabilities[index]))
        adjusted[index] = largest
    return adjusted


def _permutation_deviation(verdict: Verdict, generator: torch.Generator) -> float:
    """Standard deviation of the AUC when the judged micrographs are assigned to the sets at random."""
    count, first = len(verdict.pairs), len(verdict.positive)
    order = torch.rand(PERMUTATIONS, count, generator=generator, dtype=torch.float64).argsort(1)
    chosen = (order < first).double()
    values = ((chosen @ verdict.pairs) * (1 - chosen)).sum(1) / (first * (count - first))
    return float((values - 0.5).square().mean().sqrt())


def _bootstrap_interval(verdicts: Sequence[Verdict], sizes: tuple[int, int], generator: torch.Generator
                        ) -> tuple[float, float]:
    """95 % interval of the AUC over draws of micrographs and seeds with repetition."""
    weights = [torch.nn.functional.one_hot(torch.randint(size, (BOOTSTRAP_DRAWS, size), generator=generator), size)
               .sum(1).double() for size in sizes]
    seeds = max(verdict.seed_index for verdict in verdicts) + 1
    seed_weights = torch.nn.functional.one_hot(torch.randint(seeds, (BOOTSTRAP_DRAWS, seeds), generator=generator),
                                               seeds).sum(1).double()
    total, norm = torch.zeros(BOOTSTRAP_DRAWS).double(), torch.zeros(BOOTSTRAP_DRAWS).double()
    for verdict in verdicts:
        first, second = weights[0][:, list(verdict.positive)], weights[1][:, list(verdict.negative)]
        share = seed_weights[:, verdict.seed_index]
        total += share * ((first @ verdict.across) * second).sum(1)
        norm += share * first.sum(1) * second.sum(1)
    values = (total / norm)[norm > 0]
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
