# SPDX-License-Identifier: GPL-3.0-or-later
"""The search for particles in real and generated fields, on two random halves of the Fourier coefficients.

Particles are found with one half, and their scores and amplitudes are measured on the other.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
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
from cryogem_scipion.engine.simulation.projection import Projector

__all__ = ["FieldSearch", "ParticleSearcher", "Trial", "found_particles", "try_assumption"]

TEMPLATES = 12
EXCLUSION = 0.6
"""Distance of two peaks, in diameters, below which only the higher one counts."""
NEAR = 0.3
"""Distance in diameters from a centre within which a peak is that particle."""
CLEAREST = 0.6
"""Part of the particles, those with the highest peaks, on which amplitudes are measured."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FieldSearch:
    """Peaks of a field: found with either half of the coefficients, and with all."""

    spectrum: Tensor
    by_half: tuple[Peaks, Peaks]
    other_half_scores: tuple[Array, Array]
    """For each half's peaks, the score that the other half has there, above its median."""
    by_all: Peaks

    def level(self, count: float, highest: float) -> tuple[float, float]:
        """Return the mean score that one half has at the highest peaks of the other, and its standard error.

        The peaks are found with one half and the score is read from the other, so that there is no selection bias.
        Values beyond the 10th and 90th percentile count as these percentiles: contaminants do not change the mean.
        Of ``count`` particles, the highest peaks with scores below ``highest`` are used.
        """
        values = []
        for peaks, other_scores in zip(self.by_half, self.other_half_scores, strict=True):
            values.append(other_scores[peaks.scores < highest][:max(3, round(CLEAREST * count))])
        scores = np.concatenate(values)
        if len(scores) < 2:
            return 0.0, 1.0
        low, high = np.quantile(scores, [0.1, 0.9])
        error = float(scores.std(ddof=1)) / math.sqrt(len(scores))
        return float(np.clip(scores, low, high).mean()), error


class ParticleSearcher:
    """Searches fields for particles; templates and filters are prepared once."""

    def __init__(self, fields: Sequence[SearchField], projector: Projector, diameter: float) -> None:
        self.fields, self.projector, self.diameter = fields, projector, diameter
        self.images = [templates(projector, size, TEMPLATES) for size in {field.pixel_size: 0 for field in fields}]
        sizes = list({field.pixel_size: 0 for field in fields})
        shapes = {(field.shape, field.pixel_size): 0 for field in fields}
        self.filters = {key: MatchedFilter(self.images[sizes.index(key[1])], key[0]) for key in shapes}
        self.halves = {field.shape: halves(field.shape, field.shape) for field in fields}
        self.bands = {field.shape: band_numbers(field.shape) for field in fields}

    def filter_of(self, field: SearchField) -> MatchedFilter:
        """Return the matched filter for a field's shape and pixel size."""
        return self.filters[field.shape, field.pixel_size]

    def search(self, field: SearchField, image: Float[Tensor, "y x"], sign: float = 1.0) -> FieldSearch:
        """Return the peaks of a field's image; the image is multiplied by ``sign``, -1 for bright particles."""
        spectrum = fourier.rfft2(image) * sign
        bank, reach = self.filter_of(field), EXCLUSION * self.diameter / field.pixel_size
        maps = [bank.scores(spectrum, field.transfer, field.power, used)
                for used in (*self.halves[field.shape], None)]
        first, second, both = (bank.peaks(scores, reach, field.excluded) for scores in maps)
        other_half_scores = []
        for peaks, (other, _) in ((first, maps[1]), (second, maps[0])):
            rows, columns = peaks.centres.astype(int).T
            other_half_scores.append((other[rows, columns] - other.median()).double().numpy())
        return FieldSearch(spectrum, (first, second), (other_half_scores[0], other_half_scores[1]), both)

    def band_sums(self, field: SearchField, search: FieldSearch, count: float, highest: float) -> tuple[Array, Array]:
        """Return sums in each band: of the image times the templates at the peaks, and of the templates squared.

        Only the peaks with the highest scores below ``highest`` count, as many as ``count`` particles allow.
        """
        products, squares = self.sums(field, search, count, highest, self.bands[field.shape], BANDS + 1)
        return products[:-1], squares[:-1]

    def sums(self, field: SearchField, search: FieldSearch, count: float, highest: float,
             parts: NDArray[np.int64], number: int) -> tuple[Array, Array]:
        """Return the sums of ``band_sums`` over other parts of the Fourier coefficients.

        Parameters
        ----------
        count
            Particles of the field.
        highest
            Peaks with this score or more do not count.
        parts
            For each Fourier coefficient, which of the ``number`` parts it belongs to.
        """
        products, squares = np.zeros(number), np.zeros(number)
        for peaks, other_half in zip(search.by_half, reversed(self.halves[field.shape]), strict=True):
            chosen = peaks.part(peaks.scores < highest).part(slice(0, max(3, round(CLEAREST * count * field.searched))))
            model = self.filter_of(field).drawn(chosen) * field.transfer * other_half
            product = (search.spectrum * model.conj()).real.numpy().ravel()
            products += np.bincount(parts, product, number)
            squares += np.bincount(parts, model.abs().square().numpy().ravel(), number)
        return products, squares


@dataclass(frozen=True)
class Trial:
    """Generated fields of one assumption, and what the search finds in them."""

    fields: list[SyntheticField]
    searches: list[FieldSearch]
    hits: list[NDArray[np.bool_]]
    """For each field, which of the peaks ``by_all`` are particles."""


def try_assumption(searcher: ParticleSearcher, assumed: Assumption, seed: tuple[object, ...]) -> Trial:
    """Generate fields with an assumption and search them; ``seed`` is what they depend on."""
    def search_generated(number: int) -> tuple[SyntheticField, FieldSearch, NDArray[np.bool_]]:
        field = searcher.fields[number]
        generated = synthetic_field(field, searcher.projector, searcher.diameter, number, assumed, (*seed, number))
        search = searcher.search(field, generated.image)
        hits = found_particles(search.by_all, generated.centres, searcher.diameter / field.pixel_size)
        return generated, search, hits

    results = parallel_map(search_generated, range(len(searcher.fields)))
    return Trial([field for field, _, _ in results], [search for _, search, _ in results],
                 [hit for _, _, hit in results])


def found_particles(peaks: Peaks, centres: Array, diameter: float) -> NDArray[np.bool_]:
    """Return which peaks are particles.

    Parameters
    ----------
    centres
        True (y, x) of the particles.
    diameter
        Of a particle, in pixels of the search.
    """
    hit = np.zeros(len(peaks.scores), bool)
    if len(centres) and len(hit):
        distance, nearest = cKDTree(peaks.centres).query(centres, distance_upper_bound=NEAR * diameter)
        hit[nearest[np.isfinite(distance)]] = True
    return hit
