# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``measure``: its files, its settings for a simulation, and what it refuses."""
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.figures.measurement import FIGURE_SIZE, draw_measurement
from cryogem_scipion.engine.io.dataset import read_manifest, read_table
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.measurement.defocus import known_fit
from cryogem_scipion.engine.measurement.measure import measure_micrographs
from cryogem_scipion.engine.measurement.results import reliable_fits, write_ctfs
from cryogem_scipion.engine.settings import MeasureSettings, SimulateSettings, parse
from cryogem_scipion.engine.simulation.motion import Motion
from cryogem_scipion.engine.stages import measure as measure_stage
from tests.particle_fields import KNOWN, PIXEL_SIZE


@pytest.fixture(scope="module")
def inputs(shell, micrographs, tmp_path_factory):
    """A folder with the micrographs, the map and the CTFs as files."""
    folder = tmp_path_factory.mktemp("measure")
    write_mrc(folder / "map.mrc", shell.density.numpy(), PIXEL_SIZE)
    for number, image in enumerate(micrographs[0]):
        write_mrc(folder / f"mic_{number}.mrc", image.numpy(), PIXEL_SIZE)
    fits = [known_fit(optics) for optics in KNOWN]
    assert write_ctfs(folder / "ctfs.star", [f"real/mic_{n}.mrc" for n in range(3)], fits, PIXEL_SIZE) == [0, 1, 2]
    return folder


def settings(inputs, out, **values):
    return MeasureSettings(**{"real": (str(inputs / "mic_*.mrc"),), "volume": inputs / "map.mrc", "out": out} | values)


@pytest.fixture(scope="module")
def measured_set():
    """What was measured of the micrographs with known CTFs, once ``measured`` has run."""
    return []


