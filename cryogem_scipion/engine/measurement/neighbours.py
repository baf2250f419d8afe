# SPDX-License-Identifier: GPL-3.0-or-later
"""Distances of neighbouring particles, which tell how near to each other particles lie."""
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial

__all__ = ["distance_difference"]

NEAREST = 0.1
"""Part of the particles, those with the nearest neighbours, whose distance is compared: the smallest one is noise."""
FEWEST = 10
"""Particles from which distances are compared."""

Array = NDArray[np.float64]


def distance_difference(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trials: Sequence[Trial],
                        highest: float) -> float | None:
    """Return by how many Å nearest neighbours lie farther apart in real fields than in generated ones.

    Peaks with a score of ``highest`` or more are no particles. None if there are too few.
    """
    hits = np.concatenate([search.by_all.scores[hit] for trial in trials
                           for search, hit in zip(trial.searches, trial.hits, strict=True)])
    if len(hits) < FEWEST:
        return None
    lowest = float(np.quantile(hits, 0.1))
    generated = [_distances(searcher, trial.searches, lowest, highest) for trial in trials]
    real, together = _distances(searcher, real_searches, lowest, highest), np.concatenate(generated)
    if not len(real) or not len(together):
        return None
    return float(np.quantile(real, NEAREST) - np.quantile(together, NEAREST))


def _distances(searcher: ParticleSearcher, searches: Sequence[FieldSearch], lowest: float, highest: float) -> Array:
    """Distance of each clear peak's nearest neighbour, Å."""
    distances = [np.zeros(0)]
    for field, search in zip(searcher.fields, searches, strict=True):
        scores = search.by_all.scores
        places = search.by_all.centres[(scores > lowest) & (scores < highest)]
        if len(places) > 3:
            distances.append(cKDTree(places).query(places, k=2)[0][:, 1] * field.pixel_size)
    return np.concatenate(distances)
