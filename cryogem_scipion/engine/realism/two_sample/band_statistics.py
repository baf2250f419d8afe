# SPDX-License-Identifier: GPL-3.0-or-later
"""Statistics of a micrograph's bands of spatial frequencies, and the linear network that judges them.

A network that learns its filters needs many micrographs to find differences that are weak everywhere, such as weaker
particles. Fixed filters followed by a linear layer have few free parameters and find them in few micrographs.
"""
import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.realism.two_sample.scales import Scale

__all__ = ["BandDifference", "BandJudge", "band_differences", "band_statistics", "chance_aucs", "train_band_judge"]

BAND_PERMUTATIONS = 499
"""Random assignments of the micrographs to the two sets."""
STATISTICS = ("standard deviation", "skewness", "kurtosis", "variance where particles are bright or dark",
              "variance where particles are strong", "mean where particles are strong")
"""Names of the statistics of a band, in their order."""
LEAST_VARIANCE = 1e-8
"""Smallest variance of a band, so that images without contents at some frequencies have finite statistics."""


@dataclass(frozen=True)
class BandDifference:
    """Difference of one statistic of one band between two sets. The field names are keys in ``evaluation.json``."""

    statistic: str
    period_angstrom: float
    """Period at which the band is strongest, Å."""
    deviations: float
    """Mean of the first set minus mean of the second, in standard deviations between the micrographs of a set."""


@dataclass(frozen=True)
class BandJudge:
    """A linear network that judges the statistics of squares."""

    centre: Float[Tensor, " statistics"]
    weights: Float[Tensor, " statistics"]

    def evidence(self, statistics: Float[Tensor, "*squares statistics"]) -> Float[Tensor, "*squares"]:
        """Evidence for the positive set in each square."""
        return (statistics - self.centre) @ self.weights


def band_statistics(image: Float[Tensor, "y x"], scale: Scale) -> Float[Tensor, "v u statistics"]:
    """Return six statistics of each band in overlapping squares, ``scale.step`` pixels apart.

    The first three are the logarithm of the standard deviation, the skewness and the logarithm of the kurtosis. The
    others tell how the band depends on the band of particles: at places where particles are likely, the finer details
    of particles change its variance and its mean.

    Parameters
    ----------
    image
        Grey values.
    scale
        Edge of the squares, and widths of the filters.
    """
    shape = (image.shape[0], image.shape[1])
    spectrum = fourier.rfft2(image)
    squares = fourier.fftfreq(shape[0])[:, None].square() + fourier.rfftfreq(shape[1]).square()

    def blurred(index: int) -> Float[Tensor, "y x"]:
        """The image without the bands up to this one."""
        if index < 0:
            return image
        return fourier.irfft2(spectrum * torch.exp(-2 * (torch.pi * scale.band_widths[index]) ** 2 * squares), shape)

    particles = blurred(scale.particle_band - 1) - blurred(scale.particle_band)
    particles = (particles - particles.mean()) / (particles.var() + LEAST_VARIANCE).sqrt()
    statistics, fine = [], image
    for index in range(len(scale.band_widths)):
        coarse = blurred(index)
        statistics.append(_square_statistics(fine - coarse, particles, scale))
        fine = coarse
    return torch.stack(statistics, -1).flatten(2).double()


def _square_statistics(band: Float[Tensor, "y x"], particles: Float[Tensor, "y x"], scale: Scale
                       ) -> Float[Tensor, "v u 6"]:
    """The six statistics of one band."""
    def averages(values: Float[Tensor, "y x"]) -> Float[Tensor, "v u"]:
        return avg_pool2d(values[None, None], scale.edge, scale.step)[0, 0]

    square = band.square()
    mean, second, third, fourth = (averages(values) for values in (band, square, square * band, square.square()))
    variance = second - mean.square() + LEAST_VARIANCE
    skewness = (third - 3 * mean * second + 2 * mean**3) / variance**1.5
    kurtosis = (fourth - 4 * mean * third + 6 * mean.square() * second - 3 * mean**4) / variance.square()
    power = particles.square()
    strength = averages(power) + LEAST_VARIANCE
    return torch.stack([
        variance.log() / 2, skewness, kurtosis.clamp(min=LEAST_VARIANCE).log(), averages(square * particles) / variance,
        averages(square * power) / (variance * strength), averages(band * power) / (variance.sqrt() * strength)], -1)


