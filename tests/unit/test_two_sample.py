# SPDX-License-Identifier: GPL-3.0-or-later
"""Two-sample test: what small networks tell apart, and what they cannot."""
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.figures.two_sample import has_two_sample
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.realism.micrograph_sets import open_set
from cryogem_scipion.engine.realism.two_sample.image_stack import draw_squares, read_stacks, square_positions
from cryogem_scipion.engine.realism.two_sample.pair_statistics import (
    Verdict,
    adjusted_for_all,
    estimate_auc,
    pair_matrix,
)
from cryogem_scipion.engine.realism.two_sample.report import verdict
from cryogem_scipion.engine.realism.two_sample.scales import chosen_scales
from cryogem_scipion.engine.realism.two_sample.trials import fold_trials
from cryogem_scipion.engine.realism.two_sample.two_sample_test import Training, two_sample_test
from cryogem_scipion.engine.settings import EvaluateSettings, parse
from cryogem_scipion.engine.stages import evaluate


def write_set(folder, count, generator, blur=0.0, shape=(150, 170)):
    """White or blurred noise, as grey values that differ between the micrographs."""
    folder.mkdir()
    for number in range(count):
        image = torch.randn(shape, generator=generator)
        image = image + blur * (image.roll(1, 0) + image.roll(1, 1))
        write_mrc(folder / f"mic_{number}.mrc", (100.0 + (1 + number) * image).numpy(), 4.0)
    return open_set("real", sorted(folder.glob("*.mrc")), None)


@pytest.fixture
def one_seed(monkeypatch):
    """Save time: one seed, and only the scales of pixels and whole fields."""
    module = "cryogem_scipion.engine.realism.two_sample.two_sample_test"
    monkeypatch.setattr(f"{module}.SEEDS", 1)
    monkeypatch.setattr(f"{module}.chosen_scales", lambda *values: chosen_scales(*values)[::3])


def training(steps=16, threads=1):
    return Training(steps, torch.device("cpu"), "float32", threads)


def test_white_noise_is_told_apart_from_coloured_noise_and_halves_of_one_set_are_not(generator, tmp_path,
                                                                                                 one_seed):
    white, coloured = write_set(tmp_path / "white", 8, generator), write_set(tmp_path / "coloured", 8, generator, 0.5)
    results = two_sample_test([white, coloured], 100.0, training(), 1, generator)
    assert [result.scale.name for result in results] == ["pixels", "fields"]
    for result in results[:1]:
        assert result.told_apart
        # 16 judged micrographs with nearly no overlap of the scores.
        assert result.between.low > 0.9
        assert result.evidence.maps[0].mean() > 0 > result.evidence.maps[1].mean()
        # Two halves of 4 micrographs of one set: within the range of chance.
        assert not result.floor.auc > result.floor.chance_high


@pytest.mark.slow
def test_the_same_seed_gives_the_same_result_for_any_number_of_threads(generator, tmp_path, one_seed):
    sets = [write_set(tmp_path / "a", 4, generator), write_set(tmp_path / "b", 5, generator)]
    first, second = (two_sample_test(sets, 100.0, training(2, threads), threads, torch.Generator().manual_seed(3))
                     for threads in (1, 2))
    for one, other in zip(first, second, strict=True):
        assert one.between == other.between
        assert one.floor is None  # it needs 8 real micrographs
        assert torch.equal(one.evidence.logits, other.evidence.logits)


def test_the_limits_of_chance_hold_the_nominal_share_of_draws(generator):
    """Scores without any difference, but with differences between micrographs; no training is needed for this."""
    outside, draws = 0, 400
    for _ in range(draws):
        scores = torch.randn(12, 1, generator=generator) + torch.randn(12, 8, generator=generator)
        estimate = estimate_auc([Verdict(0, tuple(range(6)), tuple(range(6)), pair_matrix(scores))], (6, 6), generator)
        outside += not estimate.chance_low <= estimate.auc <= estimate.chance_high
        assert estimate.low <= estimate.auc <= estimate.high
    # 5 % are expected; a binomial share of 400 draws has a standard deviation of 1.1 %. The permutation's distribution
    # is bounded, so its tails are lighter than the normal ones.
    assert outside / draws < 0.05 + 3 * 0.011


def test_the_verdict_over_all_scales_keeps_the_rate_of_false_alarms():
    assert adjusted_for_all([0.03, 0.005, 0.2, 0.5]) == pytest.approx([0.09, 0.02, 0.4, 0.5])
    assert adjusted_for_all([0.6, 0.6]) == [1.0, 1.0]
    assert adjusted_for_all([]) == []
    # 5 scales, half of whose scores are common to all of them.
    random = np.random.default_rng(1)
    scores = np.sqrt(0.5) * (random.standard_normal((4000, 1)) + random.standard_normal((4000, 5)))
    alarms = sum(min(adjusted_for_all(0.5 * np.vectorize(math.erfc)(row / math.sqrt(2)))) <= 0.05 for row in scores)
    # A share of 5 % of 4000 draws has a standard deviation of 0.35 %.
    assert alarms / 4000 < 0.05 + 3 * 0.0035


def test_the_verdict_names_the_scales_that_tell_the_sets_apart():
    def result(name, adjusted_p):
        return SimpleNamespace(scale=SimpleNamespace(name=name), adjusted_p=adjusted_p, told_apart=adjusted_p <= 0.05)

    assert verdict([]) is None
    equal = verdict([result("pixels", 1.0), result("fields", 0.2)])
    assert equal["text"] == "no difference was found at any scale (probability by chance 0.200, over all scales)"
    assert not equal["told_apart"]
    apart = verdict([result("pixels", 0.0001), result("fields", 0.2), result("bands", 0.04), result("textures", 0.01)])
    assert apart["text"].startswith("the sets differ, told apart at the scale of pixels, bands and textures "
                                    "(probability by chance below 0.001")
    assert apart["told_apart"]


