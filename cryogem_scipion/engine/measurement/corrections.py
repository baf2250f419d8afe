# SPDX-License-Identifier: GPL-3.0-or-later
"""Corrections of what generated fields assume, from the comparison of real fields with generated ones."""
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryogem_scipion.engine.measurement.calibration import Calibration
from cryogem_scipion.engine.measurement.comparison import (
    Comparison,
    likeliest_count,
    peak_histograms,
    relative_peak_heights,
    score_bin_edges,
)
from cryogem_scipion.engine.measurement.neighbours import MOST_CLUSTERS, clustering_in_real, distance_difference
from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial
from cryogem_scipion.engine.measurement.peak_mixture import FieldPeaks, fit_peaks, peak_model
from cryogem_scipion.engine.measurement.synthesis import BANDS, Assumption

__all__ = ["final_assumption", "first_step", "mean_assumption", "step_by_peaks"]

STEP = 0.6
"""Part of a correction that is applied in a round, so that number and amplitude do not swing."""
COUNT_STEP = 0.8
MOST_SPREAD = 0.5
"""Largest relative deviation of the contrast between particles."""
FULL_AREA = 1.2
"""Most particles that are assumed, in units of those that cover the whole area."""
LEAST_DISTANCE, MOST_DISTANCE = 0.3, 1.5
"""Range of the particle distance in diameters."""

Array = NDArray[np.float64]


def first_step(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trial: Trial, assumed: Assumption,
               comparison: Comparison, highest: float, areas: Sequence[float]) -> Assumption:
    """Return the assumption after a step towards the real fields, while these are far from the generated ones.

    Parameters
    ----------
    highest
        Peaks with this score or more are no particles.
    areas
        Of each field, in areas of a particle.
    """
    edges = score_bin_edges(highest)
    per_particle, others = peak_histograms(searcher, trial, edges)
    counts = []
    for field, search, before, area, height in zip(searcher.fields, real_searches, assumed.counts, areas,
                                                   relative_peak_heights(trial), strict=True):
        part = max(field.searched, 1e-3)
        count = likeliest_count(search.by_all.scores / height, per_particle, others * part, edges,
                                FULL_AREA * area * part)[0] / part
        counts.append(float(max(before, 1) ** (1 - COUNT_STEP) * max(count, 1) ** COUNT_STEP))
    level = float(np.clip(comparison.real_level / max(comparison.generated_level, 1e-3), 0.3, 3.0))
    return replace(assumed, counts=tuple(counts), amplitude=_amplitude(assumed, comparison, level**STEP),
                   distance=_distance(searcher, real_searches, trial, assumed, highest),
                   clusters=_clusters(searcher, real_searches, trial, assumed, highest))


def step_by_peaks(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trial: Trial, assumed: Assumption,
                  comparison: Comparison, highest: float, areas: Sequence[float]) -> Assumption:
    """Return the assumption after a step towards what the heights of the real fields' peaks show.

    Parameters
    ----------
    highest
        Peaks with this score or more are no particles.
    areas
        Of each field, in areas of a particle.
    """
    found = fit_peaks(peak_model([trial]), real_searches, highest)
    counts = np.maximum(assumed.counts, 1) ** (1 - COUNT_STEP) * _whole_fields(searcher, found, areas) ** COUNT_STEP
    level = float(np.exp(np.log(found.contrasts).mean()))
    contrasts = _contrasts(assumed, (found.contrasts / level) ** STEP)
    return Assumption(tuple(counts.tolist()), _distance(searcher, real_searches, trial, assumed, highest),
                      _amplitude(assumed, comparison, float(np.clip(level, 0.3, 3.0)) ** STEP), contrasts,
                      _spread(assumed, STEP * found.spread_square),
                      _clusters(searcher, real_searches, trial, assumed, highest))


def final_assumption(searcher: ParticleSearcher, found: FieldPeaks, assumed: Assumption, comparison: Comparison,
                     calibration: Calibration, distance_change: float | None, clusters: float | None,
                     areas: Sequence[float]) -> Assumption:
    """Return the assumption after a whole step, with the biases of the estimators taken off.

    Parameters
    ----------
    found
        What the real fields' peaks tell, compared with fields generated with ``assumed``.
    comparison
        Of the real fields with these; it corrects the shape of the amplitude.
    distance_change
        By how much farther apart particles lie in the real fields, Å; None: not measured.
    clusters
        Degree of clustering of the real fields; None: not measured.
    areas
        Of each field, in areas of a particle.
    """
    counts = _whole_fields(searcher, found, areas) / (1 + calibration.count_bias)
    level = float(np.log(found.contrasts).mean())
    distance = assumed.distance if distance_change is None else \
        assumed.distance + distance_change - calibration.distance_bias_angstrom
    return Assumption(tuple(counts.tolist()), float(np.clip(distance, LEAST_DISTANCE * searcher.diameter,
                                                            MOST_DISTANCE * searcher.diameter)),
                      assumed.amplitude * _shape(comparison) * math.exp(level - calibration.amplitude_bias),
                      _contrasts(assumed, found.contrasts / math.exp(level)),
                      _spread(assumed, found.spread_square - calibration.spread_square_bias),
                      assumed.clusters if clusters is None else
                      float(np.clip(clusters - calibration.clusters_bias, 0.0, MOST_CLUSTERS)))


