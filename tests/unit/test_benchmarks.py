# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of the benchmarks, which writes the sections of RESULTS.md; the tables; what labelled micrographs
tell."""
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryogem_scipion.engine.measurement.defocus import known_fit
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.simulation.placement import place_centres
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import prepare_projector
from cryogem_scipion.engine.simulation.volume import Volume, diameter_angstrom
from tests.benchmark_modules import FOLDER, benchmark


@pytest.fixture
def runner(tmp_path, monkeypatch):
    module = benchmark("run")
    files = ["labelled_motion.py", "labelled_truth.py", "torch_ctf_fits.py"]
    files += [command[0] for command in module.BENCHMARKS.values()]
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
    for data in ("first", "second"):
        monkeypatch.setattr(sys, "argv", ["run.py", f"far:{data}", "--", "--map", f"/a/long/way/to/{data} *.mrc"])
        runner.main()
    text = runner.RESULTS.read_text()
    for data in ("first", "second"):
        assert f"### far:{data}\n\n`python benchmarks/one.py --map 'to/{data} *.mrc'`" in text
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


@pytest.fixture(scope="module")
def labelled():
    """(truth module, projector, diameter, fields, signal-to-noise ratio): the signal falls with B = 400 Å²."""
    truth = benchmark("labelled_truth")
    generator = torch.Generator().manual_seed(7)
    z, y, x = np.mgrid[-20:20, -20:20, -20:20] * 5.0
    density = np.exp(-((np.sqrt(x**2 + y**2 + z**2) - 45) / 14) ** 2) * (1 + 0.4 * np.sin(x / 14) * np.cos(y / 17))
    volume = Volume(torch.from_numpy(density.astype(np.float32)), 5.0)
    projector, diameter, shape = prepare_projector(volume), diameter_angstrom(volume), (384, 320)
    fields, signals, insides = [], [], []
    for defocus in (14000, 18000, 22000):
        centres = place_centres(40, shape, 32.0, generator)
        inside = ((centres > 20) & (centres < torch.tensor(shape) - 20)).all(1)
        field = truth.Field("a", torch.zeros(shape), 5.0, centres, inside, torch.ones_like(inside),
                            Optics(300, 2.7, 0.1, defocus + 200, defocus - 200, 40),
                            uniform_rotations(len(centres), generator))
        known = truth.strength(field, projector, diameter)
        signal, singles = (truth.filtered(images, 5.0, known.frequency, np.exp(-100 * known.frequency**2))
                           for images in (known.signal, known.singles))
        signals.append(signal)
        insides.append(float(singles[known.mask].var()))
        fields.append(field)
    level = 0.5 / math.sqrt(np.mean(insides))
    # The noise has deviation 1, so the ratio is 0.25. Ice that varies over the whole field must not count.
    ice = torch.linspace(-3, 3, shape[1])[None]
    fields = [replace(field, image=100 + ice + level * signal + torch.randn(shape, generator=generator))
              for field, signal in zip(fields, signals, strict=True)]
    return truth, projector, diameter, fields, 0.25


def test_labels_tell_the_signal_to_noise_ratio_and_the_envelope(labelled):
    truth, projector, diameter, fields, ratio = labelled
    strengths = [truth.strength(field, projector, diameter) for field in fields]
    found, error = truth.signal_to_noise(strengths, 5.0)
    # About 100 particles, whose strength is known to 2 %, the noise to 1 %; the cut of bands takes 1 %.
    assert found == pytest.approx(ratio, rel=0.06)
    assert error < 0.2 * ratio
    envelope, errors = truth.mean_envelope(strengths)
    frequency = strengths[0].frequency
    used = errors < 0.1 * envelope
    expected = np.exp(-100 * frequency**2)
    expected *= np.average(envelope[used] / expected[used], weights=1 / errors[used] ** 2)
    assert used.sum() >= 6
    # Three standard errors, and what a band's width changes.
    assert np.all(np.abs(envelope - expected)[used] < 3.5 * errors[used] + 0.02)


def test_profiles_of_the_signal_tell_how_much_weaker_particles_are(labelled, capsys):
    truth, projector, diameter, fields, _ = labelled
    profiles = benchmark("particle_profiles")
    strengths = [truth.strength(field, projector, diameter) for field in fields]
    weaker = [replace(one, amplitude=0.8 * one.amplitude) for one in strengths]
    profiles.print_profiles(fields, strengths, fields, weaker, diameter)
    rows = {cells[0].strip(): cells[1:] for cells in (line.strip("|").split("|")
                                                      for line in capsys.readouterr().out.splitlines())}
    for place in ("dark ring", "bright fringe"):
        assert rows[f"micrographs: {place}"][2].split()[0] == "1.00"
        assert rows[f"signal: {place}"][2].split()[0] == "0.80"
        assert rows[f"signal: {place}"][3].strip() == "**no**"
    # The signal's profile is that of the micrographs without the noise and the neighbours' place in it.
    ring, own = (float(rows[f"{name}: dark ring"][0].split()[0]) for name in ("micrographs", "signal"))
    assert own == pytest.approx(ring, rel=0.15)
    assert own < -0.3


def test_displaced_particles_are_told_and_their_ratio_is_corrected(labelled):
    """Labels that are 2 pixels off lose half of the ratio; the loss at each frequency tells how far they are off."""
    truth, projector, diameter, fields, ratio = labelled
    generator = torch.Generator().manual_seed(5)
    shifted = [replace(field, centres=field.centres + 2 * torch.randn(field.centres.shape, generator=generator))
               for field in fields]
    clear, other = ([truth.strength(field, projector, diameter) for field in some] for some in (fields, shifted))
    assert truth.signal_to_noise(other, 5.0)[0] < 0.6 * ratio
    motion = benchmark("labelled_motion")
    square, error = motion.displacement(clear, other)
    # 120 particles: their mean square is known to 9 %, and the fit's own error is about as large.
    assert square == pytest.approx(100, abs=3 * math.hypot(9, error))
    assert truth.signal_to_noise(motion.without_displacement(other, square), 5.0)[0] == pytest.approx(ratio, rel=0.15)
    same, error = motion.displacement(clear, clear)
    assert same == pytest.approx(0, abs=1e-6)
    assert motion.without_displacement(clear, -5.0)[0].amplitude == pytest.approx(clear[0].amplitude)


def test_each_given_ratio_gets_a_row_with_distances_or_a_refusal(tmp_path, monkeypatch, capsys):
    module = benchmark("given_ratios")
    (tmp_path / "manifest.json").write_text(json.dumps({"contrast": {"snr": 0.2}}))
    ratios = []

    def stage(name, *arguments):
        if name == "generate":
            ratios.append(float(arguments[arguments.index("--snr") + 1]))
            if ratios[-1] > 0.3:
                return f"cryogem: snr is {ratios[-1]:g}, too much; set snr to at most 0.24, or leave it empty"
            return ""
        folder = Path(arguments[arguments.index("--out") + 1])
        folder.mkdir(parents=True)
        figures = {"spectrum": {"halves": 0.05, "floor": 0.06}, "histogram": {"halves": 0.002, "floor": 0.001}}
        (folder / "evaluation.json").write_text(json.dumps({"figures": figures}))
        return ""

    monkeypatch.setattr(module, "cryogem", stage)
    monkeypatch.setattr(sys, "argv", ["given_ratios.py", "--real", "*.mrc", "--simulation", str(tmp_path), "--out",
                                      str(tmp_path / "out"), "--factors", "0.1", "3"])
    module.main()
    lines = capsys.readouterr().out.splitlines()
    assert ratios == [0.02, 0.6, 0.24]
    assert lines[2] == "| 0.1 | 0.02 | 0.05 | 0.06 | **0.002** | 0.001 |"
    assert lines[3] == "| 3 | 0.6 | refused | – | – | – |"
    assert lines[4].startswith("| 1.2 (largest) | 0.24 | 0.05 |")
    assert lines[-1] == "- 3 times: cryogem: snr is 0.6, too much; set snr to at most 0.24, or leave it empty"


def test_matching_finds_centres_and_its_loss_is_corrected(labelled, monkeypatch):
    truth, projector, diameter, fields, _ = labelled
    fields = fields[:2]
    ratio = truth.signal_to_noise([truth.strength(field, projector, diameter) for field in fields], 5.0)[0]
    monkeypatch.setattr(truth, "ORIENTATIONS", 30)
    generator = torch.Generator().manual_seed(3)
    moved = [replace(field, centres=field.centres + torch.randn(field.centres.shape, generator=generator),
                     rotations=None) for field in fields]
    found = [truth.matched(field, projector, diameter) for field in moved]
    inside = torch.cat([field.counted for field in fields])
    before, after = (torch.cat([(one.centres - field.centres).norm(dim=1) for one, field in zip(some, fields,
                                                                                               strict=True)])[inside]
                     for some in (moved, found))
    assert float(after.median()) < 0.6 * float(before.median())  # the median of the labels' error is 1.2 pixels
    strengths = [truth.strength(field, projector, diameter) for field in found]
    correction = truth.matching_correction(found[:1], projector, diameter)
    strengths = [replace(one, amplitude=one.amplitude * correction, error=one.error * correction)
                 for one in strengths]
    # The correction itself comes from 40 particles.
    assert truth.signal_to_noise(strengths, 5.0)[0] == pytest.approx(ratio, rel=0.15)


def test_a_field_that_has_moved_is_registered(labelled):
    truth, projector, diameter, fields, _ = labelled
    moved = replace(fields[0], image=torch.roll(fields[0].image, (3, -5), (0, 1)))
    found = truth.registered(moved, projector, diameter)
    assert torch.allclose(found.centres - moved.centres, torch.tensor([3.0, -5.0]).double())


def test_distances_are_those_of_visible_neighbours():
    truth = benchmark("labelled_truth")
    optics = Optics(300, 2.7, 0.1, 1e4, 1e4, 0)
    field = truth.Field("a", torch.zeros(9, 9), 2.0, torch.tensor([[0, 0], [0, 3], [0, 4], [0, 9]]).double(),
                        torch.tensor([True, True, False, True]), torch.tensor([True, True, False, True]), optics)
    assert truth.nearest_distances([field]).tolist() == [6, 6, 12]


def test_ctf_fits_are_compared_with_the_truth_and_with_another_program(tmp_path, monkeypatch, capsys):
    module = benchmark("ctf_fits")
    found = [Optics(300, 2.7, 0.1, 20100 + 1000 * number, 20100 + 1000 * number, 0) for number in range(4)]
    for number in range(4):
        label = {"defocus_u": 20000 + 1000 * number, "defocus_v": 20000 + 1000 * number, "defocus_angle": 0}
        (tmp_path / f"{number}.json").write_text(json.dumps(label))
    program = tmp_path / "python"
    rows = [json.dumps({"u": 20050.0 + 1000 * number, "v": 19950.0 + 1000 * number, "angle": 90.0,
                        "radial": 20300 + 1000 * number})
            for number in range(4)]
    program.write_text("#!/bin/sh\ncat > request\n" + "".join(f"echo '{row}'\n" for row in rows))
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "real_files", lambda _: [Path(f"{number}.mrc") for number in range(4)])
    monkeypatch.setattr(module, "read_mrc", lambda *_: (np.zeros((4, 4), np.float32), 2.0))
    fits = [known_fit(optics) for optics in found]
    fits[3] = replace(fits[3], reliable=False, optics=Optics(300, 2.7, 0.1, 5000, 5000, 0))
    monkeypatch.setattr(module, "fit_ctfs", lambda *_: fits)
    monkeypatch.setattr(sys, "argv", ["ctf_fits.py", "--real", "*.mrc", "--labels", str(tmp_path), "--python",
                                      str(program)])
    module.main()
    text = capsys.readouterr().out
    assert "CryoGEM against the truth, 3 fields: defocus differs by 100 Å in the median, 100 Å at most (mean +1" in text
    assert "torch-ctf-estimation, 1D, against the truth, 3 fields: defocus differs by 300 Å in the median" in text
    assert "torch-ctf-estimation, 2D, against the truth, 3 fields: defocus differs by 0 Å in the median" in text
    assert "astigmatism, as a vector, by 100 Å in the median" in text
    assert "1 of 4 fits are marked as not reliable" in text
    request = json.loads((tmp_path / "request").read_text())
    assert request["range"] == [30, pytest.approx(4.21, abs=0.01)]  # 0.95 of the Nyquist frequency
    assert request["defocus"] == [0.3, pytest.approx(4.99)]
