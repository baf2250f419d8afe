# SPDX-License-Identifier: GPL-3.0-or-later
"""How near to each other particles lie in real fields, told by comparison with generated ones."""
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from cryogem_scipion.engine.measurement.matched_filter import Peaks
from cryogem_scipion.engine.measurement.neighbours import clustering_in_real, distance_difference
from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial
from cryogem_scipion.engine.measurement.search_field import SearchField
from cryogem_scipion.engine.measurement.synthesis import BANDS, Assumption
from cryogem_scipion.engine.simulation.placement import place_centres

FIELDS, COUNT, SHAPE, PIXEL_SIZE = 8, 120, (400, 420), 5.0
SEARCHER = Mock(spec=ParticleSearcher, fields=[Mock(spec=SearchField, shape=SHAPE, pixel_size=PIXEL_SIZE)] * FIELDS)
ASSUMED = Assumption((float(COUNT),) * FIELDS, 130.0, np.ones(BANDS))


def searches(distance, clusters, found, seed):
    """What a search finds that misses some particles and is off by a pixel."""
    random = np.random.default_rng(seed)
    results = []
    for number in range(FIELDS):
        centres = place_centres(COUNT, SHAPE, distance / PIXEL_SIZE, torch.Generator().manual_seed(100 * seed + number),
                                clusters=clusters).numpy()
        centres = centres[random.random(len(centres)) < found] + random.normal(0, 1, (1, 2))
        peaks = Peaks(centres, random.uniform(5, 8, len(centres)), np.zeros(len(centres), np.int64))
        results.append(Mock(spec=FieldSearch, by_all=peaks))
    return results


def trial(distance, clusters, found=0.9):
    results = searches(distance, clusters, found, 1)
    return Trial([], results, [np.ones(len(one.by_all.scores), bool) for one in results])


@pytest.mark.parametrize("clusters", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("assumed", [0.0, 0.6])
def test_the_degree_of_clustering_is_found(clusters, assumed):
    real = searches(130.0, clusters, 0.85, 2)
    of_assumed = Assumption(ASSUMED.counts, 130.0, ASSUMED.amplitude, clusters=assumed)
    found = clustering_in_real(SEARCHER, real, [trial(130.0, assumed)], of_assumed, 9.0)
    assert found == pytest.approx(clusters, abs=0.12)


def test_nearer_neighbours_have_a_smaller_distance():
    real = searches(120.0, 0.0, 0.9, 3)
    assert distance_difference(SEARCHER, real, [trial(130.0, 0.0)], 9.0) == pytest.approx(-10, abs=1.5)


def test_a_few_peaks_tell_nothing():
    few = Trial([], searches(130.0, 0.0, 0.0, 1), [np.zeros(0, bool)] * FIELDS)
    assert clustering_in_real(SEARCHER, few.searches, [few], ASSUMED, 9.0) is None
    assert distance_difference(SEARCHER, few.searches, [few], 9.0) is None
