# SPDX-License-Identifier: GPL-3.0-or-later
"""Number, distance and amplitude of the particles in micrographs, by analysis through synthesis.

The same search runs on real fields and on generated ones of known truth. What the generated ones assume is corrected
until the search finds the same in both: as many peaks of each height, the same amplitude in each frequency band, the
same distances. So what the search misses, what it takes for a particle, and how noise flatters amplitudes cancel.
Amplitudes are measured on other Fourier coefficients than those with which the particles are found.
"""
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.measurement.calibration import calibrated
from cryogem_scipion.engine.measurement.comparison import compare, dark_advantage, first_amplitude
from cryogem_scipion.engine.measurement.corrections import (
    final_assumption,
    first_step,
    mean_assumption,
    step_by_peaks,
)
from cryogem_scipion.engine.measurement.map_correction import map_correction, variance_change
from cryogem_scipion.engine.measurement.motion import measured_motion
from cryogem_scipion.engine.measurement.neighbours import clustering_in_real, distance_difference
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
from cryogem_scipion.engine.simulation.volume import Volume

__all__ = ["measure_particles"]

log = logging.getLogger("cryogem")

ROUNDS = 7
SURE_AFTER = 2
"""Rounds before it is decided whether single particles can be counted."""
CERTAIN = 0.12
"""Relative error of the mean amplitude up to which it is measured on single particles; above, on the spectrum."""
STANDS_OUT = 0.5
"""Mean score in one half of the coefficients, in standard deviations of the noise, from which single particles are
counted: below, the noise moves the peaks by more than the particles raise them."""
PEAKS_FROM = 3
"""Round from which contrasts are fitted, too: before, the heights of real and generated peaks are too different."""
TRIALS = 3
"""Sets of generated fields with the last assumption, on which the estimators are tried."""


def measure_particles(fields: Sequence[SearchField], projector: Projector, diameter: float, seed: int = 0,
                      volume: Volume | None = None, symmetry: str = "C1") -> ParticleMeasurement:
    """Measure the particles of real fields.

    Parameters
    ----------
    fields
        Micrographs made ready by ``search_field``, with particles dark.
    projector
        The map.
    diameter
        Of the particle, Å.
    volume
        The map, if it is to be compared with what the particles show.
    symmetry
        Its point group.
    """
    searcher = ParticleSearcher(fields, projector, diameter)
    real_searches = parallel_map(lambda field: searcher.search(field, field.image), list(fields))
    inverted_searches = parallel_map(lambda field: searcher.search(field, field.image, -1.0), list(fields))
    areas = [field.shape[0] * field.shape[1] * field.pixel_size**2 / (np.pi / 4 * diameter**2) for field in fields]
    assumed = Assumption(tuple(0.3 * area for area in areas), 0.9 * diameter, np.ones(BANDS))
    assumed = replace(assumed, amplitude=first_amplitude(searcher, real_searches, assumed))
    advantage_of_dark = dark_advantage(searcher, real_searches, inverted_searches, assumed)
    history: list[Assumption] = []
    highest = np.inf
    for number in track_progress(range(ROUNDS), ROUNDS, "comparing with generated micrographs, round"):
        trial = try_assumption(searcher, assumed, (seed, number))
        highest = _highest(trial, highest)
        comparison = compare(searcher, real_searches, trial, assumed, highest)
        counted = (comparison.level_error_of_peaks < CERTAIN * comparison.real_level
                   and comparison.real_level > STANDS_OUT)
        if not counted and number >= SURE_AFTER:
            assumed, trial, comparison = measure_weak(searcher, real_searches, assumed, areas, highest, seed)
            return particle_measurement(searcher, real_searches, [trial], assumed, comparison, highest,
                                        advantage_of_dark, NOT_COUNTED)
        correct = first_step if number < PEAKS_FROM else step_by_peaks
        assumed = correct(searcher, real_searches, trial, assumed, comparison, highest, areas)
        history.append(assumed)
        log.debug("round %d: %.0f particles, distance %.0f Å, clusters %.2f, spread of contrast %.2f; "
                  "level %.3f ± %.3f, generated %.3f; spectral %.2f", number, sum(assumed.counts), assumed.distance,
                  assumed.clusters, assumed.spread, comparison.real_level, comparison.level_error,
                  comparison.generated_level, comparison.power_ratio)
    return _concluded(searcher, real_searches, mean_assumption(history[-2:]), history, highest, areas,
                      advantage_of_dark, seed, volume, symmetry)


def _concluded(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], assumed: Assumption,
               history: Sequence[Assumption], highest: float, areas: Sequence[float], advantage_of_dark: float,
               seed: int, volume: Volume | None, symmetry: str) -> ParticleMeasurement:
    """The result after the last round: several sets are generated, and the estimators' bias on them is taken off."""
    trials = [try_assumption(searcher, assumed, (seed, "last", number))
              for number in track_progress(range(TRIALS), TRIALS, "trying the measurement on generated micrographs")]
    comparisons = [compare(searcher, real_searches, trial, assumed, highest) for trial in trials]
    comparison = replace(comparisons[0], amplitude_ratio=np.exp(np.mean(
        [np.log(one.amplitude_ratio) for one in comparisons], axis=0)))
    found = fit_peaks(peak_model(trials), real_searches, highest)
    calibration = calibrated(searcher, real_searches, found, trials, assumed, highest)
    difference = distance_difference(searcher, real_searches, trials, highest)
    clusters = clustering_in_real(searcher, real_searches, trials, assumed, highest)
    final = final_assumption(searcher, found, assumed, comparison, calibration, difference, clusters, areas)
    problem = fit_problem([*history, final], comparison, areas, searcher.diameter)
    result = particle_measurement(searcher, real_searches, trials, assumed, comparison, highest, advantage_of_dark,
                                  problem, final, calibration)
    correction = None if problem or volume is None else map_correction(
        searcher, real_searches, trials, assumed, highest, volume, symmetry)
    if volume is not None and correction is not None:
        result = replace(result, signal_variance=result.signal_variance * variance_change(
            searcher, volume, correction, final))
    motion = None if problem else measured_motion(searcher, real_searches, trials, assumed, highest, seed)
    return replace(result, motion=motion, map_correction=correction)


def _highest(trial: Trial, before: float) -> float:
    """The score from which peaks are no particles; ``before`` if the search found none in the generated fields."""
    scores = np.concatenate([search.by_all.scores[hit] for search, hit in zip(trial.searches, trial.hits, strict=True)])
    return 1.3 * float(np.quantile(scores, 0.99)) if len(scores) else before
