# SPDX-License-Identifier: GPL-3.0-or-later
"""What the estimators find in generated fields of known truth: their bias, which is corrected, and their scatter.

Several sets of fields are generated with the last assumption. Each in turn is measured as if it were real, with the
others as the generated ones: a parametric bootstrap.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.measurement.comparison import compare, dark_advantage
from cryogem_scipion.engine.measurement.half_counts import half_differences, model_errors
from cryogem_scipion.engine.measurement.neighbours import clustering_in_real, distance_difference
from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial
from cryogem_scipion.engine.measurement.peak_mixture import FieldPeaks, fit_peaks, peak_model
from cryogem_scipion.engine.measurement.synthesis import Assumption

__all__ = ["Calibration", "calibrated"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Biases (found minus true) and standard errors of the estimators on generated fields; both are relative unless
    their name says Å."""

    count_bias: float
    count_factor: float
    """Variance of a field's number over the number."""
    amplitude_bias: float
    amplitude_error: float
    """Of the mean of all fields."""
    distance_bias_angstrom: float
    distance_error_angstrom: float
    clusters_bias: float
    """Of the degree of clustering, a probability."""
    clusters_error: float
    spread_square_bias: float
    """Of the squared spread of the contrast between particles."""
    spread_square_error: float
    envelope_error: Array
    """Of each band, relative."""
    advantage_of_dark: float
    """What the test of the contrast sign gives for generated dark particles, in standard errors."""
    model_errors: Array
    """Particles by which the number in each real field errs because its peaks are unlike those of generated fields."""


def calibrated(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], real_peaks: FieldPeaks,
               trials: Sequence[Trial], assumed: Assumption, highest: float) -> Calibration:
    """Measure each of two or more sets of generated fields with the help of the others.

    Parameters
    ----------
    real_searches
        Of the real fields, which are compared with the generated ones.
    real_peaks
        What these searches tell with the model of all trials.
    trials
        Sets that were generated with the same assumption and different seeds.
    highest
        Peaks with this score or more are no particles.

    References
    ----------
    B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap (Chapman & Hall, 1993), section 6.5.
    """
    found: list[FieldPeaks] = []
    distances, clusters, ratios, true_counts, differences = [], [], [], [], []
    for number, trial in enumerate(trials):
        others = [*trials[:number], *trials[number + 1:]]
        found.append(fit_peaks(peak_model(others), trial.searches, highest))
        differences.append(half_differences(searcher, trial.searches, others, highest, found[-1]))
        true_counts.append([len(field.centres) for field in trial.fields])
        distances.append(distance_difference(searcher, trial.searches, others, highest))
        clusters.append(clustering_in_real(searcher, trial.searches, others, assumed, highest))
        ratios.append(compare(searcher, trial.searches, others[number % len(others)], assumed, highest).amplitude_ratio)
    counts, true = np.array([one.counts for one in found]), np.array(true_counts, float)
    bias = float(counts.sum() / max(true.sum(), 1) - 1)
    residuals = counts / (1 + bias) - true
    levels = np.array([np.log(one.contrasts).mean() for one in found])
    distance_bias, distance_error = _mean_and_error(distances)
    clusters_mean, clusters_error = _mean_and_error(clusters)
    inverted = parallel_map(lambda i: searcher.search(searcher.fields[i], trials[0].fields[i].image, -1.0),
                            range(len(searcher.fields)))
    real = half_differences(searcher, real_searches, trials, highest, real_peaks)
    # A ratio of two sets has twice the variance of one.
    envelope_error = np.std(np.log(ratios), axis=0) / np.sqrt(2)
    return Calibration(
        bias, float((residuals**2).sum() / max(true.sum(), 1)), float(levels.mean()), float(levels.std(ddof=1)),
        distance_bias, distance_error, clusters_mean - assumed.clusters if clusters_error else 0.0, clusters_error,
        float(np.mean([one.spread_square for one in found])),
        float(np.std([one.spread_square for one in found], ddof=1)), envelope_error,
        dark_advantage(searcher, trials[0].searches, inverted, assumed), model_errors(real, np.array(differences)))


def _mean_and_error(values: Sequence[float | None]) -> tuple[float, float]:
    """Mean and standard deviation of the known values; 0 without two of them."""
    known = [value for value in values if value is not None]
    return (float(np.mean(known)), float(np.std(known, ddof=1))) if len(known) > 1 else (0.0, 0.0)
