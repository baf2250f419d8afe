# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of fitted optics: true on average, also with few values; and no astigmatism that is noise."""
import math

import numpy as np
import pytest

from cryogem_scipion.engine.measurement.fit_errors import (
    ErrorSources,
    astigmatism_factors,
    curvature_errors,
    pooled_errors,
)
from cryogem_scipion.engine.measurement.ring_model import RingModel, components, with_components
from cryogem_scipion.engine.simulation.optics import Optics

BASE = Optics(300, 2.7, 0.1, 0, 0, 0)
FITS = 4000


def test_deviations_are_as_large_as_the_pooled_errors():
    """The errors of the micrographs differ; each is told by two halves only, and larger than the curvature says."""
    draw = np.random.default_rng(0)
    true = np.exp(draw.uniform(math.log(10), math.log(200), FITS))[:, None] * (1, 1.3, 1.3)
    sources = [ErrorSources(error / 1.6, error * draw.standard_normal((2, 3)), np.zeros((2, 3))) for error in true]
    errors = pooled_errors(sources, np.ones(FITS, bool))
    deviations = true * draw.standard_normal((FITS, 3)) / errors[:, [0, 1, 1]]
    # 4000 values tell a deviation to 2 %. The mean of an own and a typical error is not exact: 5 %.
    robust = 1.4826 * np.median(np.abs(deviations), axis=0)
    assert robust == pytest.approx([1, 1, 1], abs=0.07)
    # With the halves alone, one of ten lies beyond three errors.
    halves = np.array([math.sqrt((one.halves[:, 0] ** 2).mean()) for one in sources])
    beyond = np.abs(deviations[:, 0]) > 3
    assert beyond.mean() < 0.02 < 0.05 < (np.abs(deviations[:, 0] * errors[:, 0]) > 3 * halves).mean()


def test_another_floor_makes_the_error_larger_and_a_single_micrograph_has_one():
    quiet = ErrorSources(np.full(3, 10.0), np.full((2, 3), 10.0), np.zeros((2, 3)))
    bent = ErrorSources(np.full(3, 10.0), np.full((2, 3), 10.0), np.full((2, 3), 100.0))
    for certain in (True, False):
        errors = [pooled_errors([one], np.array([certain])) for one in (quiet, bent)]
        assert np.all(errors[0] >= 10)
        assert np.all(errors[1] > 70)


def test_the_curvature_of_a_parabola_gives_its_errors():
    class Parabola(RingModel):
        """Chi square with known errors, correlated between the directions of astigmatism."""

        centre = np.array([15000.0, 300.0, -200.0])
        covariance = np.array([[900.0, 0, 0], [0, 1600.0, 600.0], [0, 600.0, 2500.0]])

        def __init__(self):
            self.count = np.ones(50)

        def chi(self, optics):
            away = components(optics) - self.centre
            return 50 + float(away @ np.linalg.inv(self.covariance) @ away)

    errors = curvature_errors(Parabola(), with_components(BASE, Parabola.centre))
    assert errors == pytest.approx([30, 40, 50], rel=1e-3)  # rounding of differences of chi square


def test_no_minimum_gives_a_large_error_that_is_finite():
    class Valley(RingModel):
        def __init__(self):
            self.count = np.ones(50)

        def chi(self, optics):
            return 50 + ((optics.defocus_u_angstrom + optics.defocus_v_angstrom) / 2 - 15000) ** 2 / 900

    errors = curvature_errors(Valley(), with_components(BASE, np.array([15000.0, 300, 0])))
    assert errors == pytest.approx([30, 300, 300], rel=1e-3)


def test_components_are_those_of_the_optics():
    optics = Optics(300, 2.7, 0.1, 15300, 14700, 25)
    assert components(optics) == pytest.approx([15000, 600 * math.cos(math.radians(50)),
                                                600 * math.sin(math.radians(50))])
    back = with_components(BASE, components(optics))
    assert (back.defocus_u_angstrom, back.defocus_v_angstrom, back.defocus_angle_degrees) == pytest.approx(
        (15300, 14700, 25))


def test_noise_makes_no_astigmatism():
    draw = np.random.default_rng(2)
    errors = np.where(np.arange(400) % 4, 40.0, 150.0)
    vectors = 200 * draw.standard_normal((400, 2))
    noisy = vectors + errors[:, None] * draw.standard_normal((400, 2))
    corrected = noisy * astigmatism_factors(noisy, errors, np.ones(400, bool))[:, None]
    before, after = (np.sqrt(((found - vectors) ** 2).mean()) for found in (noisy, corrected))
    assert after < 0.9 * before
    # The chance of the largest of 400 is 10 %.
    largest = np.hypot(*vectors.T).max()
    assert np.hypot(*corrected.T).max() == pytest.approx(largest, rel=0.1)
    nothing = errors[:, None] * draw.standard_normal((400, 2))
    assert np.hypot(*(nothing * astigmatism_factors(nothing, errors, np.ones(400, bool))[:, None]).T).max() < 50


def test_uncertain_micrographs_keep_their_astigmatism():
    found = np.array([[300.0, 0], [100.0, 50.0], [2000.0, 0]])
    factors = astigmatism_factors(found, np.array([50.0, 50.0, 50.0]), np.array([True, True, False]))
    assert factors[2] == 1
    assert np.all(factors[:2] < 1)
    assert np.all(astigmatism_factors(found, np.full(3, 50.0), np.zeros(3, bool)) == 1)
