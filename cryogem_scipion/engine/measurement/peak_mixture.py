# SPDX-License-Identifier: GPL-3.0-or-later
"""Number and contrast of the particles in each field, from the heights of the search's peaks.

The peaks of a field are a mixture of particles and others. How high both are is known from generated fields. A real
field may differ: its particles' contrast (thick ice), the spread of the contrast from particle to particle, and the
level of its noise. So these are fitted together with the number of particles.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryogem_scipion.engine.measurement.particle_search import FieldSearch, Trial
from cryogem_scipion.engine.measurement.search_field import SearchField

__all__ = ["FIELD_SPREAD", "FieldPeaks", "PeakModel", "fit_peaks", "peak_model"]

STEP = 0.1
"""Width of the grid of scores, in standard deviations of the noise."""
KERNEL = 0.25
"""Deviation of the Gaussian by which the generated scores are smoothed."""
LOWEST = 1.0
"""Peaks below this score are not modelled."""
FLOOR = 0.2
"""Peaks per unit of score that neither particles nor noise give: contaminants of any height."""
ROUNDS = 60
BORROWED = 10
"""Peaks of the whole set that the typical height of a field's particles borrows, for fields with few."""
FIELD_SPREAD = 0.15
"""Relative deviation of the contrast between fields that is expected before it is measured: ice of half to double the
usual 30 nm changes the elastic signal by about this."""
LEAST_SPREAD = 0.05
"""Smallest relative deviation of the contrast between fields that is assumed, so that no field is held at the mean of
the others."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PeakModel:
    """Heights of the peaks in generated fields of known truth."""

    particles: Array
    """Scores of particles minus the typical one of their field."""
    typical: Array
    """Typical score of the particles of each field."""
    detected: float
    """Peaks for each particle."""
    others: Array
    """Scores of the other peaks."""


@dataclass(frozen=True)
class FieldPeaks:
    """What the peaks of the fields tell."""

    counts: Array
    """Particles in the searched part of each field."""
    count_errors: Array
    """Standard errors of these numbers, for the fields as they are."""
    contrasts: Array
    """Contrast of the particles of each field over that in the generated ones."""
    contrast_errors: Array
    spread_square: float
    """Squared relative deviation of the contrast between particles, beyond that in the generated fields. It is negative
    if theirs is larger."""


def peak_model(trials: Sequence[Trial]) -> PeakModel:
    """Return the heights of peaks in one or more sets of generated fields."""
    numbers = range(len(trials[0].searches))
    hits = [np.concatenate([trial.searches[i].by_all.scores[trial.hits[i]] for trial in trials]) for i in numbers]
    others = [trial.searches[i].by_all.scores[~trial.hits[i]] for trial in trials for i in numbers]
    every = np.concatenate(hits)
    middle = float(np.median(every)) if len(every) else LOWEST
    typical = np.array([(len(own) * (float(np.median(own)) if len(own) else middle) + BORROWED * middle)
                        / (len(own) + BORROWED) for own in hits])
    present = max(sum(len(field.centres) for trial in trials for field in trial.fields), 1)
    return PeakModel(np.concatenate([own - height for own, height in zip(hits, typical, strict=True)]), typical,
                     max(len(every), 1) / present, np.concatenate(others))


def fit_peaks(model: PeakModel, fields: Sequence[SearchField], searches: Sequence[FieldSearch], highest: float
              ) -> FieldPeaks:
    """Fit the mixture to each field; the spread of the contrast is common to all.

    Expectation maximisation: each peak is a particle with a probability, and numbers, contrasts and noise levels follow
    from these. A field's contrast is drawn to the mean of the set as far as it is uncertain.

    Parameters
    ----------
    highest
        Peaks with this score or more are no particles.

    References
    ----------
    doi:10.1111/j.2517-6161.1977.tb01600.x
    """
    scores = [search.by_all.scores[(search.by_all.scores > LOWEST) & (search.by_all.scores < highest)]
              for search in searches]
    states = [_FieldState.started(model, own, height, field.searched)
              for own, height, field in zip(scores, model.typical, fields, strict=True)]
    own_variance = float(model.particles.var()) if len(model.particles) > 1 else 1.0
    spread_square, between = 0.0, FIELD_SPREAD**2
    for _ in range(ROUNDS):
        states = [state.improved(model, spread_square) for state in states]
        weights = np.array([state.weight for state in states])
        means = np.array([state.mean / height for state, height in zip(states, model.typical, strict=True)])
        errors = np.array([math.sqrt((own_variance + max(spread_square, 0) * height**2) / max(weight, 1)) / height
                           for weight, height in zip(weights, model.typical, strict=True)])
        middle = float(np.average(means, weights=1 / (errors**2 + between)))
        if len(means) > 2:
            between = max(float(np.average((means - middle) ** 2 - errors**2, weights=1 / (errors**2 + between))),
                          LEAST_SPREAD**2)
        shrunk = (means * between + middle * errors**2) / (between + errors**2)
        states = [state.shifted(float(contrast)) for state, contrast in zip(states, shrunk, strict=True)]
        excess = [state.weight * (state.variance - own_variance) / height**2
                  for state, height in zip(states, model.typical, strict=True)]
        spread_square = 0.5 * spread_square + 0.5 * float(np.clip(sum(excess) / max(weights.sum(), 1), -0.02, 0.25))
    counts = np.array([state.weight for state in states]) / model.detected
    unsure = np.array([state.unsure for state in states])
    missed = counts * max(1 - model.detected, 0.0)
    return FieldPeaks(counts, np.sqrt(unsure + missed + 1), shrunk, errors, spread_square)


@dataclass(frozen=True)
class _FieldState:
    """The mixture of one field in a round."""

    scores: Array
    typical: float
    contrast: float
    weight: float
    """Peaks that are particles."""
    others: float
    others_shift: float
    mean: float
    variance: float
    unsure: float
    """Sum of p (1 − p) over the peaks."""

    @classmethod
    def started(cls, model: PeakModel, scores: Array, typical: float, searched: float) -> "_FieldState":
        border = (typical + float(np.median(model.others)) if len(model.others) else 0.0) / 2
        above = float((scores > border).sum())
        return cls(scores, typical, 1.0, above, len(scores) - above, 0.0, typical, 1.0, 0.0)

    def improved(self, model: PeakModel, spread_square: float) -> "_FieldState":
        """The state after one round of expectation maximisation."""
        width = math.sqrt(KERNEL**2 + max(spread_square, 0.0) * self.typical**2)
        as_particle = self.weight * _density(self.scores - self.contrast * self.typical, model.particles, width)
        as_other = self.others * _density(self.scores - self.others_shift, model.others, KERNEL)
        chance = as_particle / (as_particle + as_other + FLOOR)
        other = as_other / (as_particle + as_other + FLOOR)
        weight = float(chance.sum())
        mean = float((chance * self.scores).sum()) / weight if weight > 0 else self.typical
        expected = float(model.particles.mean()) if len(model.particles) else 0.0
        variance = float((chance * (self.scores - mean) ** 2).sum()) / weight - KERNEL**2 if weight > 0 else 0.0
        shift = float((other * self.scores).sum()) / max(float(other.sum()), 1e-9) - float(model.others.mean())
        return _FieldState(self.scores, self.typical, self.contrast, weight, float(other.sum()), shift,
                           mean - expected, variance, float((chance * (1 - chance)).sum()))

    def shifted(self, contrast: float) -> "_FieldState":
        """The state with another contrast."""
        return _FieldState(self.scores, self.typical, contrast, self.weight, self.others, self.others_shift, self.mean,
                           self.variance, self.unsure)


def _density(places: Array, sample: Array, width: float) -> Array:
    """The probability density of a sample, smoothed by a Gaussian, at some places."""
    if not len(sample) or not len(places):
        return np.full(len(places), 1e-12)
    low = min(float(places.min()), float(sample.min())) - 5 * width
    edges = np.arange(low, max(float(places.max()), float(sample.max())) + 5 * width + STEP, STEP)
    histogram = np.histogram(sample, edges)[0] / len(sample) / STEP
    reach = math.ceil(4 * width / STEP)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * STEP / width) ** 2)
    smooth = np.convolve(histogram, kernel / kernel.sum(), mode="same")
    density: Array = np.interp(places, (edges[1:] + edges[:-1]) / 2, smooth)
    return density
