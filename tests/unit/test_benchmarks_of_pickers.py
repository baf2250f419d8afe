# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmarks of pickers: data sets with several noise models, experts' labels, and what picks are worth."""
import argparse
import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from cryogem_scipion.engine.io.mrc import write_mrc
from tests.benchmark_modules import benchmark


def test_the_picks_of_each_seed_are_copied(tmp_path):
    python = tmp_path / "an env/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$3" >> picks.txt\n')
    python.chmod(0o755)
    picks = tmp_path / "picks of it"
    wrapper = benchmark("noise_models").wrapped_topaz(argparse.Namespace(topaz=python.parents[1], out=tmp_path), picks)
    for command in ("extract", "precision_recall_curve", "extract", "precision_recall_curve"):
        subprocess.run([wrapper / "bin/python", "-c", "", command], cwd=tmp_path, check=True)
    assert sorted(path.name for path in picks.iterdir()) == ["picks_0.txt", "picks_1.txt"]
    assert len((picks / "picks_1.txt").read_text().split()) == 4


def test_the_interval_tells_a_better_picker_from_an_equal_one(tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(1)
    rows = {"same": [], "better": [], "worse": []}
    for name in "abcdef":
        places = random.integers(50, 950, (40, 2))
        (tmp_path / f"{name}.json").write_text(json.dumps(
            {"particles": [{"x": int(x), "y": int(y), "inside": True} for x, y in places]}))
        for kind, noise in (("same", 1.5), ("better", 0.5), ("worse", 1.5)):
            true = [(x // 2, y // 2, 1 + random.normal(0, noise)) for x, y in places]
            false = [(x, y, random.normal(0, noise)) for x, y in random.integers(1000, 2000, (40, 2))]
            rows[kind] += [(name, *row) for row in true + false]
    for kind, table in rows.items():
        (tmp_path / kind).mkdir()
        for seed in range(2):
            (tmp_path / kind / f"picks_{seed}.txt").write_text("\n".join(
                ["image_name\tx_coord\ty_coord\tscore", *("\t".join(map(str, row)) for row in table)]))
    monkeypatch.setattr(sys, "argv", [
        "compare_pickers.py", *(f"{kind}={tmp_path / kind}" for kind in rows), "--labelled", str(tmp_path),
        "--diameter", "250", "--pixel-size", "5", "--draws", "200"])
    benchmark("compare_pickers").main()
    same, better, worse = capsys.readouterr().out.splitlines()
    assert same.endswith("2 seeds)")
    low, high = (float(word) for word in better.split("95 % ")[1].split(" to "))
    assert 0.05 < low < high
    low, high = (float(word) for word in worse.split("95 % ")[1].split(" to "))
    assert low < 0 < high


def test_the_settings_of_a_person_or_of_a_measurement_are_simulated():
    flags = benchmark("noise_models").simulation_settings
    given = {"map": "m.mrc", "map_pixel_size": 3, "pixel_size": 3, "particles": 85, "particles_sigma": 13,
             "distance": 150, "defocus": (10000, 25000), "amplitude_contrast": 0.07,
             "micrograph_size": (600, 620), "settings": None}
    guessed = flags(SimpleNamespace(**given))
    assert guessed[guessed.index("--micrograph-size"):] == ["--micrograph-size", 600, 620]
    assert "--defocus-max" in guessed
    assert flags(SimpleNamespace(**{**given, "settings": "s.json"})) == ["--config", "s.json"]


def test_folds_of_labels_have_no_micrograph_of_an_earlier_run(tmp_path):
    module = benchmark("expert_labels")
    files = [tmp_path / f"mic_{number}.mrc" for number in range(3)]
    for number, file in enumerate(files):
        file.touch()
        file.with_suffix(".json").write_text(json.dumps({"particles": [{"x": 10.4, "y": 20.6 + number}]}))
    module.write_fold(files[:2], tmp_path / "fold")
    table = pd.read_csv(module.write_fold(files[1:], tmp_path / "fold"), sep="\t")
    assert sorted(path.name for path in (tmp_path / "fold").glob("mic_*.mrc")) == ["mic_1.mrc", "mic_2.mrc"]
    assert table.to_dict("list") == {"image_name": ["mic_1", "mic_2"], "x_coord": [10, 10], "y_coord": [22, 23]}


def test_picks_are_compared_with_labels_at_the_micrographs_own_scale(tmp_path):
    module = benchmark("structure_of_picks")
    (tmp_path / "a.json").write_text(json.dumps({"particles": [{"x": 20, "y": 40}, {"x": 100, "y": 100}]}))
    table = pd.DataFrame({"image_name": ["a", "a", "a", "b"], "x_coord": [10, 30, 50, 10], "y_coord": [21, 5, 50, 20],
                          "score": [1.0, 2.0, -1.0, 3.0]})
    args = SimpleNamespace(threshold=0.0, scale=2, radius=9.0, pixel_size=3.0, files=[tmp_path / "a.mrc"])
    centres = partial(module.picked_centres, table, args)
    assert centres(tmp_path / "a.mrc") == [(20, 42), (60, 10)]
    assert module.found_and_true(centres, args).tolist() == [2, 1, 2]


def test_places_between_particles_are_far_from_all_of_them(tmp_path):
    module = benchmark("structure_of_picks")
    labels = [{"x": 60, "y": 40}, {"x": 20, "y": 90}, {"x": 30, "y": 20}]
    (tmp_path / "a.json").write_text(json.dumps({"particles": labels}))
    write_mrc(tmp_path / "a.mrc", np.zeros((100, 120), np.float32), 3.0)
    places = np.array(module.centres_of_gaps(SimpleNamespace(gap=75.0, pixel_size=3.0, box=16), tmp_path / "a.mrc"))
    assert places.shape == (3, 2)
    assert cdist(places, [(label["x"], label["y"]) for label in labels]).min() > 25
    assert (places >= 8).all()
    assert (places <= [112, 92]).all()
