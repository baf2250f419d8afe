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
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.measurement.matched_filter import MatchedFilter, Peaks, halves, templates
from cryogem_scipion.engine.measurement.search_field import SearchField
from cryogem_scipion.engine.measurement.synthesis import (
    BANDS,
    Assumption,
    SyntheticField,
    band_numbers,
    synthetic_field,
)
from cryogem_scipion.engine.noise.spectrum import TILE
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.simulation.projection import Projector

__all__ = ["ParticleMeasurement", "measure_particles"]

log = logging.getLogger("cryogem")

TEMPLATES = 12
EXCLUSION = 0.6
"""Distance of two peaks, in diameters, below which only the higher one counts."""
NEAR = 0.3
"""Distance in diameters from a centre within which a peak is that particle."""
ROUNDS = 7
SURE_AFTER = 2
"""Rounds before it is decided whether single particles can be counted."""
CERTAIN = 0.12
"""Relative error of the mean amplitude up to which it is measured on single particles; above, on the spectrum."""
CLEAREST = 0.6
"""Part of the particles, those with the highest peaks, on which amplitudes are measured."""
STEP = 0.6
"""Part of a correction that is applied in a round, so that number and amplitude do not swing."""
COUNT_STEP = 0.8
BIN = 0.4
DENSITIES = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
"""Factors on the number of particles that are compared where single particles are too weak to count."""
FULL = 1.1
"""Particles, in units of those that cover the whole area, from which their number counts as being at its limit."""
UNSETTLED = 0.15
"""Relative difference of two rounds, or of real and generated fields, from which a result is no measurement."""
DISTANCES = (0.32, 1.48)
"""Range of the particle distance in diameters; a distance outside it is at the limit of the search."""
NOT_COUNTED = ("single particles do not stand out from the noise, so that their number and their strength cannot be "
               "told apart")
SPARSE = 0.1
"""Part of the area that particles cover at least, for the largest signal that a spectrum allows."""
DENSEST = 0.9
"""Part of the area that particles cover at most where they are too weak to count."""

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
    """Largest ``signal_variance`` that the power spectra allow if particles cover a tenth of the area or more, with
    their variance in a whole field in ``largest_particle_variance``. None if the spectra do not tell it."""
    largest_particle_variance: float | None
    peaks: tuple[Peaks, ...]
    """What the search found in each field, those below ``threshold`` left out."""
    threshold: float
    score_bins: Array
    """Edges of the bins of the scores' histograms."""
    real_scores: Array
    generated_scores: Array
    """Peaks in each bin: real, generated."""


@dataclass(frozen=True)
class _Search:
    """Peaks of a field: found with either half of the coefficients, and with all."""

    spectrum: Tensor
    by_half: tuple[Peaks, Peaks]
    confirmed: tuple[Array, Array]
    """For each half's peaks, the score that the other half has there, above its median."""
    by_all: Peaks

    def level(self, count: float, highest: float) -> tuple[float, float]:
        """Return the typical score, at the highest peaks of one half, of the other half: without selection bias.

        Values beyond the 10th and 90th percentile count as these: contaminants do not move it. The second number is
        its standard error.
        """
        values = []
        for peaks, confirmed in zip(self.by_half, self.confirmed, strict=True):
            values.append(confirmed[peaks.scores < highest][:max(3, round(CLEAREST * count))])
        together = np.concatenate(values)
        if len(together) < 2:
            return 0.0, 1.0
        low, high = np.quantile(together, [0.1, 0.9])
        error = float(together.std(ddof=1)) / math.sqrt(len(together))
        return float(np.clip(together, low, high).mean()), error


