# SPDX-License-Identifier: GPL-3.0-or-later
"""The smooth envelope of the signal from noisy amplitudes in bands."""
import numpy as np
import pytest

from cryogem_scipion.engine.measurement.envelope_fit import smooth_envelope
from cryogem_scipion.engine.simulation.envelope import envelope_amplitude

FREQUENCY = (np.arange(24) + 0.5) * 0.00375


def measured(truth, relative_error, seed):
    """Amplitudes with independent errors."""
    random = np.random.default_rng(seed)
    error = relative_error * truth.max() * np.ones(24)
    return truth + error * random.standard_normal(24), error


def fitted(truth, relative_error, seed):
    points = smooth_envelope(FREQUENCY, *measured(truth, relative_error, seed))
    frequency, amplitude = np.array(points).T
    # Both have an unknown factor; it is the mean over the points.
    own = truth[:len(points)]
    return frequency, amplitude, own * (amplitude * own).sum() / (own**2).sum()


@pytest.mark.parametrize("truth", [
    np.exp(-2000 / 4 * FREQUENCY**2),
    np.exp(-400 / 4 * FREQUENCY**2),
    np.where(FREQUENCY < 0.02, 1, np.exp(-3000 / 4 * (FREQUENCY**2 - 0.02**2))),
    np.sinc(FREQUENCY / 0.12) * np.exp(-500 / 4 * FREQUENCY**2),
], ids=["one B-factor", "a small one", "flat, then steep", "drift"])
def test_the_envelope_is_recovered_without_ripples(truth):
    for seed in range(5):
        _, amplitude, expected = fitted(truth, 0.05, seed)
        # The error of a single band is 5 % of the peak. A corner of the envelope is fitted least well.
        assert np.abs(amplitude - expected).max() < 0.12
        assert (np.diff(amplitude) <= 1e-9).all()
        assert amplitude.max() == 1


def test_a_set_that_tells_little_gives_one_b_factor():
    truth = np.exp(-1000 / 4 * FREQUENCY**2)
    frequency, amplitude, _ = fitted(truth, 0.3, 1)
    b_factors = -4 * np.diff(np.log(amplitude)) / np.diff(frequency**2)
    # Amplitudes have three digits, which limits the B-factor between two of the first points.
    assert np.ptp(b_factors[3:]) < 0.2 * b_factors.mean() + 100


def test_bands_that_are_not_measured_follow_from_the_others():
    truth = np.exp(-1500 / 4 * FREQUENCY**2)
    error = np.full(24, 0.02)
    amplitude = truth.copy()
    amplitude[7], error[7] = 0.01, 300.0
    amplitude[11], error[11] = -0.2, 1e-3
    points = np.array(smooth_envelope(FREQUENCY, amplitude, error))
    np.testing.assert_allclose(points[:, 1], (truth / truth[0])[:len(points)], atol=0.01)


def test_a_band_that_is_wrong_does_not_bend_the_envelope():
    truth = np.exp(-600 / 4 * FREQUENCY**2)
    amplitude, error = measured(truth, 0.04, 0)
    amplitude[18], error[18] = 2 * truth[18], 0.2
    points = np.array(smooth_envelope(FREQUENCY, amplitude, error))
    expected = truth[:len(points)] / truth[0]
    np.testing.assert_allclose(points[:, 1], expected, atol=0.1)  # 2.5 errors of a single band


def test_an_envelope_that_is_hardly_measured_is_not_given():
    assert smooth_envelope(FREQUENCY, np.ones(24), np.ones(24)) == ()
    assert smooth_envelope(FREQUENCY, -np.ones(24), np.full(24, 1e-3)) == ()
    assert smooth_envelope(FREQUENCY[:3], np.ones(3), np.full(3, 0.01)) == ()


def test_the_fit_ends_with_the_last_measured_band_and_falls_beyond():
    truth = np.exp(-3000 / 4 * FREQUENCY**2)
    points = smooth_envelope(FREQUENCY, truth, np.full(24, 0.03))
    last = points[-1][0]
    assert truth[len(points) - 1] > 0.09 > truth[len(points)]  # three errors
    beyond = envelope_amplitude(points, np.array([last, 1.5 * last]))
    assert beyond[1] == pytest.approx(np.exp(-3000 / 4 * (1.5 * last) ** 2), rel=0.3)
