# SPDX-License-Identifier: GPL-3.0-or-later
"""Variation of the contrast between particles, from the scores of the particles that the search finds."""
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

__all__ = ["ContrastSpread", "contrast_spread"]

SPREADS = np.linspace(0, 0.6, 61)
"""Relative standard deviations that are tried."""
SHIFTS = np.linspace(-0.2, 0.2, 41)
"""Relative differences of the mean score that are tried."""
BELOW = 1.0
"""Scores below the threshold from which peaks may be lifted: one standard deviation of the score's noise."""
LEAST_PEAKS = 100

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ContrastSpread:
    """Result of ``contrast_spread``."""

    spread: float
    """Standard deviation of the contrast over its mean."""
    error: float
    """Standard error of the spread; half of its 68 % interval where the spread is near 0."""
    shift: float
    """Mean score of real particles over that of generated ones, minus 1."""
    number_ratio: float
    """Number of real particles over that of generated ones, those below the threshold included."""


def contrast_spread(edges: Array, real_scores: Array, generated_scores: Array, threshold: float
                    ) -> ContrastSpread | None:
    """Compare the scores of real particles with those of generated particles that all have the same contrast.

    A score grows in proportion to the contrast. So the scores of particles whose contrast varies are those of equal
    particles times a log-normal factor. The spread, a shift of the mean and the number of particles that make the real
    histogram most likely (Poisson) are found by trying.

    Parameters
    ----------
    edges
        Of the histograms' bins of equal width (bin + 1); a last, wider bin does not count.
    real_scores, generated_scores
        Peaks in each bin (bin).
    threshold
        Score above which nearly all peaks are particles.

    Returns
    -------
    None if fewer than 100 peaks are above the threshold in either set.
    """
    middles = 0.5 * (edges[1:] + edges[:-1])
    used = (middles > threshold) & (np.arange(len(middles)) < len(middles) - 1)
    # Particles below the threshold count, too: their contrast may lift them above it.
    real, particles = real_scores[used], np.where(middles > threshold - BELOW, generated_scores, 0.0)
    if real.sum() < LEAST_PEAKS or generated_scores[used].sum() < LEAST_PEAKS:
        return None
    likelihood, ratio = np.empty((2, len(SPREADS), len(SHIFTS)))
    for row, spread in enumerate(SPREADS):
        for column, shift in enumerate(SHIFTS):
            expected = (_scattered(edges, middles * (1 + shift), spread) @ particles)[used] + 1e-3 * particles.max()
            ratio[row, column] = real.sum() / expected.sum()
            likelihood[row, column] = (real * np.log(expected * ratio[row, column])).sum()
    chance = np.exp(likelihood - likelihood.max())
    chance /= chance.sum()
    of_spread = chance.sum(1)
    best = float((of_spread * SPREADS).sum())
    error = float(np.sqrt((of_spread * (SPREADS - best) ** 2).sum()))
    # The generated histogram has a chance error of its own.
    error *= float(np.sqrt(1 + real.sum() / generated_scores[used].sum()))
    return ContrastSpread(best, error, float((chance.sum(0) * SHIFTS).sum()), float((chance * ratio).sum()))


def _scattered(edges: Array, scores: Array, spread: float) -> Array:
    """Probability that each score, times a log-normal factor with mean 1, comes into each bin (bin, score)."""
    # Within a bin, scores are spread evenly; the width of that distribution is added to that of the factor.
    within = (edges[1:] - edges[:-1]) / np.sqrt(12) / scores
    width = np.sqrt(np.log1p(spread**2 + within**2))
    below = ndtr((np.log(edges[:, None] / scores) + 0.5 * width**2) / width)
    probability: Array = np.diff(below, axis=0)
    return probability
