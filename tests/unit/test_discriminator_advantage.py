# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast the generator learns from a discriminator that tells crops apart well, hardly, or not at all."""
import numpy as np
import pytest

from cryogem_scipion.engine.translator.discriminator_advantage import FULL_ADVANTAGE, STEPS, DiscriminatorAdvantage


def pace(mean, deviation, count=STEPS, seed=0):
    """Pace after ``count`` steps with random score differences."""
    return DiscriminatorAdvantage(np.random.default_rng(seed).normal(mean, deviation, count)).generator_pace()


def test_the_pace_grows_with_the_advantage():
    assert pace(0.0, 0.0) == 0
    assert pace(FULL_ADVANTAGE / 2, 0.0) == pytest.approx(0.5)
    assert pace(0.5, 0.1) == 1
    assert pace(-0.5, 0.1) == 0


def test_chance_is_hardly_ever_taken_for_an_advantage():
    paces = [pace(0.0, 0.1, seed=seed) for seed in range(200)]
    # 2.3 % lie above two standard errors (0.01 each), by less than one of them.
    assert np.mean(np.array(paces) > 0) < 0.06
    assert np.mean(paces) < 0.01


def test_the_discriminator_learns_alone_in_the_first_steps():
    assert pace(1.0, 0.0, STEPS - 1) == 0
    assert pace(1.0, 0.0, STEPS) == 1


def test_only_the_last_steps_count():
    advantage = DiscriminatorAdvantage([1.0] * STEPS)
    for _ in range(STEPS):
        advantage.add(0.0)
    assert advantage.generator_pace() == 0


@pytest.mark.parametrize("count", [0, 3, STEPS])
def test_a_checkpoint_keeps_the_differences_in_as_many_values(count):
    advantage = DiscriminatorAdvantage([0.1 * step for step in range(count)])
    values = advantage.values()
    assert values.shape == (STEPS,)
    assert DiscriminatorAdvantage.from_values(values).differences == advantage.differences
    assert not DiscriminatorAdvantage.from_values(None).differences