class _Searcher:
    def __init__(self, fields: Sequence[SearchField], projector: Projector, diameter: float) -> None:
        self.fields, self.projector, self.diameter = fields, projector, diameter
        self.images = [templates(projector, size, TEMPLATES) for size in {field.pixel_size: 0 for field in fields}]
        sizes = list({field.pixel_size: 0 for field in fields})
        shapes = {(field.shape, field.pixel_size): 0 for field in fields}
        self.filters = {key: MatchedFilter(self.images[sizes.index(key[1])], key[0]) for key in shapes}
        self.halves = {field.shape: halves(field.shape, field.shape) for field in fields}
        self.bands = {field.shape: band_numbers(field.shape) for field in fields}

    def filter_of(self, field: SearchField) -> MatchedFilter:
        return self.filters[field.shape, field.pixel_size]

    def search(self, field: SearchField, image: Float[Tensor, "y x"], sign: float = 1.0) -> _Search:
        spectrum = fourier.rfft2(image) * sign
        bank, reach = self.filter_of(field), EXCLUSION * self.diameter / field.pixel_size
        maps = [bank.scores(spectrum, field.transfer, field.power, used)
                for used in (*self.halves[field.shape], None)]
        first, second, both = (bank.peaks(scores, reach, field.excluded) for scores in maps)
        confirmed = []
        for peaks, (other, _) in ((first, maps[1]), (second, maps[0])):
            rows, columns = peaks.centres.astype(int).T
            confirmed.append((other[rows, columns] - other.median()).double().numpy())
        return _Search(spectrum, (first, second), (confirmed[0], confirmed[1]), both)

    def cross(self, field: SearchField, search: _Search, count: float, highest: float) -> tuple[Array, Array]:
        """Sums in each band of the image times the templates at the peaks, and of the templates squared."""
        products, squares = np.zeros(BANDS + 1), np.zeros(BANDS + 1)
        for peaks, other in zip(search.by_half, reversed(self.halves[field.shape]), strict=True):
            chosen = peaks.part(peaks.scores < highest).part(slice(0, max(3, round(CLEAREST * count * field.searched))))
            model = self.filter_of(field).drawn(chosen) * field.transfer * other
            bands = self.bands[field.shape]
            product = (search.spectrum * model.conj()).real.numpy().ravel()
            products += np.bincount(bands, product, BANDS + 1)
            squares += np.bincount(bands, model.abs().square().numpy().ravel(), BANDS + 1)
        return products[:-1], squares[:-1]


@dataclass(frozen=True)
class _Trial:
    """What the search finds in generated fields."""

    fields: list[SyntheticField]
    searches: list[_Search]
    hits: list[NDArray[np.bool_]]


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
    searcher = _Searcher(fields, projector, diameter)
    real = parallel_map(lambda field: searcher.search(field, field.image), list(fields))
    opposite = parallel_map(lambda field: searcher.search(field, field.image, -1.0), list(fields))
    areas = [field.shape[0] * field.shape[1] * field.pixel_size**2 / (np.pi / 4 * diameter**2) for field in fields]
    assumed = Assumption(tuple(0.3 * area for area in areas), 0.9 * diameter, np.ones(BANDS))
    assumed = replace(assumed, amplitude=_first_amplitude(searcher, real, assumed))
    advantage = _dark_advantage(searcher, real, opposite, assumed)
    highest, counted = np.inf, True
    history: list[Assumption] = []
    for number in track_progress(range(ROUNDS), ROUNDS, "comparing with generated micrographs, round"):
        trial = _tried(searcher, assumed, (seed, number))
        scores = np.concatenate([search.by_all.scores[hit]
                                 for search, hit in zip(trial.searches, trial.hits, strict=True)])
        if len(scores):
            highest = 1.3 * float(np.quantile(scores, 0.99))
        statistics = _compared(searcher, real, trial, assumed, highest)
        counted = statistics.error < CERTAIN * statistics.real and statistics.real > 0
        if not counted and number >= SURE_AFTER:
            assumed, trial, statistics = _measure_weak(searcher, real, assumed, areas, highest, seed)
            break
        assumed = _corrected(searcher, real, trial, assumed, statistics, highest, areas)
        history.append(assumed)
        log.debug("round %d: %.0f particles, distance %.0f Å; level %.3f ± %.3f, generated %.3f; spectral %.2f",
                  number, sum(assumed.counts), assumed.distance, statistics.real, statistics.error,
                  statistics.generated, statistics.spectral)
    else:
        last = history[-2:]
        assumed = Assumption(
            tuple(float(np.mean([one.counts[i] for one in last])) for i in range(len(fields))),
            float(np.mean([one.distance for one in last])),
            np.exp(np.mean([np.log(np.maximum(one.amplitude, 1e-12)) for one in last], axis=0)))
        trial = _tried(searcher, assumed, (seed, "last"))
        statistics = _compared(searcher, real, trial, assumed, highest)
        counted = True
    problem = _problem(history, statistics, areas, diameter) if counted else NOT_COUNTED
    return _result(searcher, real, trial, assumed, statistics, highest, advantage, counted, problem)


