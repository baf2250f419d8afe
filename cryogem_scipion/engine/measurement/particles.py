# SPDX-License-Identifier: GPL-3.0-or-later
"""Number, distance and amplitude of the particles in micrographs, by analysis through synthesis.

The same search runs on real fields and on generated ones of known truth. What the generated ones assume is corrected
until the search finds the same in both: as many peaks of each height, the same amplitude in each frequency band, the
same distances. So what the search misses, what it takes for a particle, and how noise flatters amplitudes cancel.
Amplitudes are measured on other Fourier coefficients than those with which the particles are found.
"""
import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.measurement.comparison import (
    Comparison,
    compare,
    dark_advantage,
    first_amplitude,
    likeliest_count,
    peak_histograms,
    relative_peak_heights,
    score_bin_edges,
)
from cryogem_scipion.engine.measurement.particle_results import (
    NOT_COUNTED,
    ParticleMeasurement,
    fit_problem,
    particle_measurement,
)
from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial, try_assumption
from cryogem_scipion.engine.measurement.peak_mixture import fit_peaks, peak_model
from cryogem_scipion.engine.measurement.search_field import SearchField
from cryogem_scipion.engine.measurement.synthesis import BANDS, Assumption
from cryogem_scipion.engine.measurement.weak_particles import measure_weak
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.simulation.projection import Projector

__all__ = ["measure_particles"]

log = logging.getLogger("cryogem")

ROUNDS = 7
SURE_AFTER = 2
"""Rounds before it is decided whether single particles can be counted."""
CERTAIN = 0.12
"""Relative error of the mean amplitude up to which it is measured on single particles; above, on the spectrum."""
STEP = 0.6
"""Part of a correction that is applied in a round, so that number and amplitude do not swing."""
COUNT_STEP = 0.8
PEAKS_FROM = 3
"""Round from which contrasts are fitted, too: before, the heights of real and generated peaks are too different."""
MOST_SPREAD = 0.5
"""Largest relative deviation of the contrast between particles."""

Array = NDArray[np.float64]


def measure_particles(fields: Sequence[SearchField], projector: Projector, diameter: float,
                      seed: int = 0) -> ParticleMeasurement:
    """Measure the particles of real fields.

    Parameters
    ----------
    fields
        Micrographs made ready by ``search_field``, with particles dark.
    projector
        The map.
    diameter
        Of the particle, Å.
    """
    searcher = ParticleSearcher(fields, projector, diameter)
    real_searches = parallel_map(lambda field: searcher.search(field, field.image), list(fields))
    inverted_searches = parallel_map(lambda field: searcher.search(field, field.image, -1.0), list(fields))
    areas = [field.shape[0] * field.shape[1] * field.pixel_size**2 / (np.pi / 4 * diameter**2) for field in fields]
    assumed = Assumption(tuple(0.3 * area for area in areas), 0.9 * diameter, np.ones(BANDS))
    assumed = replace(assumed, amplitude=first_amplitude(searcher, real_searches, assumed))
    advantage_of_dark = dark_advantage(searcher, real_searches, inverted_searches, assumed)
    highest, counted = np.inf, True
    history: list[Assumption] = []
    for number in track_progress(range(ROUNDS), ROUNDS, "comparing with generated micrographs, round"):
        trial = try_assumption(searcher, assumed, (seed, number))
        scores = np.concatenate([search.by_all.scores[hit]
                                 for search, hit in zip(trial.searches, trial.hits, strict=True)])
        if len(scores):
            highest = 1.3 * float(np.quantile(scores, 0.99))
        comparison = compare(searcher, real_searches, trial, assumed, highest)
        counted = comparison.level_error < CERTAIN * comparison.real_level and comparison.real_level > 0
        if not counted and number >= SURE_AFTER:
            assumed, trial, comparison = measure_weak(searcher, real_searches, assumed, areas, highest, seed)
            break
        correct = _corrected if number < PEAKS_FROM else _refined
        assumed = correct(searcher, real_searches, trial, assumed, comparison, highest, areas)
        history.append(assumed)
        log.debug("round %d: %.0f particles, distance %.0f Å, spread of contrast %.2f; level %.3f ± %.3f, generated "
                  "%.3f; spectral %.2f", number, sum(assumed.counts), assumed.distance, assumed.spread,
                  comparison.real_level, comparison.level_error, comparison.generated_level, comparison.power_ratio)
    else:
        last_two = history[-2:]
        assumed = _mean(last_two)
        trial = try_assumption(searcher, assumed, (seed, "last"))
        comparison = compare(searcher, real_searches, trial, assumed, highest)
        counted = True
    problem = fit_problem(history, comparison, areas, diameter) if counted else NOT_COUNTED
    return particle_measurement(searcher, real_searches, trial, assumed, comparison, highest, advantage_of_dark,
                                counted, problem)


