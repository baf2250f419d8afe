# SPDX-License-Identifier: GPL-3.0-or-later
"""Folder of an export: paths, links, chosen parts, continued runs, and errors."""
import shutil
from pathlib import Path

import numpy as np
import pytest

from cryogem_scipion.engine.errors import CryogemError, DataError, SettingsError
from cryogem_scipion.engine.io.dataset import read_manifest, read_table, write_table
from cryogem_scipion.engine.io.mrc import read_stack
from cryogem_scipion.engine.settings import ExportSettings, SimulateSettings, parse
from cryogem_scipion.engine.stages import export, simulate
from tests.unit.export.conftest import (
    BOX,
    COUNT,
    PIXEL_SIZE,
    SHAPE,
    by_hand,
    images,
)


def test_paths_are_relative_to_a_project(exported, tmp_path):
    project = tmp_path / "a project"
    project.mkdir()
    out = exported("relion", out=project / "Import/été", relative_to=project)
    _, rows = read_table(out / "particles.star", "particles")
    assert rows["rlnImageName"].str.contains("@Import/été/particles/mic_").all()
    images(project, rows)
    assert "Import/été/particles.star" in (out / "README.txt").read_text("utf-8")
    for wrong, message in ((tmp_path / "a project/nowhere", "is not a folder"), (world_of(out), "is not inside")):
        with pytest.raises(SettingsError, match=message):
            exported("relion", out=project / "other", relative_to=wrong)
    assert not (project / "other").exists()


def world_of(out):
    """A folder that does not hold the export."""
    return out / "micrographs"


@pytest.mark.parametrize("name", ["with blank", "with#sign", 'with"quote'])
def test_paths_that_star_files_cannot_hold_are_refused(exported, tmp_path, name):
    with pytest.raises(SettingsError, match="programs that read STAR files do not accept"):
        exported("relion", out=tmp_path / name)
    assert not (tmp_path / name).exists()
    exported("cryosparc", out=tmp_path / name)  # relative to the export


@pytest.mark.parametrize(("files", "linked"), [("link", True), ("copy", False)])
def test_images_are_linked_or_copied(exported, world, files, linked):
    out = exported("relion", files=files)
    exported_files = sorted(out.glob("micrographs/*.mrc")) + sorted(out.glob("particles/*.mrcs"))
    assert len(exported_files) == 2 * COUNT
    for path in exported_files:
        assert path.is_symlink() == linked
        assert path.read_bytes() == (world / "gen" / path.relative_to(out)).read_bytes()


def test_missing_cryosparc_tools_is_an_error_before_anything_is_written(exported, tmp_path, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "cryosparc.dataset", None)
    with pytest.raises(DataError, match="pip install cryosparc-tools"):
        exported("cryosparc")
    assert not (tmp_path / "cryosparc").exists()


def test_chosen_micrographs_or_particles_only_are_exported(exported, world, labels, tmp_path):
    optics, micrographs = read_table(world / "gen/micrographs.star", "micrographs")
    write_table(tmp_path / "mics.star", "micrographs", optics, micrographs.iloc[1:2])
    out = exported("relion", dataset_micrographs=tmp_path / "mics.star", out=tmp_path / "mics")
    name = micrographs["rlnMicrographName"].iloc[1]
    assert [path.name for path in (out / "micrographs").iterdir()] == [Path(name).name]
    _, rows = read_table(out / "particles.star", "particles")
    assert len(rows) == (labels["rlnMicrographName"] == name).sum() > 0
    part = labels.iloc[[0, 2, len(labels) - 1]]
    write_table(tmp_path / "some.star", "particles", optics, part)
    for box in (None, BOX - 6):
        out = exported("cryodrgn", dataset_particles=tmp_path / "some.star", box_size=box, out=tmp_path / f"some{box}")
        assert len(read_stack(out / "particles.mrcs")) == 3
    np.testing.assert_array_equal(read_stack(tmp_path / "someNone/particles.mrcs"), images(world / "gen", part))
    out = exported("relion", dataset_particles=tmp_path / "some.star", out=tmp_path / "some")
    assert len(list((out / "micrographs").iterdir())) == part["rlnMicrographName"].nunique()


def test_a_dataset_without_particles_is_exported_for_relion_and_cryosparc_only(world, tmp_path):
    simulate.run(SimulateSettings(out=tmp_path / "empty", volume=(world / "map/phantom.mrc",), pixel_size=PIXEL_SIZE,
                                  micrographs=1, micrograph_size=SHAPE, particles_mean=0, particles_sigma=0))
    for to in ("relion", "cryosparc"):
        export.run(ExportSettings(dataset=tmp_path / "empty", to=to, out=tmp_path / to))
        assert len(list((tmp_path / to / "micrographs").iterdir())) == 1
        assert read_manifest(tmp_path / to).particles == 0
    for to in ("topaz", "cryodrgn"):
        with pytest.raises(DataError, match=r"none of the chosen particles of .* is whole"):
            export.run(ExportSettings(dataset=tmp_path / "empty", to=to, out=tmp_path / to))