def _problem(history: Sequence[Assumption], statistics: "_Statistics", areas: Sequence[float], diameter: float) -> str:
    """Why the last assumption does not describe the real fields; empty if it does."""
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
    difference = abs(statistics.real - statistics.generated)
    if difference > max(4 * statistics.error, UNSETTLED * statistics.real):
        return (f"generated micrographs do not become like the real ones (mean score {statistics.generated:.2f} "
                f"against {statistics.real:.2f})")
    return ""


@dataclass(frozen=True)
class _Statistics:
    """Comparison of amplitudes between real and generated fields."""

    real: float
    error: float
    generated: float
    ratio: Array
    """Real over generated amplitude in each band."""
    weight: Array
    """How well each band is measured: squared ratio of its amplitude to its error."""
    spectral: float
    """Power of the particles in the real spectra over that in the generated ones."""


def _tried(searcher: _Searcher, assumed: Assumption, seed: tuple[object, ...]) -> _Trial:
    def one(number: int) -> tuple[SyntheticField, _Search, NDArray[np.bool_]]:
        field = searcher.fields[number]
        made = synthetic_field(field, searcher.projector, searcher.diameter, assumed.counts[number], assumed,
                               (*seed, number))
        search = searcher.search(field, made.image)
        return made, search, _hits(search.by_all, made.centres, NEAR * searcher.diameter / field.pixel_size)

    made = parallel_map(one, range(len(searcher.fields)))
    return _Trial([field for field, _, _ in made], [search for _, search, _ in made], [hit for _, _, hit in made])


def _hits(peaks: Peaks, centres: Array, reach: float) -> NDArray[np.bool_]:
    """Which peaks are particles."""
    hit = np.zeros(len(peaks.scores), bool)
    if len(centres) and len(hit):
        distance, nearest = cKDTree(peaks.centres).query(centres, distance_upper_bound=reach)
        hit[nearest[np.isfinite(distance)]] = True
    return hit


def _first_amplitude(searcher: _Searcher, real: Sequence[_Search], assumed: Assumption) -> Array:
    """One amplitude for all bands, from the highest peaks; only its order of magnitude counts."""
    sums = [searcher.cross(field, search, count, np.inf)
            for field, search, count in zip(searcher.fields, real, assumed.counts, strict=True)]
    level = sum(a[1:9].sum() for a, _ in sums) / max(sum(b[1:9].sum() for _, b in sums), 1e-30)
    # Not below what the noise itself gives to a template.
    least = max(1e-3 * np.median([field.radial.mean() for field in searcher.fields]), 1e-12)
    return np.full(BANDS, 1.5 * max(float(level), least * 0.1))


def _dark_advantage(searcher: _Searcher, real: Sequence[_Search], opposite: Sequence[_Search],
                    assumed: Assumption) -> float:
    """By how many standard errors the halves of the coefficients confirm dark particles better than bright ones."""
    differences, errors = [], []
    for field, dark, bright, count in zip(searcher.fields, real, opposite, assumed.counts, strict=True):
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


def _compared(searcher: _Searcher, real: Sequence[_Search], trial: _Trial, assumed: Assumption,
              highest: float) -> _Statistics:
    sums: dict[str, list[tuple[Array, Array]]] = {"real": [], "made": []}
    for number, field in enumerate(searcher.fields):
        for name, search in (("real", real[number]), ("made", trial.searches[number])):
            sums[name].append(searcher.cross(field, search, assumed.counts[number], highest))
    levels = {name: np.array([search.level(count * field.searched, highest) for search, field, count in zip(
        searches, searcher.fields, assumed.counts, strict=True)])
        for name, searches in (("real", real), ("made", trial.searches))}
    means = {name: values[:, 0] for name, values in levels.items()}
    curves = {name: sum(a for a, _ in sums[name]) / np.maximum(sum(b for _, b in sums[name]), 1e-30) for name in sums}
    each = np.array([a / np.maximum(b, 1e-30) for a, b in sums["real"]])
    count = len(each)
    scatter = each.std(0, ddof=1) / np.sqrt(count) if count > 1 else 0.3 * np.abs(each[0])
    ratio = curves["real"] / np.where(np.abs(curves["made"]) > 1e-12, curves["made"], np.inf)
    weight = np.clip(curves["real"], 0, None) ** 2 / np.maximum(scatter**2, 1e-30)
    powers = np.array([_spectral_ratio(field, made.particle_power, searcher.diameter)
                       for field, made in zip(searcher.fields, trial.fields, strict=True)])
    error = _error_of_mean(means["real"].tolist(), levels["real"][:, 1].tolist())
    return _Statistics(float(means["real"].mean()), error, float(means["made"].mean()), np.clip(ratio, 0.2, 5), weight,
                       float(np.median(powers)))


