# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifest and STAR tables: they are read as they were written, and damaged files are refused."""
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


def test_a_manifest_is_read_as_it_was_written(tmp_path, manifest):
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(("text", "message"), [
    ("", "not JSON"), ("[1]", "not a cryogem manifest"), ("{}", "not a cryogem manifest"), ("[" * 100000, "not JSON"),
    (json.dumps({"format_version": 99}), "has format 99, but this program reads formats up to 2"),
])
def test_damaged_manifests_are_refused(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        read_manifest(tmp_path)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def fail():
        with replacing(tmp_path / "a.txt") as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_table_is_read_as_it_was_written_and_holds_no_time(tmp_path):
    optics = pd.DataFrame([{"rlnOpticsGroup": 1, "rlnVoltage": 300.0}])
    rows = pd.DataFrame({"rlnMicrographName": ["1", "b c"], "rlnCoordinateX": [1.25, -3.0]})
    write_table(tmp_path / "a.star", "particles", optics, rows)
    read_optics, read_rows = read_table(tmp_path / "a.star", "particles", ("rlnCoordinateX",))
    assert read_rows.to_dict("list") == rows.to_dict("list")
    assert read_optics.to_dict("list") == optics.to_dict("list")
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


def test_a_file_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot be the name of a file in .*File name too long"):
        path_inside(tmp_path, "9" * 5000)


def test_file_names_outside_the_folder_are_refused(tmp_path):
    assert path_inside(tmp_path, "micrographs/a.mrc") == tmp_path.resolve() / "micrographs/a.mrc"
    for name in ("../a.mrc", "/etc/passwd", "micrographs/../../a"):
        with pytest.raises(DataError, match="lies outside"):
            path_inside(tmp_path, name)