def _corrected(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trial: Trial, assumed: Assumption,
               comparison: Comparison, highest: float, areas: Sequence[float]) -> Assumption:
    """Return the assumption after a step towards what the real fields show."""
    edges = score_bin_edges(highest)
    per_particle, others = peak_histograms(searcher, trial, edges)
    counts = []
    for field, search, before, area, height in zip(searcher.fields, real_searches, assumed.counts, areas,
                                                   relative_peak_heights(trial), strict=True):
        part = max(field.searched, 1e-3)
        count = likeliest_count(search.by_all.scores / height, per_particle, others * part, edges,
                                1.2 * area * part)[0] / part
        counts.append(float(max(before, 1) ** (1 - COUNT_STEP) * max(count, 1) ** COUNT_STEP))
    level = float(np.clip(comparison.real_level / max(comparison.generated_level, 1e-3), 0.3, 3.0))
    return replace(assumed, counts=tuple(counts), amplitude=_amplitude(assumed, comparison, level**STEP),
                   distance=_distance(searcher, real_searches, trial, assumed, highest))


def _refined(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trial: Trial, assumed: Assumption,
             comparison: Comparison, highest: float, areas: Sequence[float]) -> Assumption:
    """Return the assumption after a step towards what the heights of the real fields' peaks show."""
    found = fit_peaks(peak_model([trial]), searcher.fields, real_searches, highest)
    parts = np.array([max(field.searched, 1e-3) for field in searcher.fields])
    wanted = np.clip(found.counts / parts, 1, 1.2 * np.array(areas))
    counts = np.maximum(assumed.counts, 1) ** (1 - COUNT_STEP) * wanted**COUNT_STEP
    level = float(np.exp(np.log(found.contrasts).mean()))
    log.debug("contrasts %s, excess %.4f", found.contrasts.round(3).tolist(), found.spread_square)
    contrasts = np.array([assumed.contrast(i) for i in range(len(areas))]) * (found.contrasts / level)**STEP
    spread = math.sqrt(min(max(assumed.spread**2 + STEP * found.spread_square, 0.0), MOST_SPREAD**2))
    return Assumption(tuple(counts.tolist()), _distance(searcher, real_searches, trial, assumed, highest),
                      _amplitude(assumed, comparison, float(np.clip(level, 0.3, 3.0))**STEP), tuple(contrasts.tolist()),
                      spread)


def _mean(assumptions: Sequence[Assumption]) -> Assumption:
    """The mean of assumptions about the same fields."""
    amplitudes = [np.log(np.maximum(assumption.amplitude, 1e-12)) for assumption in assumptions]
    contrasts = [assumption.contrasts for assumption in assumptions]
    return Assumption(tuple(np.mean([assumption.counts for assumption in assumptions], axis=0).tolist()),
                      float(np.mean([assumption.distance for assumption in assumptions])),
                      np.exp(np.mean(amplitudes, axis=0)),
                      tuple(np.mean(contrasts, axis=0).tolist()) if all(contrasts) else (),
                      float(np.mean([assumption.spread for assumption in assumptions])))


def _amplitude(assumed: Assumption, comparison: Comparison, factor: float) -> Array:
    """The amplitude after a step: by a factor for all bands, and by each band's own correction."""
    # A band's own correction counts as far as it is measured.
    trust = comparison.weight / (comparison.weight + 4)
    shape = np.clip(comparison.amplitude_ratio / _best_measured_ratio(comparison), 0.5, 2.0) ** (STEP * trust)
    amplitude = assumed.amplitude * factor * shape
    weight = comparison.weight + 1e-3
    amplitude = ndimage.gaussian_filter1d(amplitude * weight, 0.8) / ndimage.gaussian_filter1d(weight, 0.8)
    amplitude = _continued(amplitude, comparison.weight)
    # The bands' own corrections change the shape of the curve, not its level: both would be corrected twice.
    weight = np.minimum(comparison.weight, 400.0) + 1e-6
    changed = np.average(np.log(np.maximum(amplitude, 1e-12) / np.maximum(assumed.amplitude, 1e-12)), weights=weight)
    scaled: Array = amplitude * factor / np.exp(changed)
    return scaled


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


def _distance(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trial: Trial, assumed: Assumption,
              highest: float) -> float:
    """Return the particle distance at which nearest neighbours lie as near in generated fields as in real ones."""
    hits = np.concatenate([search.by_all.scores[hit] for search, hit in zip(trial.searches, trial.hits, strict=True)])
    if len(hits) < 10:
        return assumed.distance
    lowest = float(np.quantile(hits, 0.1))
    neighbour_distances: tuple[list[Array], list[Array]] = ([], [])  # Å, of real and of generated fields
    for distances, searches in zip(neighbour_distances, (real_searches, trial.searches), strict=True):
        for field, search in zip(searcher.fields, searches, strict=True):
            scores = search.by_all.scores
            places = search.by_all.centres[(scores > lowest) & (scores < highest)]
            if len(places) > 3:
                distances.append(cKDTree(places).query(places, k=2)[0][:, 1] * field.pixel_size)
    if not all(neighbour_distances):
        return assumed.distance
    real_distance, generated_distance = (float(np.quantile(np.concatenate(distances), 0.1))
                                         for distances in neighbour_distances)
    return float(np.clip(assumed.distance + STEP * (real_distance - generated_distance), 0.3 * searcher.diameter,
                         1.5 * searcher.diameter))