def _spectral_ratio(field: SearchField, particle_power: Array, diameter: float) -> float:
    """By what the particles' power has to be multiplied to explain the rings of a field's spectrum.

    The noise is a smooth curve; particles give what has the shape of their mean spectrum through the optics.
    """
    frequency = np.arange(len(field.radial)) / TILE
    used = (frequency > 1.3 * field.pixel_size / diameter) & (frequency < 0.45)
    place = 2 * (frequency[used] - frequency[used][0]) / (frequency[used][-1] - frequency[used][0]) - 1
    floor = np.cos(np.arange(4) * np.arccos(np.clip(place, -1, 1))[:, None])
    weight = np.sqrt(frequency[used]) / field.radial[used]
    columns = np.hstack([floor, particle_power[used, None]]) * weight[:, None]
    return float(np.linalg.lstsq(columns, np.sqrt(frequency[used]), rcond=None)[0][-1])


def _units(trial: _Trial) -> list[float]:
    """How high the particles' peaks are in each field against the mean of all: they depend on the defocus."""
    scores = [search.by_all.scores[hit] for search, hit in zip(trial.searches, trial.hits, strict=True)]
    everywhere = np.concatenate(scores)
    if not len(everywhere):
        return [1.0] * len(scores)
    middle = float(np.median(everywhere))
    # A field with few particles borrows the mean of all.
    return [(len(own) * (float(np.median(own)) if len(own) else middle) + 10 * middle) / (len(own) + 10) / middle
            for own in scores]


def _histograms(searcher: _Searcher, trial: _Trial, edges: Array) -> tuple[Array, Array]:
    """Peaks in each bin of score for a particle, and others for a whole field."""
    inside = max(sum(len(field.centres) for field in trial.fields), 1)
    searched = sum(field.searched for field in searcher.fields)
    hit, other = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for search, chosen, unit in zip(trial.searches, trial.hits, _units(trial), strict=True):
        hit += np.histogram(search.by_all.scores[chosen] / unit, edges)[0]
        other += np.histogram(search.by_all.scores[~chosen] / unit, edges)[0]
    return ndimage.gaussian_filter1d(hit / inside, 0.7), ndimage.gaussian_filter1d(other / searched, 0.7)


def _count(scores: Array, per_particle: Array, others: Array, edges: Array, most: float) -> tuple[float, float]:
    """The number of particles with the highest likelihood, and its standard error."""
    met = np.histogram(scores, edges)[0]
    numbers = np.linspace(0, max(most, 10.0), 600)
    expected = numbers[:, None] * per_particle + others + 0.3
    likelihood = (met * np.log(expected) - expected).sum(1)
    chance = np.exp(likelihood - likelihood.max())
    chance /= chance.sum()
    mean = float((chance * numbers).sum())
    return float(numbers[likelihood.argmax()]), float(np.sqrt((chance * (numbers - mean) ** 2).sum()))


def _edges(highest: float) -> Array:
    return np.append(np.arange(2.0, highest - BIN / 2, BIN), highest)


