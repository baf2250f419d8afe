# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparison of real with generated fields: scores, amplitudes, power spectra, and the number of particles."""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial
from cryogem_scipion.engine.measurement.search_field import SearchField
from cryogem_scipion.engine.measurement.synthesis import BANDS, Assumption
from cryogem_scipion.engine.noise.spectrum import TILE

__all__ = ["BIN", "Comparison", "compare", "dark_advantage", "first_amplitude", "likeliest_count", "peak_histograms",
           "relative_peak_heights", "score_bin_edges"]

BIN = 0.4
"""Width of the bins of the scores' histograms."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Scores, amplitudes and power of real fields against those of generated ones."""

    real_level: float
    """Mean score that one half of the coefficients has, in real fields, at the peaks found with the other half."""
    level_error: float
    """Standard error of ``real_level``."""
    generated_level: float
    """The same in generated fields."""
    amplitude_ratio: Array
    """Real over generated amplitude in each band."""
    weight: Array
    """How well each band is measured: squared ratio of its amplitude to its error."""
    power_ratio: float
    """Power of the particles in the real spectra over that in the generated ones."""
    level_error_of_peaks: float = 0.0
    """Standard error of ``real_level`` from the peaks alone: the numbers and contrasts of the fields may differ."""


def compare(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trial: Trial, assumed: Assumption,
            highest: float) -> Comparison:
    """Compare real with generated fields; peaks with a score of ``highest`` or more do not count."""
    sums: dict[str, list[tuple[Array, Array]]] = {"real": [], "generated": []}
    for number, field in enumerate(searcher.fields):
        for name, search in (("real", real_searches[number]), ("generated", trial.searches[number])):
            sums[name].append(searcher.band_sums(field, search, assumed.counts[number], highest))
    levels = {name: np.array([search.level(count * field.searched, highest) for search, field, count in zip(
        searches, searcher.fields, assumed.counts, strict=True)])
        for name, searches in (("real", real_searches), ("generated", trial.searches))}
    means = {name: values[:, 0] for name, values in levels.items()}
    amplitudes = {name: sum(product for product, _ in sums[name])
                  / np.maximum(sum(square for _, square in sums[name]), 1e-30) for name in sums}
    field_amplitudes = np.array([product / np.maximum(square, 1e-30) for product, square in sums["real"]])
    count = len(field_amplitudes)
    scatter = field_amplitudes.std(0, ddof=1) / np.sqrt(count) if count > 1 else 0.3 * np.abs(field_amplitudes[0])
    ratio = amplitudes["real"] / np.where(np.abs(amplitudes["generated"]) > 1e-12, amplitudes["generated"], np.inf)
    weight = np.clip(amplitudes["real"], 0, None) ** 2 / np.maximum(scatter**2, 1e-30)
    power_ratios = np.array([_power_ratio(field, generated.particle_power, searcher.diameter)
                             for field, generated in zip(searcher.fields, trial.fields, strict=True)])
    error = _error_of_mean(means["real"].tolist(), levels["real"][:, 1].tolist())
    return Comparison(float(means["real"].mean()), error, float(means["generated"].mean()), np.clip(ratio, 0.2, 5),
                      weight, float(np.median(power_ratios)),
                      float(np.sqrt((levels["real"][:, 1] ** 2).sum())) / len(levels["real"]))


def _power_ratio(field: SearchField, particle_power: Array, diameter: float) -> float:
    """By what the particles' power has to be multiplied to explain the rings of a field's spectrum.

    The noise is a smooth curve; particles give what has the shape of their mean spectrum through the optics.
    """
    frequency = np.arange(len(field.radial)) / TILE
    used = (frequency > 1.3 * field.pixel_size / diameter) & (frequency < 0.45)
    position = 2 * (frequency[used] - frequency[used][0]) / (frequency[used][-1] - frequency[used][0]) - 1
    noise_curves = np.cos(np.arange(4) * np.arccos(np.clip(position, -1, 1))[:, None])
    weight = np.sqrt(frequency[used]) / field.radial[used]
    columns = np.hstack([noise_curves, particle_power[used, None]]) * weight[:, None]
    return float(np.linalg.lstsq(columns, np.sqrt(frequency[used]), rcond=None)[0][-1])