@pytest.fixture(scope="module")
def measured(inputs, measured_set):
    """Folder of the measurement with known CTFs, and its report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_stage, "measure_micrographs",
                      lambda *arguments: measured_set.append(measure_micrographs(*arguments)) or measured_set[0])
        measure_stage.run(settings(inputs, inputs / "out", ctfs=inputs / "ctfs.star"))
    return inputs / "out", json.loads((inputs / "out/measurement.json").read_text())


def test_number_ratio_distance_and_sign_are_measured(measured, micrographs):
    report = measured[1]
    values = report["measured"]
    assert values["contrast_sign"] == "dark"
    assert sum(row["particles"] for row in report["micrographs"]) == pytest.approx(micrographs[1], rel=0.2)  # as asked
    assert values["snr"] == pytest.approx(0.1, rel=0.25)  # and for 25 %
    assert values["particle_distance"] == pytest.approx(150, abs=25)
    assert values["snr_largest"] > values["snr"]


def test_each_measured_value_has_an_error_an_interval_and_a_bias(measured, micrographs):
    found = measured[1]["estimates"]
    # The CTFs are known here: they have no estimate.
    assert set(found) == {"particles_mean", "particles_sigma", "particle_distance", "clusters", "snr",
                          "contrast_variation"}
    for estimate in found.values():
        low, high = estimate["interval"]
        assert low <= estimate["value"] <= high
        assert estimate["error"] >= 0
        assert math.isfinite(estimate["bias"])
    low, high = found["snr"]["interval"]
    assert low < 0.1 < high  # one in twenty sets would fail by chance; this one does not
    assert abs(found["particles_mean"]["bias"]) < 0.1 * micrographs[1] / 3  # the search finds most of the particles
    assert measured[1]["contrast_sign"]["errors_in_generated"] > 3


def test_a_simulation_takes_the_settings(measured):
    out, report = measured
    values = json.loads((out / "settings.json").read_text())
    assert values == report["settings"]
    simulation = parse(SimulateSettings, {**values, "out": out / "sim"})
    assert simulation.snr == pytest.approx(report["measured"]["snr"], rel=1e-2)
    assert simulation.micrograph_size == (360, 360)
    assert (simulation.defocus_min, simulation.defocus_max) == (15000, 24000)
    assert simulation.ctfs == out.parent / "ctfs.star"
    assert set(report["not_reliable"]) == {"b_factor_angstrom2"}
    assert not report["warnings"]


def test_known_ctfs_are_not_written_again(measured):
    assert not (measured[0] / "ctfs.star").exists()
    assert all(row["defocus_known"] for row in measured[1]["micrographs"])


@pytest.mark.parametrize(("not_reliable", "expected"), [
    ({}, ["3:0:10:1", "2:1:0:2", "1:1:0:3"]), ({"signal_envelope": "no particles"}, None)])
def test_motion_names_its_row_and_is_left_out_with_the_envelope(inputs, measured, measured_set, tmp_path, monkeypatch,
                                                                not_reliable, expected):
    motion = (Motion(3, 0, 10), Motion(2, 1, 0), Motion(1, 1, 0))
    measurement = replace(measured_set[0].measurement, motion=motion, not_reliable=not_reliable)
    monkeypatch.setattr(measure_stage, "measure_micrographs",
                        lambda *_: replace(measured_set[0], measurement=measurement))
    measure_stage.run(settings(inputs, tmp_path / "out", ctfs=inputs / "ctfs.star"))
    assert json.loads((tmp_path / "out/settings.json").read_text()).get("motion") == expected


def test_rows_of_known_ctfs_are_found_by_the_name_of_the_file(tmp_path):
    write_ctfs(tmp_path / "ctfs.star", ["there/b.mrc", "there/c.mrc", "there/a.mrc"], [known_fit(KNOWN[0])] * 3, 3.0)
    rows = measure_stage._table_rows(tmp_path / "ctfs.star", [Path("here/a.mrc"), Path("here/b.mrc")])
    assert rows == {0: 2, 1: 0}
    write_ctfs(tmp_path / "twice.star", ["there/b.mrc", "elsewhere/b.mrc"], [known_fit(KNOWN[0])] * 2, 3.0)
    with pytest.raises(DataError, match=r"has 2 rows for b\.mrc; give it one"):
        measure_stage._table_rows(tmp_path / "twice.star", [Path("here/b.mrc")])


def test_the_folder_ends_with_figure_and_manifest(measured):
    out, report = measured
    assert (out / "measurement.png").stat().st_size > 10_000
    manifest = read_manifest(out)
    assert manifest.stage == "measure"
    assert manifest.figures["snr"] == report["settings"]["snr"]


def test_a_folder_with_another_measurement_is_refused(measured, inputs):
    with pytest.raises(SettingsError, match="another seed"):
        measure_stage.run(settings(inputs, measured[0], ctfs=inputs / "ctfs.star", seed=1))


def test_the_figure_shows_fits_that_are_not_reliable(measured, tmp_path):
    report = measured[1]
    shutil.copy(measured[0] / "measurement.npz", tmp_path)
    rows = [{**row, "defocus_reliable": number == 1} for number, row in enumerate(report["micrographs"])]
    changed = {**report, "micrographs": rows, "not_reliable": {"particles_mean": "no particles"}}
    (tmp_path / "measurement.json").write_text(json.dumps(changed))
    figure = Figure(figsize=FIGURE_SIZE)
    draw_measurement(figure, tmp_path)
    titles = [place.get_title() for place in figure.axes]
    assert sum("not reliable" in title for title in titles) == 3


def test_a_set_whose_fits_mostly_fail_has_no_reliable_fit(tmp_path):
    fits = [replace(known_fit(optics), reliable=number == 0) for number, optics in enumerate((*KNOWN, *KNOWN))]
    assert reliable_fits(fits) == []
    assert write_ctfs(tmp_path / "ctfs.star", list("abcdef"), fits, PIXEL_SIZE) == []
    assert not (tmp_path / "ctfs.star").exists()


def test_only_reliable_fits_are_written(tmp_path):
    fits = [replace(known_fit(optics), reliable=number != 1) for number, optics in enumerate((*KNOWN, *KNOWN))]
    assert write_ctfs(tmp_path / "ctfs.star", list("abcdef"), fits, PIXEL_SIZE) == [0, 2, 3, 4, 5]
    _, rows = read_table(tmp_path / "ctfs.star", "micrographs", ("rlnDefocusU", "rlnDefocusAngle"))
    assert list(rows["rlnMicrographName"]) == list("acdef")


def test_unusable_inputs_are_refused_in_one_line(inputs, tmp_path, generator):
    def refused(message, **values):
        with pytest.raises(DataError, match=message) as error:
            measure_stage.run(settings(inputs, tmp_path / "out", **values))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()
    write_mrc(tmp_path / "small.mrc", torch.randn(140, 300, generator=generator).numpy(), PIXEL_SIZE)
    refused("small.mrc: the micrograph is 560 Å wide", real=(str(tmp_path / "small.mrc"),))
    refused("particles of .* Å are searched on at least", volume_pixel_size=40.0, pixel_size=4.0)
    refused("pixels on the micrograph, and the search needs 8", volume_pixel_size=0.5, pixel_size=4.0)
    refused("coarser than the working pixel size 1 Å", pixel_size=1.0)
    write_mrc(tmp_path / "other.mrc", torch.randn(448, 448, generator=generator).numpy(), 2.0)
    refused("measure micrographs of one pixel size", real=(str(inputs / "mic_0.mrc"), str(tmp_path / "other.mrc")))
    refused("no row for other.mrc", real=(str(tmp_path / "other.mrc"),), ctfs=inputs / "ctfs.star")
    image = torch.randn(448, 448, generator=generator).numpy()
    image[3, 4] = np.nan
    write_mrc(tmp_path / "nan.mrc", image, PIXEL_SIZE)
    write_mrc(tmp_path / "flat.mrc", np.full((448, 448), 7, np.float32), PIXEL_SIZE)
    for name, message in (("nan", "nan.mrc holds 1 values that are not finite"), ("flat", "flat.mrc is constant")):
        with pytest.raises(DataError, match=message):
            measure_stage.run(settings(inputs, tmp_path / name, real=(str(tmp_path / f"{name}.mrc"),)))
        assert not (tmp_path / name / "settings.json").exists()
    write_mrc(tmp_path / "low.mrc", torch.randn(200, 448, generator=generator).numpy(), PIXEL_SIZE)
    refused("200 pixels on its shorter side; Thon rings need 256", real=(str(tmp_path / "low.mrc"),))


@pytest.mark.slow
def test_micrographs_without_rings_give_no_settings_of_particles(inputs, tmp_path):
    """White noise has no rings, and three fields of few particles are too small for the particles' own."""
    write_mrc(tmp_path / "mic.mrc", np.random.default_rng(1).normal(size=(448, 448)).astype(np.float32), PIXEL_SIZE)
    measure_stage.run(settings(inputs, tmp_path / "out", real=(str(tmp_path / "mic.mrc"),)))
    report = json.loads((tmp_path / "out/measurement.json").read_text())
    assert not {"snr", "particles_mean", "defocus_min"} & set(report["settings"])
    assert any("range of defocus is not measured" in line for line in report["warnings"])
    assert not (tmp_path / "out/ctfs.star").exists()