def test_an_interrupted_export_continues_and_keeps_finished_files(exported):
    settings = {"box_size": 24}
    out = exported("relion", **settings)
    files = sorted((out / "particles").iterdir())
    content = {path: path.read_bytes() for path in files}
    kept = {path: path.stat().st_mtime_ns for path in files[1:]}
    files[0].unlink()
    (out / "manifest.json").unlink()
    exported("relion", **settings)
    assert {path: path.read_bytes() for path in files} == content
    assert {path: path.stat().st_mtime_ns for path in files[1:]} == kept
    with pytest.raises(SettingsError, match="another box_size"):
        exported("relion", box_size=26)


def test_particles_of_changed_micrographs_are_extracted_again(exported, world, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(world / "gen", copy)
    settings = {"dataset": copy, "files": "copy", "box_size": 24}
    out = exported("relion", **settings)
    changed = copy / "micrographs/mic_000000.mrc"
    shutil.copyfile(copy / "micrographs/mic_000001.mrc", changed)
    exported("relion", **settings)
    assert (out / "micrographs/mic_000000.mrc").read_bytes() == changed.read_bytes()
    _, rows = read_table(out / "particles.star", "particles")
    np.testing.assert_allclose(images(out, rows), by_hand(copy, rows, 24), atol=2e-5)


def test_a_full_disk_is_an_error_before_anything_is_written(exported, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=20_000))
    exported("relion", out=tmp_path / "links")
    cases = {"relion": {"files": "copy"}, "cryosparc": {"box_size": 20}, "topaz": {}, "cryodrgn": {}}
    for to, changes in cases.items():
        with pytest.raises(DataError, match="MB free; free some space"):
            exported(to, out=tmp_path / to, **changes)
        assert not (tmp_path / to).exists()


@pytest.mark.parametrize(("change", "message"), [
    ({"dataset": "map"}, "holds the result of 'phantom'"), ({"dataset": "nowhere"}, r"has no manifest\.json"),
    ({"box_size": 200}, r"box_size 200 does not fit micrographs of 190 x 230"),
    ({"to": "cryodrgn", "box_size": 33}, "even box sizes only; give box_size 34"),
    ({"to": "cryodrgn", "extract": False}, "turn extract on"),
    ({"to": "cryodrgn", "relative_to": "."}, "hold no paths"),
    ({"binning": 2}, "binning 2 is for Topaz only"), ({"to": "topaz", "binning": 12}, "give up to 5"),
    ({"to": "topaz", "random_shift": 3}, "random_shift 3 needs particle stacks"),
    ({"random_shift": 3, "extract": False}, "random_shift 3 needs particle stacks"),
    ({"dataset": "sim", "dataset_particles": "gen/extracted.star"}, "no extracted particles to choose from"),
    ({"dataset_micrographs": "sim/none.star"}, "is not a file"),
    ({"dataset_micrographs": "foreign.star"}, r"names micrographs/foreign\.mrc, which the dataset does not have"),
])
def test_unusable_settings_and_datasets_are_refused(world, tmp_path, change, message):
    optics, rows = read_table(world / "gen/micrographs.star", "micrographs")
    write_table(world / "foreign.star", "micrographs", optics,
                rows.assign(rlnMicrographName="micrographs/foreign.mrc"))
    paths = {name: world / change[name] for name in ("dataset", "dataset_micrographs", "dataset_particles")
             if name in change}
    with pytest.raises(CryogemError, match=message) as caught:
        export.run(parse(ExportSettings, {"dataset": world / "gen", "out": tmp_path / "out", **change, **paths}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_micrograph_is_an_error_before_anything_is_written(world, tmp_path):
    shutil.copytree(world / "gen", tmp_path / "gen")
    (tmp_path / "gen/micrographs/mic_000001.mrc").unlink()
    with pytest.raises(DataError, match=r"mic_000001\.mrc is not a file"):
        export.run(ExportSettings(dataset=tmp_path / "gen", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("to", "changes"), [("cryodrgn", {"random_shift": 3}), ("topaz", {"binning": 2})])
def test_exported_bytes_do_not_depend_on_threads(exported, tmp_path, torch_threads, processor, to, changes):
    files_of_runs = []
    for count in (1, 3):
        torch_threads(count)
        out = exported(to, out=tmp_path / str(count), **changes)
        files_of_runs.append({path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*"))
                              if path.suffix in {".mrc", ".mrcs", ".pkl"} and not path.is_symlink()})
    assert files_of_runs[0] == files_of_runs[1]
    assert files_of_runs[0]