def train_band_judge(positive: Float[Tensor, "m n statistics"], negative: Float[Tensor, "k n statistics"]) -> BandJudge:
    """Return the linear network that tells the squares of two sets apart: a regularised discriminant of Fisher.

    Micrographs of one set differ from each other, for example in defocus. So the covariance is that of the micrographs'
    means. The unit matrix is added to it, because there are more statistics than micrographs.

    Parameters
    ----------
    positive, negative
        Statistics of the squares of each micrograph of both sets; float64.

    References
    ----------
    doi:10.1080/01621459.1989.10478752
    """
    sets = positive, negative
    deviation = torch.cat([one_set.flatten(0, 1) for one_set in sets]).std(0).clamp(min=LEAST_VARIANCE)
    means = [one_set.mean(1) / deviation for one_set in sets]
    centres = [values.mean(0) for values in means]
    residuals = torch.cat([values - centre for values, centre in zip(means, centres, strict=True)])
    covariance = residuals.T @ residuals
    covariance = covariance / covariance.diagonal().mean().clamp(min=LEAST_VARIANCE)
    weights = torch.linalg.solve(covariance + torch.eye(len(deviation)), centres[0] - centres[1]) / deviation
    return BandJudge((centres[0] + centres[1]) / 2 * deviation, weights)


def band_differences(positive: Float[Tensor, "m n statistics"], negative: Float[Tensor, "k n statistics"], scale: Scale
                     ) -> list[BandDifference]:
    """Return the differences of all statistics and bands between two sets, the largest first.

    Parameters
    ----------
    positive, negative
        Statistics of the squares of each micrograph of both sets; float64.
    scale
        Widths of the filters.
    """
    means = [one_set.mean(1) for one_set in (positive, negative)]
    deviation = ((means[0].var(0) + means[1].var(0)) / 2 + LEAST_VARIANCE).sqrt()
    differences = ((means[0].mean(0) - means[1].mean(0)) / deviation).tolist()
    widths = (0.0, *scale.band_widths)
    periods = [_strongest_period(*pair) * scale.pixel_size for pair in pairwise(widths)]
    found = [BandDifference(STATISTICS[index // len(periods)], periods[index % len(periods)], value)
             for index, value in enumerate(differences)]
    return sorted(found, key=lambda difference: -abs(difference.deviations))


def _strongest_period(fine: float, coarse: float) -> float:
    """Period (px) at which the difference of two Gaussian blurs (standard deviations in px) is strongest."""
    if fine == 0:
        return 2.0
    frequency = math.sqrt(math.log(coarse / fine) / (coarse**2 - fine**2)) / math.pi
    return max(2.0, 1 / frequency)


def chance_aucs(statistics: Float[Tensor, "m n statistics"], first: int, folds: int, generator: torch.Generator
                ) -> Float[Tensor, " draws"]:
    """AUCs when the micrographs are assigned to the sets at random, each time with new networks.

    Parameters
    ----------
    statistics
        Statistics of the squares of each micrograph; float64.
    first
        Number of micrographs of the first set.
    folds
        Parts of each set; a network learns from all parts but one.
    generator
        Random generator of the assignments.
    """
    values = []
    for _ in range(BAND_PERMUTATIONS):
        order = torch.randperm(len(statistics), generator=generator)
        sets = order[:first], order[first:]
        aucs = []
        for fold in range(folds):
            judged = [one_set[fold::folds] for one_set in sets]
            trained = [one_set[torch.arange(len(one_set)) % folds != fold] for one_set in sets]
            judge = train_band_judge(statistics[trained[0]], statistics[trained[1]])
            aucs.append(_auc(*(judge.evidence(statistics[one_set]).flatten() for one_set in judged)))
        values.append(sum(aucs) / folds)
    return torch.tensor(values, dtype=torch.float64)


def _auc(positive: Float[Tensor, " m"], negative: Float[Tensor, " k"]) -> float:
    """Share of the pairs in which the first value is the higher one."""
    below = torch.searchsorted(negative.sort().values, positive)
    return float(below.double().mean()) / len(negative)
