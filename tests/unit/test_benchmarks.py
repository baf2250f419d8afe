# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of the benchmarks, which writes the sections of RESULTS.md; the comparison of pickers; the tables."""
import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def benchmark(name):
    if not FOLDER.is_dir():
        pytest.skip("benchmarks are not part of the installed package")
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runner(tmp_path, monkeypatch):
    module = benchmark("run")
    files = [command[0] for command in module.BENCHMARKS.values()]
    assert all((FOLDER / file).is_file() for file in [*files, *module.WITH_DATA.values()])
    monkeypatch.setattr(module, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "WITH_DATA", {"far": "one.py"})
    monkeypatch.setattr(module, "BENCHMARKS", {"one": ["one.py", "--fast"], "two": ["two.py"]})
    (tmp_path / "RESULTS.md").write_text(
        "# Results\n\nBy hand.\n\n<!-- benchmark two -->\nold\n<!-- end two -->\n\nMore.\n")
    (tmp_path / "one.py").write_text("import sys; print('1.5x', sys.argv[1]); print(r'back\\1slash')")
    (tmp_path / "two.py").write_text("\"\"\"Speed of two.\n\nMore of it.\n\"\"\"\nprint('2.5x')")
    return module


def test_every_benchmark_writes_its_own_section(runner, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py"])
    runner.main()
    runner.main()
    text = runner.RESULTS.read_text()
    assert "old" not in text
    assert "MB.\n\nSpeed of two.\n\n2.5x" in text
    for words in ("By hand.", "More.", "1.5x --fast", "2.5x", "back\\1slash", "peak memory"):
        assert text.count(words) == (2 if words == "peak memory" else 1), words
    assert text.index("2.5x") < text.index("More.") < text.index("1.5x")


def test_a_benchmark_that_needs_data_gets_its_arguments(runner, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "far", "--", "--map", "x.mrc"])
    runner.main()
    text = runner.RESULTS.read_text()
    assert "### far\n\n`python benchmarks/one.py --map x.mrc`" in text
    assert "1.5x --map" in text
    assert "old" in text  # the other sections stay as they are
    monkeypatch.setattr(sys, "argv", ["run.py", "far"])
    with pytest.raises(SystemExit, match="no benchmark 'far'; choose from one, two; with -- and its arguments: far"):
        runner.main()


def test_a_benchmark_that_fails_leaves_its_section_as_it_was(runner, monkeypatch):
    (runner.HERE / "two.py").write_text("print('3.5x'); raise SystemExit(3)")
    monkeypatch.setattr(sys, "argv", ["run.py", "two"])
    with pytest.raises(SystemExit, match=r"two\.py ended with 3"):
        runner.main()
    assert "old" in runner.RESULTS.read_text()
    monkeypatch.setattr(sys, "argv", ["run.py", "three"])
    with pytest.raises(SystemExit, match="no benchmark 'three'; choose from one, two"):
        runner.main()


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


def test_a_table_is_markdown_with_equal_columns(capsys):
    table = benchmark("markdown_table").MarkdownTable("stage", "time (s)", "ratio")
    table.row("placement", "0.02", "44")
    head, rule, row = capsys.readouterr().out.splitlines()
    assert [line.count("|") for line in (head, rule, row)] == [4, 4, 4]
    assert rule == "|---|---:|---:|"
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["placement", "0.02", "44"]
    with pytest.raises(ValueError, match="a row of 2 cells in a table of 3 columns"):
        table.row("placement", "0.02")


def test_the_results_have_a_section_of_each_benchmark():
    names = benchmark("run").BENCHMARKS
    text = (FOLDER / "RESULTS.md").read_text("utf-8")
    for name in names:
        assert text.count(f"<!-- benchmark {name} -->") == text.count(f"<!-- end {name} -->") == 1, name
