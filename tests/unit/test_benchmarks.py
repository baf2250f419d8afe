# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of the benchmarks: sections of RESULTS.md, each its own."""
import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def runner(tmp_path, monkeypatch):
    if not FOLDER.is_dir():
        pytest.skip("benchmarks are not part of the installed package")
    spec = importlib.util.spec_from_file_location("run_benchmarks", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files = [command[0] for command in module.BENCHMARKS.values()]
    assert all((FOLDER / file).is_file() for file in [*files, *module.OUTSIDE.values()])
    monkeypatch.setattr(module, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "OUTSIDE", {"far": "one.py"})
    monkeypatch.setattr(module, "BENCHMARKS", {"one": ["one.py", "--fast"], "two": ["two.py"]})
    (tmp_path / "RESULTS.md").write_text(
        "# Measured\n\nBy hand.\n\n<!-- benchmark two -->\nold\n<!-- end two -->\n\nMore.\n")
    (tmp_path / "one.py").write_text("import sys; print('1.5x', sys.argv[1]); print(r'back\\1slash')")
    (tmp_path / "two.py").write_text("print('2.5x')")
    return module


def test_every_benchmark_writes_its_own_section(runner, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py"])
    runner.main()
    runner.main()
    text = runner.RESULTS.read_text()
    assert "old" not in text
    for words in ("By hand.", "More.", "1.5x --fast", "2.5x", "back\\1slash", "peak memory"):
        assert text.count(words) == (2 if words == "peak memory" else 1), words
    assert text.index("2.5x") < text.index("More.") < text.index("1.5x")


def test_one_that_needs_data_is_given_its_arguments(runner, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "far", "--", "--map", "x.mrc"])
    runner.main()
    text = runner.RESULTS.read_text()
    assert "### far\n\n`python benchmarks/one.py --map x.mrc`" in text
    assert "1.5x --map" in text
    assert "old" in text  # of the others nothing changes
    monkeypatch.setattr(sys, "argv", ["run.py", "far"])
    with pytest.raises(SystemExit, match="no benchmark 'far'; choose from one, two; with -- and its arguments: far"):
        runner.main()


def test_a_benchmark_that_fails_keeps_the_figures_of_the_last(runner, monkeypatch):
    (runner.HERE / "two.py").write_text("print('3.5x'); raise SystemExit(3)")
    monkeypatch.setattr(sys, "argv", ["run.py", "two"])
    with pytest.raises(SystemExit, match=r"two\.py ended with 3"):
        runner.main()
    assert "old" in runner.RESULTS.read_text()
    monkeypatch.setattr(sys, "argv", ["run.py", "three"])
    with pytest.raises(SystemExit, match="no benchmark 'three'; choose from one, two"):
        runner.main()