def first_amplitude(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], assumed: Assumption) -> Array:
    """Return one amplitude for all bands, from the highest peaks; only its order of magnitude counts."""
    sums = [searcher.band_sums(field, search, count, np.inf)
            for field, search, count in zip(searcher.fields, real_searches, assumed.counts, strict=True)]
    level = sum(product[1:9].sum() for product, _ in sums) / max(sum(square[1:9].sum() for _, square in sums), 1e-30)
    # Not below what the noise itself gives to a template.
    least = max(1e-3 * np.median([field.radial.mean() for field in searcher.fields]), 1e-12)
    return np.full(BANDS, 1.5 * max(float(level), least * 0.1))


def dark_advantage(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch],
                   inverted_searches: Sequence[FieldSearch], assumed: Assumption) -> float:
    """Return by how many standard errors the halves of the coefficients confirm dark particles better than bright ones.

    ``inverted_searches`` are those of the same fields with the contrast inverted.
    """
    differences, errors = [], []
    for field, dark, bright, count in zip(searcher.fields, real_searches, inverted_searches, assumed.counts,
                                          strict=True):
        scores = np.concatenate([dark.by_all.scores, bright.by_all.scores])
        if not len(scores):
            return 0.0
        highest = 1.5 * float(np.quantile(scores, 0.98))
        levels = [search.level(count * field.searched, highest) for search in (dark, bright)]
        differences.append(levels[0][0] - levels[1][0])
        errors.append(math.hypot(levels[0][1], levels[1][1]))
    return float(np.mean(differences)) / _error_of_mean(differences, errors)


def _error_of_mean(values: Sequence[float], errors: Sequence[float]) -> float:
    """Standard error of a mean over fields: from their scatter, but not below what each field's own error gives."""
    own = math.sqrt(sum(error**2 for error in errors)) / len(errors)
    scatter = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return max(own, scatter, 1e-12)


def relative_peak_heights(trial: Trial) -> list[float]:
    """Return how high the particles' peaks are in each field against the mean of all: they depend on the defocus."""
    scores = [search.by_all.scores[hit] for search, hit in zip(trial.searches, trial.hits, strict=True)]
    all_scores = np.concatenate(scores)
    if not len(all_scores):
        return [1.0] * len(scores)
    middle = float(np.median(all_scores))
    # A field with few particles borrows the mean of all.
    return [(len(field_scores) * (float(np.median(field_scores)) if len(field_scores) else middle) + 10 * middle)
            / (len(field_scores) + 10) / middle for field_scores in scores]


def peak_histograms(searcher: ParticleSearcher, trial: Trial, edges: Array) -> tuple[Array, Array]:
    """Return peaks in each bin of score: those that one particle gives, and the others of a whole field.

    ``edges`` are those of the bins.
    """
    inside = max(sum(len(field.centres) for field in trial.fields), 1)
    searched = sum(field.searched for field in searcher.fields)
    particles, others = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for search, is_particle, height in zip(trial.searches, trial.hits, relative_peak_heights(trial), strict=True):
        particles += np.histogram(search.by_all.scores[is_particle] / height, edges)[0]
        others += np.histogram(search.by_all.scores[~is_particle] / height, edges)[0]
    return ndimage.gaussian_filter1d(particles / inside, 0.7), ndimage.gaussian_filter1d(others / searched, 0.7)


def likeliest_count(scores: Array, per_particle: Array, others: Array, edges: Array, largest_count: float
                    ) -> tuple[float, float]:
    """Return the number of particles with the highest likelihood, and its standard error.

    Parameters
    ----------
    scores
        Of the peaks in the field.
    per_particle, others
        What ``peak_histograms`` returns, ``others`` for this field's area.
    edges
        Of the histograms' bins.
    largest_count
        Up to which numbers are tried.
    """
    peaks = np.histogram(scores, edges)[0]
    numbers = np.linspace(0, max(largest_count, 10.0), 600)
    expected = numbers[:, None] * per_particle + others + 0.3
    likelihood = (peaks * np.log(expected) - expected).sum(1)
    chance = np.exp(likelihood - likelihood.max())
    chance /= chance.sum()
    mean = float((chance * numbers).sum())
    return float(numbers[likelihood.argmax()]), float(np.sqrt((chance * (numbers - mean) ** 2).sum()))


def score_bin_edges(highest: float) -> Array:
    """Return the edges of the bins of scores, up to the score ``highest``."""
    return np.append(np.arange(2.0, highest - BIN / 2, BIN), highest)
