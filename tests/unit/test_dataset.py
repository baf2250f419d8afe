# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifest and tables: what is written is read back, and rubbish is refused in one line."""
import json

import pandas as pd
import pytest

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import (
    Manifest,
    path_inside,
    read_manifest,
    read_table,
    replacing,
    write_manifest,
    write_table,
)


@pytest.fixture
def manifest():
    return Manifest(stage="simulate", version="1", libraries={}, settings={"seed": 1}, seed=1, pixel_size=5.0,
                    micrographs=3)


def test_manifest_is_read_back(tmp_path, manifest):
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(("text", "message"), [
    ("", "not JSON"), ("[1]", "not a cryogem manifest"), ("{}", "not a cryogem manifest"), ("[" * 100000, "not JSON"),
    (json.dumps({"format_version": 99}), "newer than"),
])
def test_damaged_manifests_are_refused(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        read_manifest(tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def fail():
        with replacing(tmp_path / "a.txt") as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("a.txt", "old")]


def test_tables_are_read_back_and_do_not_depend_on_the_time(tmp_path):
    optics = pd.DataFrame([{"rlnOpticsGroup": 1, "rlnVoltage": 300.0}])
    rows = pd.DataFrame({"rlnMicrographName": ["1", "b c"], "rlnCoordinateX": [1.25, -3.0]})
    write_table(tmp_path / "a.star", "particles", optics, rows)
    found_optics, found = read_table(tmp_path / "a.star", "particles", ("rlnCoordinateX",))
    assert found.to_dict("list") == rows.to_dict("list")
    assert found_optics.to_dict("list") == optics.to_dict("list")
    assert (tmp_path / "a.star").read_text().startswith("data_optics")


@pytest.mark.parametrize(("text", "message"), [
    ("", "no table data_particles"), ("hello\nworld\n", "no table data_particles"),
    ("data_particles\n\nloop_\n_rlnMicrographName #1\na\n", "lacks rlnCoordinateX"),
])
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "a.star").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "a.star", "particles", ("rlnCoordinateX",))


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a file"):
        read_table(tmp_path / "a.star", "particles")


def test_a_name_longer_than_names_may_be_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot be the name of a file in .*File name too long"):
        path_inside(tmp_path, "9" * 5000)


def test_names_cannot_leave_the_folder(tmp_path):
    assert path_inside(tmp_path, "micrographs/a.mrc") == tmp_path.resolve() / "micrographs/a.mrc"
    for name in ("../a.mrc", "/etc/passwd", "micrographs/../../a"):
        with pytest.raises(DataError, match="lies outside"):
            path_inside(tmp_path, name)
