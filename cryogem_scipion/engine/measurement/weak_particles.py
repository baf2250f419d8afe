# SPDX-License-Identifier: GPL-3.0-or-later
"""Number and amplitude of particles too weak to stand out one by one, told by the power spectrum and all peaks."""
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryogem_scipion.engine.measurement.comparison import BIN, Comparison, compare
from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial, try_assumption
from cryogem_scipion.engine.measurement.synthesis import BANDS, Assumption

__all__ = ["measure_weak"]

log = logging.getLogger("cryogem")

DENSITIES = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
"""Factors on the number of particles that are compared where single particles are too weak to count."""
DENSEST = 0.9
"""Part of the area that particles cover at most where they are too weak to count."""

Array = NDArray[np.float64]


def measure_weak(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], assumed: Assumption,
                 areas: Sequence[float], highest: float, seed: int) -> tuple[Assumption, Trial, Comparison]:
    """Measure number and amplitude where single particles do not stand out.

    The spectrum tells number · amplitude²; the heights of the peaks and the amplitude at them tell which pair it is.

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
    flat = np.full(BANDS, float(np.median(assumed.amplitude)))
    cover = 0.3
    amplitude = flat
    for number in range(3):  # the spectrum's power at this density
        guess = Assumption(tuple(cover * area for area in areas), 0.9 * searcher.diameter, amplitude)
        trial = try_assumption(searcher, guess, (seed, "spectrum", number))
        comparison = compare(searcher, real_searches, trial, guess, highest)
        amplitude = amplitude * np.sqrt(np.clip(comparison.power_ratio, 0.03, 100.0))
    best: tuple[float, Assumption, Trial, Comparison] | None = None
    for step in range(2):
        centre = cover
        for factor in DENSITIES if step == 0 else (0.84, 1.0, 1.19):
            part = centre * factor
            if part > DENSEST:
                continue
            guess = Assumption(tuple(part * area for area in areas), min(0.9, 0.73 / np.sqrt(part)) * searcher.diameter,
                               amplitude * np.sqrt(0.3 / part))
            trial = try_assumption(searcher, guess, (seed, "weak", step, factor))
            comparison = compare(searcher, real_searches, trial, guess, np.inf)
            cost = _weak_cost(searcher, real_searches, trial, comparison)
            log.debug("cover %.2f: cost %.1f, spectral %.2f, cross %.3f ± %.3f against %.3f", part, cost,
                      comparison.power_ratio, comparison.real_level, comparison.level_error, comparison.generated_level)
            if best is None or cost < best[0]:
                best, cover = (cost, guess, trial, comparison), part
    assert best is not None
    return best[1], best[2], best[3]


def _weak_cost(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trial: Trial,
               comparison: Comparison) -> float:
    """Return how badly the generated fields agree with the real ones: a negative log likelihood."""
    edges = np.arange(2.0, 7.01, BIN)
    real_counts, generated_counts = (
        np.sum([np.histogram(search.by_all.scores, edges)[0] for search in searches], axis=0)
        for searches in (real_searches, trial.searches))
    expected = ndimage.gaussian_filter1d(generated_counts.astype(float), 0.7) + 0.5
    likelihood = float((expected - real_counts * np.log(expected)).sum())
    difference = comparison.real_level - comparison.generated_level
    return likelihood + 0.5 * difference**2 / (2 * max(comparison.level_error, 1e-6) ** 2)
