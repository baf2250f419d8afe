# SPDX-License-Identifier: GPL-3.0-or-later
"""The result of the particle measurement: numbers, errors, and why a result is not reliable."""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.measurement.calibration import Calibration
from cryogem_scipion.engine.measurement.comparison import (
    Comparison,
    likeliest_count,
    peak_histograms,
    relative_peak_heights,
    score_bin_edges,
)
from cryogem_scipion.engine.measurement.matched_filter import Peaks
from cryogem_scipion.engine.measurement.motion import MeasuredMotion
from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial
from cryogem_scipion.engine.measurement.peak_mixture import FIELD_SPREAD
from cryogem_scipion.engine.measurement.spectral_strength import spectral_strength
from cryogem_scipion.engine.measurement.synthesis import BANDS, Assumption

__all__ = ["NOT_COUNTED", "ParticleMeasurement", "fit_problem", "particle_measurement"]

FULL = 1.1
"""Particles, in units of those that cover the whole area, from which their number counts as being at its limit."""
UNSETTLED = 0.15
"""Relative difference of two rounds, or of real and generated fields, from which a result is no measurement."""
DISTANCES = (0.32, 1.48)
"""Range of the particle distance in diameters; a distance outside it is at the limit of the search."""
NOT_COUNTED = ("single particles do not stand out from the noise, so that their number and their strength cannot be "
               "told apart")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class ParticleMeasurement:
    """Particles of a set of fields."""

    counts: tuple[float, ...]
    """Particles in each field, excluded places filled at the same density."""
    count_errors: tuple[float, ...]
    distance_angstrom: float
    clusters: float
    """Probability that a particle lies beside an earlier one; 0 if the particles are not counted."""
    frequency: Array
    """1/Å, of the amplitude."""
    amplitude: Array
    """Ratio of the particles' amplitude to that of the map's projections, in grey values of the file."""
    amplitude_error: Array
    signal_variance: float
    """Variance of single particles of the mean contrast inside their masks, grey values squared."""
    particle_variance: tuple[float, ...]
    """Variance that particles give to each whole field, grey values squared."""
    advantage_of_dark: float
    """By how many standard errors the micrographs agree better with dark than with bright particles."""
    detected: bool
    """Whether particles of the map are there with certainty."""
    counted: bool
    """Whether single particles stand out, so that each field's number is measured by itself."""
    spread: float
    """Relative standard deviation of the contrast between particles of a field; 0 if they are not counted."""
    contrasts: tuple[float, ...]
    """Contrast of each field's particles over that of the set."""
    signal_error: float
    """Relative standard error of ``signal_variance``; NaN if particles are not counted."""
    calibration: Calibration | None
    """What the same estimators find in generated fields; None if particles are not counted."""
    problem: str
    """Why number, distance and amplitude are no measurement; empty if they are one."""
    largest_signal_variance: float | None
    """Largest ``signal_variance`` that the power spectra allow for the number of particles in ``counts``, with their
    variance in a whole field in ``largest_particle_variance``. None if the spectra do not tell it."""
    largest_particle_variance: float | None
    in_spectrum: bool
    """Whether the power spectra have the rings of the particles in them with certainty."""
    peaks: tuple[Peaks, ...]
    """What the search found in each field, those below ``threshold`` left out."""
    threshold: float
    score_bins: Array
    """Edges of the bins of the scores' histograms."""
    real_scores: Array
    generated_scores: Array
    """Peaks in each bin: real, generated."""
    motion: MeasuredMotion | None = None
    """Residual motion of each field; None if it was not measured, or does not exceed what chance gives."""
    map_correction: Float[Tensor, "z y x"] | None = None
    """Density to be added to the map; None if the particles show no difference from it."""


def fit_problem(history: Sequence[Assumption], comparison: Comparison, areas: Sequence[float], diameter: float) -> str:
    """Return why the last assumption does not describe the real fields; empty if it does.

    Parameters
    ----------
    history
        The assumptions of all rounds.
    areas
        Of each field, in areas of a particle.
    diameter
        Of the particle, Å.
    """
    totals = [sum(assumed.counts) for assumed in history[-2:]]
    crowded = sum(count > FULL * area for count, area in zip(history[-1].counts, areas, strict=True))
    if crowded:
        return f"the number of particles runs to its limit in {crowded} of {len(areas)} micrographs"
    if sum(count < 1.5 for count in history[-1].counts) > len(areas) / 2:
        return "most micrographs have no particle that the search finds"
    if abs(totals[0] - totals[-1]) > UNSETTLED * totals[-1]:
        return f"the number of particles does not settle ({totals[0]:.0f} and {totals[-1]:.0f} in two rounds)"
    if not DISTANCES[0] < history[-1].distance / diameter < DISTANCES[1]:
        return f"the particle distance runs to its limit ({history[-1].distance:.0f} Å)"
    difference = abs(comparison.real_level - comparison.generated_level)
    if difference > max(4 * comparison.level_error, UNSETTLED * comparison.real_level):
        return (f"generated micrographs do not become like the real ones (mean score {comparison.generated_level:.2f} "
                f"against {comparison.real_level:.2f})")
    return ""


