# SPDX-License-Identifier: GPL-3.0-or-later
"""The variation of the contrast is found from the scores of particles."""
import numpy as np
import pytest

from cryogem_scipion.engine.measurement.contrast_spread import contrast_spread

EDGES = np.arange(2, 12.1, 0.4)


def scores(spread, seed, mean=6.0, count=1500):
    """Histogram of the scores of particles, with noise of deviation 0.9, and of 3000 peaks of noise."""
    random = np.random.default_rng(seed)
    width = np.sqrt(np.log1p(spread**2))
    contrasts = np.exp(width * random.standard_normal(count) - 0.5 * width**2)
    particles = mean * contrasts + 0.9 * random.standard_normal(count)
    noise = 2.6 + 0.4 * random.standard_normal(3000)
    return np.histogram(np.append(particles, noise), EDGES)[0].astype(float)


@pytest.mark.parametrize("spread", [0.1, 0.2, 0.3])
def test_the_spread_of_the_contrast_is_found(spread):
    result = contrast_spread(EDGES, scores(spread, 1), scores(0.0, 2), 4.4)
    # Scores of 6 ± 0.9 tell a spread of 0.1 to about 0.02. A tenth: the fit takes noise for a part of the score.
    assert result.spread == pytest.approx(spread, abs=0.04 + 0.1 * spread)
    assert 0.005 < result.error < 0.06
    assert abs(result.shift) < 0.03
    assert result.number_ratio == pytest.approx(1, abs=0.08)  # 1500 particles each: 4 %, and their spread


def test_equal_contrasts_have_no_spread_and_a_weaker_set_is_shifted():
    result = contrast_spread(EDGES, scores(0.0, 3, mean=5.6), scores(0.0, 4, mean=6.0), 4.4)
    assert result.spread < 0.06
    assert result.shift == pytest.approx(-0.067, abs=0.02)


def test_few_particles_tell_no_spread():
    assert contrast_spread(EDGES, scores(0.1, 1, count=90), scores(0.0, 2), 4.4) is None
