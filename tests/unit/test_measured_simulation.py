# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulation takes what is not set from a measurement of real micrographs. The measurement is not real here."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cryogem_scipion.engine.cli import parse_command_line
from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.io.dataset import read_manifest, read_table
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.settings import (
    MEASURED,
    GenerateSettings,
    PhantomSettings,
    SimulateSettings,
    measurement_problems,
    read_measurement,
    with_measured,
)
from cryogem_scipion.engine.stages import generate, measure, phantom, simulate
from tests.measured_folder import NOT_FOUND, VALUES, write_measurement

MEASUREMENT = {"pixel_size": 8.0, "micrograph_size": [400, 500], "voltage_kv": 200.0, **VALUES}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A map and three real micrographs."""
    folder = tmp_path_factory.mktemp("inputs")
    phantom.run(PhantomSettings(out=folder / "map", box=32, pixel_size=6.0, diameter_angstrom=150))
    for number in range(3):
        write_mrc(folder / f"real {number}.mrc", np.zeros((64, 64), np.float32), 4.0)
    return folder


@pytest.fixture
def measurements(monkeypatch):
    """Settings of all measurements, which write the values of ``VALUES`` at once."""
    calls = []

    def run(settings):
        calls.append(settings)
        return write_measurement(settings.out, settings.real, settings.volume, settings.pixel_size,
                                 left_out=run.left_out, settings=settings.model_dump(mode="json"))
    run.left_out = ()
    monkeypatch.setattr(measure, "run", run)
    return calls, run


def settings(inputs, out, **changes):
    values = {"out": out, "volume": (inputs / "map/phantom.mrc",), "real": (str(inputs / "real *.mrc"),),
              "pixel_size": 8.0, "micrographs": 2, "micrograph_size": (200, 250), **changes}
    return SimulateSettings(**values)


def test_what_is_not_set_is_measured_and_what_is_set_wins(inputs, measurements, tmp_path):
    simulate.run(settings(inputs, tmp_path / "sim", snr=0.2, voltage_kv=120.0, seed=5))
    (wanted,), _ = measurements
    assert (wanted.voltage_kv, wanted.pixel_size, wanted.seed) == (120.0, 8.0, 5)
    assert wanted.out == tmp_path / "sim/measurement"
    manifest = read_manifest(tmp_path / "sim")
    found = manifest.settings
    assert (found["defocus_min"], found["defocus_max"], found["particle_distance"]) == (9000, 21000, 130)
    assert (found["snr"], found["voltage_kv"]) == (0.2, 120.0)
    assert found["particles_mean"] == pytest.approx(42 / 4, abs=0.1)  # on a quarter of the area
    assert "the fit of one micrograph is left out" in manifest.warnings
    assert json.loads((tmp_path / "sim/source/settings.json").read_text())["defocus_max"] == 21000
    _, rows = read_table(tmp_path / "sim/micrographs.star", "micrographs")
    assert rows["rlnDefocusU"].between(9000 - 250, 21000 + 250).all()


def test_generate_needs_neither_the_real_micrographs_nor_the_place(inputs, measurements, tmp_path):
    simulate.run(settings(inputs, tmp_path / "sim"))
    shutil.move(tmp_path / "sim", tmp_path / "moved")
    manifest = read_manifest(tmp_path / "moved")
    assert manifest.simulation["real"] == []
    assert manifest.simulation["particle_distance"] == 130
    generate.run(GenerateSettings(out=tmp_path / "gen", simulation=tmp_path / "moved", noise="gaussian", snr=0.1,
                                  micrographs=1))
    assert read_manifest(tmp_path / "gen").micrographs == 1


def test_a_second_run_continues_without_a_second_measurement(inputs, measurements, tmp_path):
    simulate.run(settings(inputs, tmp_path / "sim"))
    first = (tmp_path / "sim/micrographs/mic_000000.mrc").stat().st_mtime_ns
    simulate.run(settings(inputs, tmp_path / "sim"))
    assert len(measurements[0]) == 1
    assert (tmp_path / "sim/micrographs/mic_000000.mrc").stat().st_mtime_ns == first
    with pytest.raises(SettingsError, match=r"holds a run with another snr \(0.07\)"):
        simulate.run(settings(inputs, tmp_path / "sim", snr=0.3))


def test_a_number_that_cannot_be_measured_is_asked_for_and_then_used(inputs, measurements, tmp_path):
    calls, run = measurements
    run.left_out = ("particles_mean", "particles_sigma", "particle_distance", "snr")
    with pytest.raises(SettingsError, match=rf"^particles_mean: .*\({NOT_FOUND}\); set it.*measurement.png"):
        simulate.run(settings(inputs, tmp_path / "sim"))
    assert not (tmp_path / "sim/source").exists()
    # The figure is there to look at, and the next run takes the same measurement.
    simulate.run(settings(inputs, tmp_path / "sim", particles_mean=7.0))
    assert len(calls) == 1
    assert read_manifest(tmp_path / "sim").settings["defocus_min"] == 9000


def test_nothing_is_measured_if_all_is_set_or_no_micrographs_are_given(inputs, measurements, tmp_path):
    given = {**VALUES, "micrograph_size": (200, 250)}
    simulate.run(settings(inputs, tmp_path / "all", **given))
    simulate.run(settings(inputs, tmp_path / "none", real=()))
    assert measurements[0] == []
    assert read_manifest(tmp_path / "none").settings["particles_mean"] == 60


def test_known_ctfs_of_the_real_micrographs_are_used_and_others_are_not(inputs, measurements, tmp_path):
    write_measurement(tmp_path / "known", sorted(inputs.glob("real*")), inputs / "map/phantom.mrc")
    ctfs = tmp_path / "known/ctfs.star"
    simulate.run(settings(inputs, tmp_path / "sim", ctfs=ctfs))
    write_measurement(tmp_path / "other", ["a.mrc", "b.mrc"], inputs / "map/phantom.mrc")
    simulate.run(settings(inputs, tmp_path / "sim2", ctfs=tmp_path / "other/ctfs.star"))
    (first, second), _ = measurements
    assert first.ctfs == ctfs
    assert first.real == tuple(str(inputs / f"real {number}.mrc") for number in (1, 2))  # those in the file
    assert (second.ctfs, second.real) == (None, (str(inputs / "real *.mrc"),))


@pytest.mark.parametrize(("changes", "message"), [
    ({"volume": ("a.mrc", "b.mrc")}, "measured with one density map, and not with 2 maps"),
    ({"volume": ("a.cif",)}, "not with an atomic model; run cryogem measure with one map"),
    ({"volume": (), "cryodrgn_folder": "folder"}, "not with a cryoDRGN folder")])
def test_other_specimens_than_one_map_are_refused(inputs, measurements, tmp_path, changes, message):
    with pytest.raises(SettingsError, match=message):
        simulate.run(settings(inputs, tmp_path / "sim", **changes))
    assert not (tmp_path / "sim").exists()


def test_a_folder_with_other_content_is_refused_before_the_measurement(inputs, measurements, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match="is not empty and holds no cryogem run"):
        simulate.run(settings(inputs, tmp_path / "full"))
    simulate.run(settings(inputs, tmp_path / "sim", real=()))
    with pytest.raises(SettingsError, match="holds a run without a measurement"):
        simulate.run(settings(inputs, tmp_path / "sim"))
    assert measurements[0] == []


def test_the_number_follows_the_area_and_its_deviation_the_kind_of_variation():
    half = {"micrograph_size": (200, 500)}
    # 42 particles, 8 of deviation: 42 of the variance is that of independent positions, 22 that of the micrographs.
    found = with_measured(half, MEASUREMENT)
    assert found["particles_mean"] == 21
    assert found["particles_sigma"] == pytest.approx((42 / 2 + 22 / 4) ** 0.5, abs=0.05)
    unknown = {name: value for name, value in MEASUREMENT.items() if name != "particles_sigma"}
    assert with_measured({}, unknown)["particles_sigma"] == pytest.approx(42**0.5, abs=0.05)
    assert with_measured({**half, "particles_mean": 5}, MEASUREMENT)["particles_mean"] == 5


def test_another_pixel_size_keeps_the_field_of_view_and_asks_for_a_ratio():
    chosen = {"pixel_size": 4.0}
    assert with_measured(chosen, MEASUREMENT)["micrograph_size"] == [800, 1000]
    assert with_measured(chosen, MEASUREMENT)["particles_mean"] == 42
    (line,) = measurement_problems(chosen, MEASUREMENT, {})
    assert line.startswith("pixel_size: 4 Å is not that of the measurement (8 Å)")
    assert measurement_problems({**chosen, "snr": 0.1}, MEASUREMENT, {}) == []


def test_a_setting_that_the_measured_one_would_replace_is_used_if_it_is_chosen():
    assert "particle_distance" not in with_measured({"overlap": 0.3}, MEASUREMENT)
    assert with_measured({"overlap": 0.0}, MEASUREMENT)["particle_distance"] == 130
    assert with_measured({"overlap": 0.3, "particle_distance": 80}, MEASUREMENT)["particle_distance"] == 80
    assert "signal_envelope" not in with_measured({"b_factor_angstrom2": 90}, {"signal_envelope": ["0:1", "0.1:0.5"]})
    assert "ctfs" not in with_measured({"defocus_max": 2e4}, {"ctfs": "ctfs.star"})
    assert with_measured({"defocus_max": 2e4, "ctfs": "mine.star"}, {"ctfs": "ctfs.star"})["ctfs"] == "mine.star"


def test_a_flag_wins_over_the_value_of_the_file_that_replaces_it(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"volume": ["map.mrc"], "ctfs": "ctfs.star", "out": "sim"}))
    arguments = ["simulate", "--config", str(tmp_path / "settings.json")]
    assert parse_command_line(arguments)[1].ctfs == Path("ctfs.star")
    assert parse_command_line([*arguments, "--defocus-min", "9000"])[1].ctfs is None


def test_measured_ctfs_are_found_where_the_measurement_has_been_moved(inputs, tmp_path):
    write_measurement(tmp_path / "before", [inputs / "real 0.mrc"], inputs / "map/phantom.mrc")
    values = json.loads((tmp_path / "before/settings.json").read_text())
    text = json.dumps({**values, "ctfs": str(tmp_path / "before/ctfs.star")})
    (tmp_path / "before/settings.json").write_text(text)
    shutil.move(tmp_path / "before", tmp_path / "after")
    assert read_measurement(tmp_path / "after")[0]["ctfs"] == str(tmp_path / "after/ctfs.star")


def test_wrong_values_are_left_for_the_settings_to_refuse():
    assert with_measured({"micrograph_size": ("ten", "axe")}, MEASUREMENT)["micrograph_size"] == ("ten", "axe")
    assert measurement_problems({"pixel_size": "five"}, MEASUREMENT, {}) == []


def test_ctfs_make_the_defocus_range_unnecessary():
    nothing = {"pixel_size": 8.0}
    assert len(measurement_problems({}, nothing, {})) == 3
    assert len(measurement_problems({"ctfs": "c.star"}, nothing, {})) == 1
    assert set(VALUES) < set(MEASURED)
