# SPDX-License-Identifier: GPL-3.0-or-later
"""The result of the particle measurement: numbers, errors, and why a result is not reliable."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryogem_scipion.engine.measurement.comparison import (
    Comparison,
    likeliest_count,
    peak_histograms,
    relative_peak_heights,
    score_bin_edges,
)
from cryogem_scipion.engine.measurement.matched_filter import Peaks
from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial
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
    frequency: Array
    """1/Å, of the amplitude."""
    amplitude: Array
    """Ratio of the particles' amplitude to that of the map's projections, in grey values of the file."""
    amplitude_error: Array
    signal_variance: float
    """Variance of the particles inside their masks, grey values squared."""
    particle_variance: tuple[float, ...]
    """Variance that particles give to each whole field, grey values squared."""
    advantage_of_dark: float
    """By how many standard errors the micrographs agree better with dark than with bright particles."""
    detected: bool
    """Whether particles of the map are there with certainty."""
    counted: bool
    """Whether single particles stand out, so that each field's number is measured by itself."""
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


def particle_measurement(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trial: Trial,
                         assumed: Assumption, comparison: Comparison, highest: float, advantage_of_dark: float,
                         counted: bool, problem: str) -> ParticleMeasurement:
    """Return the result that the last assumption and its trial give.

    A peak with a score of ``highest`` or more is no particle. The result holds ``advantage_of_dark``, ``counted`` and
    ``problem`` as they are.
    """
    fields = searcher.fields
    edges = score_bin_edges(highest if np.isfinite(highest) else 8.0)
    per_particle, others = peak_histograms(searcher, trial, edges)
    errors = []
    for field, search, count, height in zip(fields, real_searches, assumed.counts, relative_peak_heights(trial),
                                            strict=True):
        part = max(field.searched, 1e-3)
        errors.append(likeliest_count(search.by_all.scores / height, per_particle, others * part, edges,
                                      3 * count + 10)[1] / part)
    grey = float(np.median([field.grey for field in fields]))
    amplitude_error = assumed.amplitude / np.sqrt(np.maximum(comparison.weight, 1e-6))
    hits = np.concatenate([search.by_all.scores[hit] for search, hit in zip(trial.searches, trial.hits, strict=True)])
    threshold = float(np.quantile(hits, 0.1)) if len(hits) else highest
    return ParticleMeasurement(
        assumed.counts, tuple(errors), assumed.distance,
        (np.arange(BANDS) + 0.5) / BANDS / 2 / fields[0].pixel_size, assumed.amplitude * grey, amplitude_error * grey,
        float(np.mean([generated.signal_variance for generated in trial.fields])) * grey**2,
        tuple(generated.particle_variance * field.grey**2
              for generated, field in zip(trial.fields, fields, strict=True)),
        advantage_of_dark, bool(comparison.real_level > 3 * comparison.level_error), counted, problem,
        *_largest(searcher, trial),
        tuple(search.by_all.part((search.by_all.scores > threshold) & (search.by_all.scores < highest))
              for search in real_searches),
        threshold, edges, *(np.sum([np.histogram(search.by_all.scores, edges)[0] for search in searches], axis=0,
                                   dtype=np.float64) for searches in (real_searches, trial.searches)))


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