def _corrected(searcher: _Searcher, real: Sequence[_Search], trial: _Trial, assumed: Assumption,
               statistics: _Statistics, highest: float, areas: Sequence[float]) -> Assumption:
    """The assumption after a step towards what the real fields show."""
    edges = _edges(highest)
    per_particle, others = _histograms(searcher, trial, edges)
    counts = []
    for field, search, before, area, unit in zip(searcher.fields, real, assumed.counts, areas, _units(trial),
                                                 strict=True):
        part = max(field.searched, 1e-3)
        found = _count(search.by_all.scores / unit, per_particle, others * part, edges, 1.2 * area * part)[0] / part
        counts.append(float(max(before, 1) ** (1 - COUNT_STEP) * max(found, 1) ** COUNT_STEP))
    level = np.clip(statistics.real / max(statistics.generated, 1e-3), 0.3, 3.0)
    # A band's own correction counts as far as it is measured.
    trust = statistics.weight / (statistics.weight + 4)
    shape = np.clip(statistics.ratio / _middle(statistics), 0.5, 2.0) ** (STEP * trust)
    amplitude = assumed.amplitude * level**STEP * shape
    weight = statistics.weight + 1e-3
    amplitude = ndimage.gaussian_filter1d(amplitude * weight, 0.8) / ndimage.gaussian_filter1d(weight, 0.8)
    amplitude = _continued(amplitude, statistics.weight)
    return Assumption(tuple(counts), _distance(searcher, real, trial, assumed, highest), amplitude)


def _middle(statistics: _Statistics) -> float:
    """The ratio of amplitudes in the best measured bands."""
    weight = np.minimum(statistics.weight, 400.0) + 1e-6
    return float(np.exp(np.average(np.log(statistics.ratio), weights=weight)))


def _continued(amplitude: Array, weight: Array) -> Array:
    """The amplitude, in bands where it is not measured, continued as exp(−B/4 u²)."""
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


def _distance(searcher: _Searcher, real: Sequence[_Search], trial: _Trial, assumed: Assumption,
              highest: float) -> float:
    """The particle distance at which nearest neighbours lie as near in generated fields as in real ones."""
    hits = np.concatenate([search.by_all.scores[hit] for search, hit in zip(trial.searches, trial.hits, strict=True)])
    if len(hits) < 10:
        return assumed.distance
    lowest = float(np.quantile(hits, 0.1))
    nearest = [[], []]  # type: list[list[Array]]
    for kind, searches in enumerate((real, trial.searches)):
        for field, search in zip(searcher.fields, searches, strict=True):
            scores = search.by_all.scores
            places = search.by_all.centres[(scores > lowest) & (scores < highest)]
            if len(places) > 3:
                nearest[kind].append(cKDTree(places).query(places, k=2)[0][:, 1] * field.pixel_size)
    if not all(nearest):
        return assumed.distance
    met, made = (float(np.quantile(np.concatenate(one), 0.1)) for one in nearest)
    return float(np.clip(assumed.distance + STEP * (met - made), 0.3 * searcher.diameter, 1.5 * searcher.diameter))


def _measure_weak(searcher: _Searcher, real: Sequence[_Search], assumed: Assumption, areas: Sequence[float],
                  highest: float, seed: int) -> tuple[Assumption, _Trial, _Statistics]:
    """Number and amplitude where single particles do not stand out.

    The spectrum tells number · amplitude²; the heights of the peaks and the amplitude at them tell which pair it is.
    """
    flat = np.full(BANDS, float(np.median(assumed.amplitude)))
    cover = 0.3
    amplitude = flat
    for number in range(3):  # the spectrum's power at this density
        guess = Assumption(tuple(cover * area for area in areas), 0.9 * searcher.diameter, amplitude)
        trial = _tried(searcher, guess, (seed, "spectrum", number))
        statistics = _compared(searcher, real, trial, guess, highest)
        amplitude = amplitude * np.sqrt(np.clip(statistics.spectral, 0.03, 100.0))
    best: tuple[float, Assumption, _Trial, _Statistics] | None = None
    for step in range(2):
        centre = cover
        for factor in DENSITIES if step == 0 else (0.84, 1.0, 1.19):
            part = centre * factor
            if part > DENSEST:
                continue
            guess = Assumption(tuple(part * area for area in areas), min(0.9, 0.73 / np.sqrt(part)) * searcher.diameter,
                               amplitude * np.sqrt(0.3 / part))
            trial = _tried(searcher, guess, (seed, "weak", step, factor))
            statistics = _compared(searcher, real, trial, guess, np.inf)
            cost = _weak_cost(searcher, real, trial, statistics)
            log.debug("cover %.2f: cost %.1f, spectral %.2f, cross %.3f ± %.3f against %.3f", part, cost,
                      statistics.spectral, statistics.real, statistics.error, statistics.generated)
            if best is None or cost < best[0]:
                best, cover = (cost, guess, trial, statistics), part
    assert best is not None
    return best[1], best[2], best[3]