def particle_measurement(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trials: Sequence[Trial],
                         assumed: Assumption, comparison: Comparison, highest: float, advantage_of_dark: float,
                         problem: str, final: Assumption | None = None, calibration: Calibration | None = None
                         ) -> ParticleMeasurement:
    """Return the result that the last assumption, its trials and the final assumption give.

    Parameters
    ----------
    trials
        Fields that were generated with ``assumed``.
    highest
        A peak with this score or more is no particle.
    advantage_of_dark, problem
        Go into the result as they are.
    final, calibration
        Of counted particles: the assumption after the last correction, and the trial of the estimators. None: single
        particles do not stand out.
    """
    fields, counted = searcher.fields, final is not None
    final = assumed if final is None else final
    edges = score_bin_edges(highest if np.isfinite(highest) else 8.0)
    errors = _likelihood_errors(searcher, real_searches, trials[0], assumed, edges) if calibration is None else \
        _count_errors(searcher, final, calibration)
    grey = float(np.median([field.grey for field in fields]))
    band_error = 1 / np.sqrt(np.maximum(comparison.weight, 1e-6))
    if calibration is not None:
        band_error = np.hypot(band_error, calibration.envelope_error)
    power = _power_factors(assumed, final)
    spread = (1 + final.spread**2) / (1 + assumed.spread**2)
    hits = np.concatenate([search.by_all.scores[hit] for trial in trials
                           for search, hit in zip(trial.searches, trial.hits, strict=True)])
    threshold = float(np.quantile(hits, 0.1)) if len(hits) else highest
    histograms = [np.sum([np.histogram(search.by_all.scores, edges)[0] for search in searches], axis=0,
                         dtype=np.float64) for searches in (real_searches, *(trial.searches for trial in trials))]
    return ParticleMeasurement(
        final.counts, tuple(errors), final.distance, final.clusters,
        (np.arange(BANDS) + 0.5) / BANDS / 2 / fields[0].pixel_size, final.amplitude * grey,
        final.amplitude * band_error * grey,
        float(np.mean([generated.signal_variance * factor for trial in trials
                       for generated, factor in zip(trial.fields, power, strict=True)])) * grey**2,
        tuple(float(np.mean([trial.fields[i].particle_variance for trial in trials])) * power[i] * spread
              * field.grey**2 * final.counts[i] / max(assumed.counts[i], 1e-9) for i, field in enumerate(fields)),
        advantage_of_dark, bool(comparison.real_level > 3 * comparison.level_error), counted, final.spread,
        final.contrasts or (1.0,) * len(fields), _signal_error(final, calibration), calibration, problem,
        *_largest(searcher, trials[0]),
        tuple(search.by_all.part((search.by_all.scores > threshold) & (search.by_all.scores < highest))
              for search in real_searches),
        threshold, edges, histograms[0], np.mean(histograms[1:], axis=0))


def _power_factors(assumed: Assumption, final: Assumption) -> Array:
    """By what the power of a particle in each generated field changes with the last correction."""
    level = float(np.mean(final.amplitude) / np.mean(assumed.amplitude))
    return np.array([(level * final.contrast(i) / assumed.contrast(i))**2 for i in range(len(assumed.counts))])


def _count_errors(searcher: ParticleSearcher, final: Assumption, calibration: Calibration) -> list[float]:
    """Standard error of each field's number: what the search gets wrong, peaks that are unlike generated ones, and what
    lies in places not searched."""
    parts = [max(field.searched, 1e-3) for field in searcher.fields]
    return [math.sqrt(max(count, 1) * (calibration.count_factor / part + 1 - part) + (unlike / part) ** 2)
            for count, part, unlike in zip(final.counts, parts, calibration.model_errors.tolist(), strict=True)]


def _likelihood_errors(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trial: Trial,
                       assumed: Assumption, edges: Array) -> list[float]:
    """Standard error of each field's number where single particles do not stand out."""
    per_particle, others = peak_histograms(searcher, trial, edges)
    errors = []
    for field, search, count, height in zip(searcher.fields, real_searches, assumed.counts,
                                            relative_peak_heights(trial), strict=True):
        part = max(field.searched, 1e-3)
        errors.append(likeliest_count(search.by_all.scores / height, per_particle, others * part, edges,
                                      3 * count + 10)[1] / part)
    return errors


def _signal_error(final: Assumption, calibration: Calibration | None) -> float:
    """Relative standard error of the particles' variance, from the fields' contrasts and the generated fields."""
    if calibration is None:
        return math.nan
    fields = len(final.counts)
    between = float(np.log(final.contrasts).std(ddof=1)) if fields > 1 else FIELD_SPREAD
    return 2 * math.hypot(between / math.sqrt(fields), calibration.amplitude_error)


def _largest(searcher: ParticleSearcher, trial: Trial) -> tuple[float | None, float | None, bool]:
    """Return the largest variances of the particles that the real spectra allow, and whether they are in the spectra.

    The variances are those in the masks and in a whole field, for the number of particles in the trial.
    """
    strength = spectral_strength(searcher.fields, trial.fields, searcher.diameter)
    if strength is None:
        return None, None, False
    variances = [(generated.signal_variance * field.grey**2, generated.particle_variance * field.grey**2)
                 for field, generated in zip(searcher.fields, trial.fields, strict=True)]
    in_masks, in_fields = np.mean(variances, axis=0).tolist()
    return strength.high * in_masks, strength.high * in_fields, strength.certain
