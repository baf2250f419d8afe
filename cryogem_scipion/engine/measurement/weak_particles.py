# SPDX-License-Identifier: GPL-3.0-or-later
"""Number and amplitude of particles too weak to stand out one by one, told by the power spectrum and all peaks."""
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryogem_scipion.engine.measurement.comparison import BIN, Comparison, compare
from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial, try_assumption
from cryogem_scipion.engine.measurement.spectral_strength import spectral_strength
from cryogem_scipion.engine.measurement.synthesis import BANDS, Assumption

__all__ = ["measure_weak"]

log = logging.getLogger("cryogem")

COVERS = (0.1, 0.15, 0.21, 0.3, 0.42, 0.6, 0.85)
"""Parts of the area that particles cover, which are compared where single particles are too weak to count."""
DENSEST_DISTANCE, DISTANCE = 0.9, 0.73
"""Particle distance in diameters: of sparse particles, and times the square root of the covered part of dense ones."""

Array = NDArray[np.float64]


def measure_weak(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], assumed: Assumption,
                 areas: Sequence[float], highest: float, seed: int) -> tuple[Assumption, Trial, Comparison]:
    """Measure number and amplitude where single particles do not stand out.

    The spectrum tells number · amplitude²; the heights of the peaks and the amplitude at them tell which pair it is. If
    they do not tell, the likelihood is even, and the number is the middle of those that were tried.

    Parameters
    ----------
    real_searches
        One for each real field.
    assumed
        Gives the amplitude to start with.
    areas
        Of each field, in areas of a particle.
    highest
        Score from which peaks do not count for the first amplitude.
    """
    flat = np.full(BANDS, max(float(np.median(assumed.amplitude)), 1e-12))
    costs = []
    for cover in COVERS:
        guess = _covering(searcher, areas, cover, flat)
        trial = try_assumption(searcher, guess, (seed, "spectrum", cover))
        guess = replace(guess, amplitude=flat * _factor(searcher, trial))
        trial = try_assumption(searcher, guess, (seed, "weak", cover))
        comparison = compare(searcher, real_searches, trial, guess, np.inf)
        costs.append(_weak_cost(real_searches, trial, comparison))
        log.debug("cover %.2f: cost %.1f, cross %.3f ± %.3f against %.3f", cover, costs[-1], comparison.real_level,
                  comparison.level_error, comparison.generated_level)
    likelihood = np.exp(-(np.array(costs) - min(costs)) / 2)
    cover = float(np.exp(np.average(np.log(COVERS), weights=likelihood)))
    guess = _covering(searcher, areas, cover, flat)
    for round_number in range(2):  # the second corrects what chance did in the first
        trial = try_assumption(searcher, guess, (seed, "cover", round_number))
        guess = replace(guess, amplitude=guess.amplitude * _factor(searcher, trial))
    trial = try_assumption(searcher, guess, (seed, "last weak"))
    return guess, trial, compare(searcher, real_searches, trial, guess, highest)


def _covering(searcher: ParticleSearcher, areas: Sequence[float], cover: float, amplitude: Array) -> Assumption:
    """Particles that cover a part of the area."""
    distance = min(DENSEST_DISTANCE, DISTANCE / np.sqrt(cover)) * searcher.diameter
    return Assumption(tuple(cover * area for area in areas), distance, amplitude)


def _factor(searcher: ParticleSearcher, trial: Trial) -> float:
    """By what the amplitude has to be multiplied for the power that the real spectra have."""
    strength = spectral_strength(searcher.fields, trial.fields, searcher.diameter)
    return 1.0 if strength is None else float(np.sqrt(max(strength.ratio, 1e-8)))


def _weak_cost(real_searches: Sequence[FieldSearch], trial: Trial, comparison: Comparison) -> float:
    """Return how badly the generated fields agree with the real ones: twice a negative log likelihood."""
    edges = np.arange(2.0, 7.01, BIN)
    real_counts, generated_counts = (
        np.sum([np.histogram(search.by_all.scores, edges)[0] for search in searches], axis=0)
        for searches in (real_searches, trial.searches))
    expected = ndimage.gaussian_filter1d(generated_counts.astype(float), 0.7) + 0.5
    likelihood = float((expected - real_counts * np.log(expected)).sum())
    difference = comparison.real_level - comparison.generated_level
    # The generated counts have an error of their own, so that the real ones differ by twice the variance of chance.
    return likelihood + difference**2 / (2 * max(comparison.level_error, 1e-6) ** 2)
