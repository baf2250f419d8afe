# SPDX-License-Identifier: GPL-3.0-or-later
"""What the number of particles in a real field errs by because real peaks are not distributed as generated ones.

The search runs on two halves of the Fourier coefficients and on all of them. With half of the coefficients, more peaks
can be particles or not. So if the heights of real peaks differ from the generated ones, the number that a half gives
differs from the number that all coefficients give, by more than it does in generated fields.
"""
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial, found_particles
from cryogem_scipion.engine.measurement.peak_mixture import FieldPeaks, fit_peaks, peak_model

__all__ = ["half_differences", "model_errors"]

Array = NDArray[np.float64]


def half_differences(searcher: ParticleSearcher, searches: Sequence[FieldSearch], trials: Sequence[Trial],
                     highest: float, found: FieldPeaks) -> Array:
    """Return for each field the mean number by the two halves of the coefficients, minus the number by all of them.

    Parameters
    ----------
    searches
        Of the fields.
    trials
        Generated fields to compare them with.
    highest
        Peaks with this score or more are no particles.
    found
        What all coefficients tell of the fields.
    """
    counts = [fit_peaks(peak_model([_of_half(searcher, trial, half) for trial in trials]),
                        [_half(search, half) for search in searches], highest).counts for half in (0, 1)]
    differences: Array = (counts[0] + counts[1]) / 2 - found.counts
    return differences


def model_errors(real: Array, generated: Array) -> Array:
    """Return the standard error of each field's number by which its peaks are unlike those of generated fields.

    A single difference says little, so it counts as much as the mean square of the set. Of what exceeds the generated
    differences, about half is due to each of the two numbers.

    Parameters
    ----------
    real
        Differences by ``half_differences`` of real fields.
    generated
        Those of generated fields, any shape.
    """
    square = (real**2 + (real**2).mean()) / 2
    errors: Array = np.sqrt(np.maximum(square - (generated**2).mean(), 0.0)) / 2
    return errors


def _half(search: FieldSearch, half: int) -> FieldSearch:
    """The search with the peaks of one half in the place of all."""
    return replace(search, by_all=search.by_half[half])


def _of_half(searcher: ParticleSearcher, trial: Trial, half: int) -> Trial:
    searches = [_half(search, half) for search in trial.searches]
    hits = [found_particles(search.by_all, generated.centres, searcher.diameter / field.pixel_size)
            for search, generated, field in zip(searches, trial.fields, searcher.fields, strict=True)]
    return Trial(trial.fields, searches, hits)
