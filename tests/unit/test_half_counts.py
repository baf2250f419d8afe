# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers of particles by halves of the coefficients: they differ where real peaks are unlike generated ones."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryogem_scipion.engine.measurement.half_counts import half_differences, model_errors
from cryogem_scipion.engine.measurement.matched_filter import Peaks
from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial
from cryogem_scipion.engine.measurement.peak_mixture import fit_peaks, peak_model
from cryogem_scipion.engine.measurement.synthesis import SyntheticField

PARTICLES, OTHERS = 80, 300
ALL_HEIGHT, HALF_HEIGHT = 6.0, 4.4
"""Scores of particles by all and by half of the coefficients: about √2 apart."""


def searched(draw, unlike=0):
    """A field with its search. ``unlike`` peaks are as high as particles by all coefficients, but not by the halves."""
    places = 10 * np.stack(np.unravel_index(np.arange(PARTICLES + OTHERS), (40, 40)), 1).astype(float)

    def peaks(height, height_of_unlike):
        scores = np.concatenate([height + 0.7 * draw.standard_normal(PARTICLES),
                                 3 + 0.4 * draw.standard_normal(OTHERS)])
        scores[PARTICLES:PARTICLES + unlike] = height_of_unlike
        return Peaks(places, scores, np.zeros(len(scores), int))

    halves = peaks(HALF_HEIGHT, 3.2), peaks(HALF_HEIGHT, 3.2)
    search = FieldSearch(torch.zeros(1), halves, (halves[0].scores, halves[1].scores), peaks(ALL_HEIGHT, 5.5))
    field = SyntheticField(torch.zeros(4, 4), places[:PARTICLES], np.zeros(1), np.zeros(1), 0.0, 0.0)
    return field, search


def generated(draw, fields):
    made = [searched(draw) for _ in range(fields)]
    hits = [np.arange(PARTICLES + OTHERS) < PARTICLES for _ in made]
    return Trial([field for field, _ in made], [search for _, search in made], hits)


def test_peaks_unlike_generated_ones_make_the_halves_disagree():
    draw = np.random.default_rng(3)
    searcher = object.__new__(ParticleSearcher)
    searcher.fields, searcher.diameter = [SimpleNamespace(pixel_size=1.0) for _ in range(3)], 10.0
    trials = [generated(draw, 3) for _ in range(3)]
    searches = [searched(draw, unlike)[1] for unlike in (0, 25, 0)]
    found = fit_peaks(peak_model(trials), searches, 20.0)
    real = half_differences(searcher, searches, trials, 20.0, found)
    usual = half_differences(searcher, trials[0].searches, trials[1:], 20.0,
                             fit_peaks(peak_model(trials[1:]), trials[0].searches, 20.0))
    # All coefficients count the 25 peaks as particles, the halves do not. The halves tell a number to about 5.
    assert real[1] == pytest.approx(-25, abs=10)
    assert np.abs(np.append(usual, real[[0, 2]])).max() < 12
    errors = model_errors(real, usual)
    assert errors[1] > 6
    assert errors[1] > 1.5 * max(errors[0], errors[2])


def test_differences_as_in_generated_fields_add_no_error():
    draw = np.random.default_rng(4)
    assert model_errors(5 * draw.standard_normal(12), 8 * draw.standard_normal((3, 12))).max() < 3
    # One field alone far off, 30 where 8 is usual: half of what exceeds it.
    errors = model_errors(np.array([30.0] + [0.0] * 11), np.full((3, 12), 8.0))
    assert errors[0] == pytest.approx(np.sqrt((900 + 75) / 2 - 64) / 2)
    assert errors[1:] == pytest.approx(0)