def _weak_cost(searcher: _Searcher, real: Sequence[_Search], trial: _Trial, statistics: _Statistics) -> float:
    edges = np.arange(2.0, 7.01, BIN)
    met, made = (np.sum([np.histogram(search.by_all.scores, edges)[0] for search in searches], axis=0)
                 for searches in (real, trial.searches))
    expected = ndimage.gaussian_filter1d(made.astype(float), 0.7) + 0.5
    likelihood = float((expected - met * np.log(expected)).sum())
    return likelihood + 0.5 * (statistics.real - statistics.generated) ** 2 / (2 * max(statistics.error, 1e-6) ** 2)


def _result(searcher: _Searcher, real: Sequence[_Search], trial: _Trial, assumed: Assumption,
            statistics: _Statistics, highest: float, advantage: float, counted: bool, problem: str
            ) -> ParticleMeasurement:
    fields = searcher.fields
    edges = _edges(highest if np.isfinite(highest) else 8.0)
    per_particle, others = _histograms(searcher, trial, edges)
    errors = []
    for field, search, count, unit in zip(fields, real, assumed.counts, _units(trial), strict=True):
        part = max(field.searched, 1e-3)
        errors.append(_count(search.by_all.scores / unit, per_particle, others * part, edges, 3 * count + 10)[1] / part)
    grey = float(np.median([field.grey for field in fields]))
    amplitude_error = assumed.amplitude / np.sqrt(np.maximum(statistics.weight, 1e-6))
    hits = np.concatenate([search.by_all.scores[hit] for search, hit in zip(trial.searches, trial.hits, strict=True)])
    threshold = float(np.quantile(hits, 0.1)) if len(hits) else highest
    return ParticleMeasurement(
        assumed.counts, tuple(errors), assumed.distance,
        (np.arange(BANDS) + 0.5) / BANDS / 2 / fields[0].pixel_size, assumed.amplitude * grey, amplitude_error * grey,
        float(np.mean([made.signal_variance for made in trial.fields])) * grey**2,
        tuple(made.particle_variance * field.grey**2 for made, field in zip(trial.fields, fields, strict=True)),
        advantage, bool(statistics.real > 3 * statistics.error), counted, problem, *_largest(searcher, trial, assumed),
        tuple(search.by_all.part((search.by_all.scores > threshold) & (search.by_all.scores < highest))
                       for search in real),
        threshold, edges, *(np.sum([np.histogram(search.by_all.scores, edges)[0] for search in searches], axis=0,
                                   dtype=np.float64) for searches in (real, trial.searches)))


def _largest(searcher: _Searcher, trial: _Trial, assumed: Assumption) -> tuple[float | None, float | None]:
    """Largest variances of the particles, in their masks and in a whole field, that the real spectra allow.

    The particles alone must not have more power than the micrograph at any frequency. The spectrum tells number ·
    amplitude². So the amplitude is largest for the fewest particles, which cover the part SPARSE of the area.
    """
    signal, whole = [], []
    for field, made, count in zip(searcher.fields, trial.fields, assumed.counts, strict=True):
        frequency = np.arange(len(field.radial)) / TILE
        used = (frequency > 1.3 * field.pixel_size / searcher.diameter) & (frequency < 0.45)
        used &= made.particle_power > 0.1 * made.particle_power[used].max()
        factor = float((field.radial[used] / made.particle_power[used]).min()) if used.any() else math.nan
        cover = count * np.pi / 4 * (searcher.diameter / field.pixel_size) ** 2 / (field.shape[0] * field.shape[1])
        signal.append(made.signal_variance * factor * max(cover / SPARSE, 1.0) * field.grey**2)
        whole.append(made.particle_variance * factor * field.grey**2)
    if not np.isfinite(signal).all() or not min(signal) > 0:
        return None, None
    return float(np.median(signal)), float(np.median(whole))
