# SPDX-License-Identifier: GPL-3.0-or-later
"""Neighbouring particles: how near they may lie to each other, and how many lie beside each other."""
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial
from cryogem_scipion.engine.measurement.search_field import SearchField
from cryogem_scipion.engine.measurement.synthesis import Assumption
from cryogem_scipion.engine.simulation.placement import CLUSTER_REACH, place_centres
from cryogem_scipion.engine.simulation.specimen import seeded_generator

__all__ = ["MOST_CLUSTERS", "clustering_in_real", "distance_difference"]

NEAREST = 0.1
"""Part of the particles, those with the nearest neighbours, whose distance is compared: the smallest one is noise."""
FEWEST = 10
"""Particles from which distances are compared."""
BESIDE = 1.05 * CLUSTER_REACH
"""Particle distances up to which a neighbour counts as beside a particle; the search finds centres inexactly."""
MOST_CLUSTERS = 0.9
"""Largest degree of clustering. Above it hardly more particles lie beside each other, but all in one group."""
LEAST_CLUSTERS = 0.2
"""Degree of clustering below which it counts as 0: a little clustering and a smaller particle distance look alike."""
DEGREES = np.linspace(0, MOST_CLUSTERS, 19)
"""Degrees of clustering that are tried."""
PLACEMENTS = 4
"""Random placements of each field, of which the mean is taken."""

Array = NDArray[np.float64]


def distance_difference(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trials: Sequence[Trial],
                        highest: float) -> float | None:
    """Return by how many Å nearest neighbours lie farther apart in real fields than in generated ones.

    Peaks with a score of ``highest`` or more are no particles. None if there are too few.
    """
    lowest = _lowest_score(trials)
    if lowest is None:
        return None
    real = _nearest_distances(searcher, real_searches, lowest, highest)
    generated = np.concatenate([_nearest_distances(searcher, trial.searches, lowest, highest) for trial in trials])
    if not len(real) or not len(generated):
        return None
    return float(np.quantile(real, NEAREST) - np.quantile(generated, NEAREST))


def clustering_in_real(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trials: Sequence[Trial],
                       assumed: Assumption, highest: float) -> float | None:
    """Return the degree of clustering with which particles have as many neighbours beside them as in the real fields.

    The search misses particles and finds some that are none, in real and generated fields alike. So the number of
    neighbours that it finds in real fields, over that in generated ones, is taken as the ratio of the true numbers.
    How the true number depends on the degree of clustering is found with random placements.

    Parameters
    ----------
    trials
        Generated fields, made with ``assumed``.
    highest
        Peaks with this score or more are no particles.

    Returns
    -------
    The setting ``clusters`` of a simulation, 0 or 0.2 to 0.9; None if there are too few particles.
    """
    lowest = _lowest_score(trials)
    if lowest is None:
        return None
    real = _share_beside(_clear_places(searcher, real_searches, lowest, highest), assumed.distance)
    generated = _share_beside([places for trial in trials for places in
                               _clear_places(searcher, trial.searches, lowest, highest)], assumed.distance)
    if real is None or not generated:
        return None
    expected = np.array([_expected_share(searcher.fields, assumed, float(degree)) for degree in DEGREES])
    expected = np.maximum.accumulate(expected)  # chance may let it fall by a little
    wanted = float(np.interp(assumed.clusters, DEGREES, expected)) * real / generated
    degree = float(np.interp(wanted, expected, DEGREES))
    return degree if degree >= LEAST_CLUSTERS else 0.0


def _lowest_score(trials: Sequence[Trial]) -> float | None:
    """The score from which a peak is clearly a particle; None if the search found too few in generated fields."""
    hits = np.concatenate([search.by_all.scores[hit] for trial in trials
                           for search, hit in zip(trial.searches, trial.hits, strict=True)])
    return float(np.quantile(hits, 0.1)) if len(hits) >= FEWEST else None


def _clear_places(searcher: ParticleSearcher, searches: Sequence[FieldSearch], lowest: float, highest: float
                  ) -> Iterator[Array]:
    """Positions (y, x) of the clear peaks of each field that has some, Å."""
    for field, search in zip(searcher.fields, searches, strict=True):
        scores = search.by_all.scores
        places = search.by_all.centres[(scores > lowest) & (scores < highest)]
        if len(places) > 3:
            yield places * field.pixel_size


def _nearest_distances(searcher: ParticleSearcher, searches: Sequence[FieldSearch], lowest: float, highest: float
                       ) -> Array:
    """Distance of each clear peak's nearest neighbour, Å."""
    return np.concatenate([np.zeros(0), *(cKDTree(places).query(places, k=2)[0][:, 1] for places in
                                          _clear_places(searcher, searches, lowest, highest))])


def _share_beside(fields: Iterator[Array] | Sequence[Array], distance: float) -> float | None:
    """Share of all pairs of places in a field that lie beside each other; None without a pair."""
    beside = pairs = 0
    for places in fields:
        beside += len(cKDTree(places).query_pairs(BESIDE * distance))
        pairs += len(places) * (len(places) - 1) // 2
    return beside / pairs if pairs else None


def _expected_share(fields: Sequence[SearchField], assumed: Assumption, clusters: float) -> float:
    """The same share for particles that are placed with another degree of clustering."""
    placed = []
    for number, field in enumerate(fields):
        distance = assumed.distance / field.pixel_size
        for draw in range(PLACEMENTS):
            centres = place_centres(round(assumed.counts[number]), field.shape, distance,
                                    seeded_generator("neighbours", number, draw), clusters=clusters)
            placed.append(centres.numpy() * field.pixel_size)
    return _share_beside(placed, assumed.distance) or 0.0