def test_the_pair_matrix_is_the_auc_of_each_pair():
    matrix = pair_matrix(torch.tensor([[1.0, 2.0], [1.5, 3.0], [0.0, 0.0]]))
    assert matrix.diagonal().tolist() == [0.5, 0.5, 0.5]
    assert matrix[0, 1] == 0.25  # of the four pairs only 2 > 1.5 is right
    assert matrix[0, 2] == 1.0
    assert torch.equal(matrix + matrix.T, torch.ones(3, 3, dtype=torch.float64))


def test_no_network_judges_a_micrograph_that_it_was_trained_on(generator):
    trials = fold_trials((range(5), range(7)), 0, 0, False, generator)
    for part, count in ((0, 5), (1, 7)):
        judged = [place for trial in trials for place in trial.judged[part]]
        assert sorted(judged) == list(range(count))  # each is judged once
        assert all(len(trial.judged[part]) >= count // 2 for trial in trials)


def test_squares_lie_in_the_image_and_touch_its_border_often(generator):
    positions = np.array(square_positions((100, 80), 20, 400, generator))
    assert positions.min() == 0
    assert (positions.max(0) == (80, 60)).all()
    # 5 of 91 positions along y are moved to the first row; a binomial share of 400 has a deviation of about 1.2 %.
    assert (positions[:, 0] == 0).mean() == pytest.approx(6 / 91, abs=0.04)
    squares = draw_squares([torch.zeros(100, 80).half(), torch.ones(90, 90).half()], 20, 16, generator)
    assert squares.shape == (16, 1, 20, 20)
    assert squares.dtype == torch.float32


def test_every_micrograph_gets_one_grey_scale_and_large_ones_are_cut(generator, tmp_path, monkeypatch):
    monkeypatch.setattr("cryogem_scipion.engine.realism.two_sample.image_stack.WINDOW_EDGE", 100)
    sets = [write_set(tmp_path / "a", 4, generator), write_set(tmp_path / "b", 4, generator)]
    scales = chosen_scales(4.0, 150, 100.0)
    stacks = read_stacks(sets, scales, 1)
    for stack in stacks[0]:
        for image in stack.images:
            assert tuple(image.shape) == (100, 100)
            assert image.dtype == torch.float16
            assert float(image.float().std()) == pytest.approx(1.0, rel=0.05)  # 1e4 pixels: 0.7 % by chance
    assert stacks[3][0].images[0].shape == (80, 91)
    flat = np.ones((150, 170), np.float32)
    flat[0] = 2.0
    write_mrc(tmp_path / "a/flat.mrc", flat, 4.0)
    with pytest.raises(DataError, match=r"more than half of the pixels of .*flat\.mrc have the same value"):
        read_stacks([open_set("real", [tmp_path / "a/flat.mrc"], None)], scales, 1)


@pytest.mark.slow
def test_the_stage_writes_report_arrays_and_figure(generator, tmp_path, one_seed):
    write_set(tmp_path / "a", 4, generator)
    write_set(tmp_path / "b", 8, generator, 0.5)
    values = {"generated": [str(tmp_path / "a/*.mrc")], "real": [str(tmp_path / "b/*.mrc")], "two_sample_steps": 10,
              "threads": 1}
    manifest = evaluate.run(parse(EvaluateSettings, {**values, "out": tmp_path / "out"}))
    report = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert [entry["scale"] for entry in report["two_sample"]] == ["pixels", "fields"]
    entry = report["two_sample"][0]
    assert entry["low"] <= entry["auc"] <= entry["high"]
    assert entry["floor"]["chance_high"] > 0.5
    assert entry["p"] <= entry["adjusted_p"] <= 2 * entry["p"]
    assert report["two_sample_verdict"]["told_apart"] == any(scale["told_apart"] for scale in report["two_sample"])
    assert manifest.figures["two_sample_told_apart"] == report["two_sample_verdict"]["told_apart"]
    assert manifest.figures["two_sample_pixels_auc"] == entry["auc"]
    with np.load(tmp_path / "out/evaluation.npz") as arrays:
        assert arrays["two_sample_pixels_squares"].shape == (2, 4, 24, 24)
        assert arrays["two_sample_fields_map_real"].ndim == 2
    assert (tmp_path / "out/two_sample.png").stat().st_size > 50_000
    assert has_two_sample(tmp_path / "out")
    assert not has_two_sample(tmp_path)


def test_few_micrographs_give_a_warning_instead_of_a_number(generator, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "save_figure", lambda figure, path: None)
    write_set(tmp_path / "a", 3, generator)
    write_set(tmp_path / "b", 4, generator)
    values = {"generated": [str(tmp_path / "a/*.mrc")], "real": [str(tmp_path / "b/*.mrc")], "out": tmp_path / "out"}
    manifest = evaluate.run(parse(EvaluateSettings, values))
    assert "the two-sample test needs at least 4 micrographs of each set, and one set has 3" in " ".join(
        manifest.warnings)
    assert not any(name.startswith("two_sample") for name in manifest.figures)
    off = evaluate.run(parse(EvaluateSettings, {**values, "out": tmp_path / "off", "two_sample": False}))
    assert "two-sample" not in " ".join(off.warnings)