def mean_assumption(assumptions: Sequence[Assumption]) -> Assumption:
    """Return the mean of assumptions about the same fields."""
    amplitudes = [np.log(np.maximum(assumption.amplitude, 1e-12)) for assumption in assumptions]
    contrasts = [assumption.contrasts for assumption in assumptions]
    return Assumption(tuple(np.mean([assumption.counts for assumption in assumptions], axis=0).tolist()),
                      float(np.mean([assumption.distance for assumption in assumptions])),
                      np.exp(np.mean(amplitudes, axis=0)),
                      tuple(np.mean(contrasts, axis=0).tolist()) if all(contrasts) else (),
                      float(np.mean([assumption.spread for assumption in assumptions])),
                      float(np.mean([assumption.clusters for assumption in assumptions])))


def _amplitude(assumed: Assumption, comparison: Comparison, factor: float) -> Array:
    """The amplitude after a step: by a factor for all bands, and by each band's own correction."""
    amplitude: Array = assumed.amplitude * factor * np.power(_shape(comparison), STEP)
    weight = comparison.weight + 1e-3
    amplitude = ndimage.gaussian_filter1d(amplitude * weight, 0.8) / ndimage.gaussian_filter1d(weight, 0.8)
    amplitude = _continued(amplitude, comparison.weight)
    # The bands' own corrections change the shape of the curve, not its level: both would be corrected twice.
    weight = np.minimum(comparison.weight, 400.0) + 1e-6
    changed = np.average(np.log(np.maximum(amplitude, 1e-12) / np.maximum(assumed.amplitude, 1e-12)), weights=weight)
    scaled: Array = amplitude * factor / np.exp(changed)
    return scaled


def _shape(comparison: Comparison) -> Array:
    """Return each band's own correction, relative to that of the best measured bands, as far as it is measured."""
    trust = comparison.weight / (comparison.weight + 4)
    shape: Array = np.power(np.clip(comparison.amplitude_ratio / _best_measured_ratio(comparison), 0.5, 2.0), trust)
    return shape


def _best_measured_ratio(comparison: Comparison) -> float:
    """Return the ratio of amplitudes in the best measured bands."""
    weight = np.minimum(comparison.weight, 400.0) + 1e-6
    return float(np.exp(np.average(np.log(comparison.amplitude_ratio), weights=weight)))


def _continued(amplitude: Array, weight: Array) -> Array:
    """Return the amplitude; in bands where it is not measured, it is continued as exp(−B/4 u²)."""
    square = (np.arange(BANDS) + 0.5) ** 2
    known = np.where((weight > 9) & (amplitude > 0), weight, 0.0)
    if (known > 0).sum() < 3:
        return amplitude
    # One very precise band does not decide alone.
    known = np.minimum(known, 400.0)
    logarithm = np.log(np.maximum(amplitude, 1e-12))
    middle, level = np.average(square, weights=known), np.average(logarithm, weights=known)
    slope = float((known * (square - middle) * (logarithm - level)).sum() / (known * (square - middle) ** 2).sum())
    trust = known / (known + 9)
    continued: Array = np.exp(trust * logarithm + (1 - trust) * (level + min(slope, 0.0) * (square - middle)))
    return continued


def _whole_fields(searcher: ParticleSearcher, found: FieldPeaks, areas: Sequence[float]) -> Array:
    """Particles in whole fields, of which a part was searched."""
    parts = np.array([max(field.searched, 1e-3) for field in searcher.fields])
    counts: Array = np.clip(found.counts / parts, 1, FULL_AREA * np.array(areas))
    return counts


def _contrasts(assumed: Assumption, factors: Array) -> tuple[float, ...]:
    values = [assumed.contrast(number) * float(factor) for number, factor in enumerate(factors)]
    return tuple((np.array(values) / np.exp(np.log(values).mean())).tolist())


def _spread(assumed: Assumption, square: float) -> float:
    return math.sqrt(min(max(assumed.spread**2 + square, 0.0), MOST_SPREAD**2))


def _distance(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trial: Trial, assumed: Assumption,
              highest: float) -> float:
    """The particle distance, nearer to that at which neighbours lie as near in generated fields as in real ones."""
    difference = distance_difference(searcher, real_searches, [trial], highest)
    if difference is None:
        return assumed.distance
    return float(np.clip(assumed.distance + STEP * difference, LEAST_DISTANCE * searcher.diameter,
                         MOST_DISTANCE * searcher.diameter))


def _clusters(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trial: Trial, assumed: Assumption,
              highest: float) -> float:
    """The degree of clustering, nearer to that at which as many particles lie beside each other as in real fields."""
    wanted = clustering_in_real(searcher, real_searches, [trial], assumed, highest)
    return assumed.clusters if wanted is None else (1 - STEP) * assumed.clusters + STEP * wanted
