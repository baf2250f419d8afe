# SPDX-License-Identifier: GPL-3.0-or-later
"""Which checkpoint becomes the model, and how many validations were not better."""
import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cryogem_scipion.engine.translator import validation_critic
from cryogem_scipion.engine.translator.state_choice import LARGEST_GROWTH, SMALLEST_AUC_IMPROVEMENT, StateChoice
from tests.unit.test_benchmarks import benchmark


def chosen(*validations):
    """Choice after validations (realism, auc) at steps 0, 10, 20, …"""
    choice = StateChoice()
    for index, (realism, auc) in enumerate(validations):
        choice = choice.after(10 * index, {"realism": realism, "auc": auc})
    return choice


def test_the_lowest_auc_is_chosen_and_validations_without_improvement_are_counted():
    choice = chosen((1.0, 0.9), (1.1, 0.7), (0.5, 0.8), (1.08, 0.7 - SMALLEST_AUC_IMPROVEMENT / 2))
    assert (choice.best_step, choice.best_realism, choice.best_auc) == (10, 1.1, 0.7)
    assert choice.without_improvement == 2
    assert chosen((1.0, 0.9), (1.0, 0.95), (1.0, 0.6)).without_improvement == 0


def test_the_distance_decides_where_the_auc_does_not_rise():
    assert chosen((1.0, 0.5), (0.9, 0.5), (0.5, 0.51), (0.88, 0.5)).best_step == 10
    assert chosen((1.0, 0.6), (0.9, 0.598)).best_step == 10


def test_a_state_much_farther_than_the_first_is_never_chosen():
    choice = chosen((2.0, 0.9), (2.0 * LARGEST_GROWTH + 0.01, 0.5), (2.0 * LARGEST_GROWTH, 0.6))
    assert (choice.best_step, choice.best_auc, choice.first_realism) == (20, 0.6, 2.0)
    assert chosen((2.0, 0.9), (2.5, 0.5)).best_step == 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_choice_survives_a_checkpoint(count):
    choice = chosen(*[(1.3, 0.9), (1.1, 0.7), (1.0, 0.71)][:count])
    restored = StateChoice.from_values(json.loads(json.dumps(choice.values())))
    assert restored == choice


def test_a_checkpoint_from_before_the_critic_is_read():
    choice = StateChoice.from_values({"best_step": 400, "best_realism": 0.8})
    assert (choice.best_step, choice.best_realism) == (400, 0.8)
    assert choice.after(600, {"realism": 9.0, "auc": 0.99}) == StateChoice(9.0, 600, 9.0, 0.99, 0)
    assert StateChoice.from_values({"best_step": 0, "best_realism": None}) == StateChoice()


def test_the_benchmark_of_the_choice_ranks_sets(monkeypatch):
    module = benchmark("state_choice")
    monkeypatch.setattr(module, "PIXELS", 2**16)
    monkeypatch.setattr(validation_critic, "CRITIC_STEPS", {"pixels": 40, "textures": 10})
    monkeypatch.setattr(validation_critic, "JUDGED_SQUARES", 128)
    rng = np.random.default_rng(1)
    white, other, real = (list(rng.normal(size=(6, 128, 128)).astype(np.float32)) for _ in range(3))
    smooth = [gaussian_filter(image, 0.7) for image in other]
    aucs = [module.critic_aucs(generated, real, 1)["auc"] for generated in (white, smooth)]
    assert aucs[0] < 0.7 < aucs[1]
    assert module.rank_correlation([(0.5, 0.6), (0.7, 0.7), (0.9, 0.8)]) == pytest.approx(1)
