# SPDX-License-Identifier: GPL-3.0-or-later
"""Data sets handed over: every file is read back and compared with the labels; what cannot work is refused."""
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryogem_scipion.config import ExportSettings, GenerateSettings, PhantomSettings, SimulateSettings, parse
from cryogem_scipion.dataset import read_manifest, read_table, write_table
from cryogem_scipion.errors import CryogemError, DataError, SettingsError
from cryogem_scipion.mrc import read_header, read_mrc, read_stack
from cryogem_scipion.stages import export, generate, phantom, simulate
from tests.scipion.conventions import rotation

PIXEL_SIZE, BOX, SHAPE, COUNT = 6.0, 32, (190, 230), 3
ANGLES, PLACE, ORIGIN = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), ("rlnCoordinateX", "rlnCoordinateY"), (
    "rlnOriginXAngst", "rlnOriginYAngst")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """``sim``: clean micrographs without stacks; ``gen``: the same specimens under a little noise, with stacks."""
    folder = tmp_path_factory.mktemp("world")
    phantom.run(PhantomSettings(out=folder / "map", box=32, pixel_size=5.0, diameter_angstrom=110))
    simulate.run(SimulateSettings(
        out=folder / "sim", volume=(folder / "map/phantom.mrc",), pixel_size=PIXEL_SIZE, micrographs=COUNT,
        micrograph_size=SHAPE, particles_mean=12, particles_sigma=2, box_size=BOX, voltage_kv=200, cs_mm=1.4,
        amplitude_contrast=0.08, phase_shift_degrees=30, astigmatism_angstrom=2000, ice_thickness_angstrom=300))
    generate.run(GenerateSettings(out=folder / "gen", simulation=folder / "sim", noise="gaussian", snr=5, reuse=True))
    return folder


@pytest.fixture
def exported(world, tmp_path):
    """Runs an export of ``gen`` and returns its folder."""
    def run(to, **changes):
        out = changes.pop("out", tmp_path / f"out {to}" if to in ("cryodrgn", "topaz") else tmp_path / to)
        export.run(parse(ExportSettings, {"dataset": world / "gen", "to": to, "out": out, **changes}))
        return out
    return run


@pytest.fixture
def labels(world):
    """The rows of the whole particles, as ``generate`` wrote them."""
    return read_table(world / "gen/extracted.star", "particles")[1]


def matrices(rows):
    return np.stack([rotation(*angles) for angles in rows[list(ANGLES)].to_numpy()])


def centres(rows):
    return rows[list(PLACE)].to_numpy(float) - rows[list(ORIGIN)].to_numpy(float) / PIXEL_SIZE


def images(folder, rows, names="rlnImageName"):
    """The images that rows name, relative to a folder or absolute."""
    parts = [name.partition("@") for name in rows[names]]
    stacks = {path: read_stack(folder / path) for path in {path for _, _, path in parts}}
    return np.stack([stacks[path][int(number) - 1] for number, _, path in parts])


def by_hand(folder, rows, box):
    """Boxes cut around the coordinates, bright, background of mean 0 and deviation 1."""
    axis = np.arange(box) - box // 2
    ring = np.hypot(axis, axis[:, None]) > box // 2
    result = []
    for row in rows.to_dict("records"):
        image, _ = read_mrc(folder / row["rlnMicrographName"], 2)
        x, y = (int(row[name]) - box // 2 for name in PLACE)
        patch = -image[y:y + box, x:x + box].astype(float)
        result.append((patch - patch[ring].mean()) / patch[ring].std(ddof=1))
    return np.stack(result)


def test_relion_gets_absolute_paths_and_the_labels(exported, world, labels):
    out = exported("relion")
    optics, rows = read_table(out / "particles.star", "particles")
    assert len(rows) == len(labels)
    for name in (*ANGLES, *PLACE, *ORIGIN, *DEFOCUS, "rlnRandomSubset", "rlnClassNumber", "rlnCtfBfactor"):
        np.testing.assert_allclose(rows[name], labels[name], atol=1e-6)
    row = optics.to_dict("records")[0]
    assert (row["rlnVoltage"], row["rlnSphericalAberration"], row["rlnAmplitudeContrast"]) == (200, 1.4, 0.08)
    assert row["rlnImagePixelSize"] == row["rlnMicrographPixelSize"] == pytest.approx(PIXEL_SIZE, rel=1e-3)
    assert (row["rlnImageSize"], row["rlnImageDimensionality"]) == (BOX, 2)
    np.testing.assert_array_equal(images(Path("/"), rows), images(world / "gen", labels))
    _, micrographs = read_table(out / "micrographs.star", "micrographs", DEFOCUS)
    assert set(micrographs["rlnMicrographName"]) == {str(out / f"micrographs/mic_{n:06d}.mrc") for n in range(COUNT)}
    assert set(rows["rlnMicrographName"]) <= set(micrographs["rlnMicrographName"])
    assert not [name for table in (rows, micrographs) for name in table if name.startswith("cryogem")]
    assert read_manifest(out).stage == "export"
    assert str(out / "particles.star") in (out / "README.txt").read_text("utf-8")


@pytest.mark.parametrize("to", ["relion", "cryosparc"])
def test_signs_are_what_the_programs_want(exported, labels, to):
    """Protein dark on micrographs, bright in stacks."""
    out = exported(to)
    _, rows = read_table(out / "particles.star", "particles")
    stacks = images(out, rows)
    axis = np.arange(BOX) - BOX // 2
    middle = np.hypot(axis, axis[:, None]) < 4
    assert (stacks[:, middle].mean(1) > 0.5).mean() > 0.9
    for name, (x, y) in zip(rows["rlnMicrographName"], centres(labels), strict=True):
        image, _ = read_mrc(out / name, 2)
        near = image[round(y) - 3:round(y) + 4, round(x) - 3:round(x) + 4]
        assert near.mean() < np.median(image)


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
    with pytest.raises(SettingsError, match="programs that read STAR files do not understand"):
        exported("relion", out=tmp_path / name)
    assert not (tmp_path / name).exists()
    exported("cryosparc", out=tmp_path / name)  # relative to the export


@pytest.mark.parametrize(("files", "linked"), [("link", True), ("copy", False)])
def test_images_are_linked_or_copied(exported, world, files, linked):
    out = exported("relion", files=files)
    found = sorted(out.glob("micrographs/*.mrc")) + sorted(out.glob("particles/*.mrcs"))
    assert len(found) == 2 * COUNT
    for path in found:
        assert path.is_symlink() == linked
        assert path.read_bytes() == (world / "gen" / path.relative_to(out)).read_bytes()


@pytest.mark.parametrize("box", [None, 26, 33])
def test_boxes_are_cut_where_the_data_set_has_none(exported, world, box):
    out = exported("relion", dataset=world / "sim", box_size=box)
    optics, rows = read_table(out / "particles.star", "particles")
    edge = box or BOX
    assert optics["rlnImageSize"].iloc[0] == edge
    expected = by_hand(Path("/"), rows, edge)
    np.testing.assert_allclose(images(Path("/"), rows), expected, atol=2e-5)
    # A smaller box is whole nearer to the border.
    _, every = read_table(world / "sim/particles.star", "particles")
    first = np.floor(every[list(PLACE)].to_numpy()) - edge // 2
    assert len(rows) == ((first >= 0) & (first + edge <= np.array(SHAPE[::-1]))).all(1).sum()


def test_random_shifts_are_recorded_as_origins(exported, world, labels):
    reach = 6
    out = exported("relion", random_shift=reach)
    _, rows = read_table(out / "particles.star", "particles")
    moved = rows[list(PLACE)].to_numpy() - labels[list(PLACE)].to_numpy()
    assert np.abs(moved).max() <= reach
    assert all(len(set(axis)) > 5 for axis in moved.T)
    np.testing.assert_allclose(centres(rows), centres(labels), atol=1e-6)
    np.testing.assert_allclose(images(Path("/"), rows), by_hand(Path("/"), rows, BOX), atol=2e-5)
    again = exported("relion", random_shift=reach, out=out.parent / "again")
    other = exported("relion", random_shift=reach, seed=1, out=out.parent / "other")
    tables = [read_table(folder / "particles.star", "particles")[1] for folder in (out, again, other)]
    assert tables[0][list(PLACE)].equals(tables[1][list(PLACE)])
    assert not tables[0][list(PLACE)].equals(tables[2][list(PLACE)])


def test_cryosparc_files_say_what_the_labels_say(exported, labels):
    from cryosparc.dataset import Dataset
    out = exported("cryosparc", random_shift=3)
    _, rows = read_table(out / "particles.star", "particles")
    cs, mics = Dataset.load(out / "particles.cs"), Dataset.load(out / "micrographs.cs")
    assert len(cs) == len(rows) == len(labels)
    assert len(set(cs["uid"])) == len(cs)
    names = rows["rlnImageName"].str.partition("@")
    assert list(cs["blob/path"]) == list(names[2])
    assert list(cs["blob/idx"] + 1) == list(names[0].astype(int))
    assert (out / cs["blob/path"][0]).is_file()
    assert not Path(cs["blob/path"][0]).is_absolute()
    assert (np.asarray(cs["blob/sign"]) == 1).all()
    assert (np.asarray(cs["blob/shape"]) == BOX).all()
    uids = dict(zip(mics["micrograph_blob/path"], mics["uid"], strict=True))
    assert [uids[path] for path in rows["rlnMicrographName"]] == list(cs["location/micrograph_uid"])
    assert list(cs["location/micrograph_path"]) == list(rows["rlnMicrographName"])
    # Rodrigues' formula, written out.
    pose = np.asarray(cs["alignments3D/pose"], float)
    angle = np.linalg.norm(pose, axis=1)[:, None, None]
    x, y, z = (pose / angle[:, 0]).T
    zero = np.zeros_like(x)
    cross = np.stack([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    found = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    np.testing.assert_allclose(found.transpose(0, 2, 1), matrices(labels), atol=1e-4)
    columns = {"ctf/df1_A": "rlnDefocusU", "ctf/df2_A": "rlnDefocusV"}
    for field, name in columns.items():
        np.testing.assert_allclose(cs[field], labels[name], rtol=1e-6)
    for field, name in {"ctf/df_angle_rad": "rlnDefocusAngle", "ctf/phase_shift_rad": "rlnPhaseShift"}.items():
        np.testing.assert_allclose(np.degrees(cs[field]), labels[name], atol=1e-4)
    for field, value in {"ctf/accel_kv": 200, "ctf/cs_mm": 1.4, "ctf/amp_contrast": 0.08, "blob/psize_A": PIXEL_SIZE,
                         "alignments3D/psize_A": PIXEL_SIZE}.items():
        np.testing.assert_allclose(cs[field], value, rtol=1e-3 if "psize" in field else 1e-6)
    size = np.asarray(cs["location/micrograph_shape"])[:, ::-1]
    assert (size == SHAPE[::-1]).all()
    place = np.stack([cs["location/center_x_frac"], 1 - np.asarray(cs["location/center_y_frac"])], 1) * size
    np.testing.assert_allclose(place - cs["alignments3D/shift"], centres(labels), atol=1e-4)
    assert list(np.asarray(cs["alignments3D/split"]) + 1) == list(labels["rlnRandomSubset"])
    _, micrographs = read_table(out / "micrographs.star", "micrographs")
    np.testing.assert_allclose(mics["ctf/df1_A"], micrographs["rlnDefocusU"], rtol=1e-6)
    text = (out / "README.txt").read_text("utf-8")
    assert "Accelerating voltage (kV): 200" in text
    assert "Spherical aberration (mm): 1.4" in text


def test_cryosparc_tools_is_asked_for_before_anything_is_written(exported, tmp_path, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "cryosparc.dataset", None)
    with pytest.raises(DataError, match="pip install cryosparc-tools"):
        exported("cryosparc")
    assert not (tmp_path / "cryosparc").exists()


def test_cryodrgn_gets_one_stack_and_its_poses(exported, world, labels):
    out = exported("cryodrgn", random_shift=4)
    _, rows = read_table(out / "particles.star", "particles")
    stack = read_stack(out / "particles.mrcs")
    np.testing.assert_allclose(stack, by_hand(world / "gen", rows, BOX), atol=2e-5)
    assert read_header(out / "particles.mrcs", 3)[1] == pytest.approx(PIXEL_SIZE, rel=1e-3)
    assert list(rows["rlnImageName"]) == [f"{number:06d}@particles.mrcs" for number in range(1, len(labels) + 1)]
    ctf = pickle.loads((out / "ctf.pkl").read_bytes())
    assert ctf.shape == (len(labels), 9)
    assert ctf.dtype == np.float32
    np.testing.assert_allclose(ctf[:, 0], BOX)
    np.testing.assert_allclose(ctf[:, 1], PIXEL_SIZE, rtol=1e-3)
    np.testing.assert_allclose(ctf[:, 2:5], labels[list(DEFOCUS[:3])], rtol=1e-6)
    np.testing.assert_allclose(ctf[:, 5:], np.tile([200, 1.4, 0.08, 30], (len(labels), 1)), rtol=1e-6)
    turns, shifts = pickle.loads((out / "pose.pkl").read_bytes())
    np.testing.assert_allclose(turns, matrices(labels), atol=1e-6)
    np.testing.assert_allclose(rows[list(PLACE)].to_numpy() - shifts * BOX, centres(labels), atol=1e-4)
    assert np.abs(shifts * BOX).max() > 1.5


def test_own_stacks_become_one(exported, world, labels):
    out = exported("cryodrgn")
    np.testing.assert_array_equal(read_stack(out / "particles.mrcs"), images(world / "gen", labels))


@pytest.mark.parametrize("binning", [1, 3])
def test_topaz_gets_normalised_images_and_coordinates_in_them(exported, world, labels, binning):
    out = exported("topaz", binning=binning)
    listed = pd.read_csv(out / "images.txt", sep="\t")
    places = pd.read_csv(out / "coordinates.txt", sep="\t")
    assert list(listed) == ["image_name", "path"]
    assert list(places) == ["image_name", "x_coord", "y_coord"]
    assert set(places["image_name"]) <= set(listed["image_name"])
    assert len(places) == len(labels)
    assert np.abs(places[["x_coord", "y_coord"]].to_numpy() * binning - centres(labels)).max() <= binning / 2
    shape = SHAPE[0] // binning, SHAPE[1] // binning
    for name, path in zip(listed["image_name"], listed["path"], strict=True):
        image, pixel_size = read_mrc(Path(path), 2)
        assert image.shape == shape
        assert pixel_size == pytest.approx(PIXEL_SIZE * binning, rel=1e-3)
        assert image.mean() == pytest.approx(0, abs=1e-5)
        assert image.std() == pytest.approx(1, abs=1e-5)
        original, _ = read_mrc(world / "gen/micrographs" / f"{name}.mrc", 2)
        whole = original[:shape[0] * binning, :shape[1] * binning].astype(float)
        # Low frequencies are those of the original, at the same places.
        there, here = np.fft.fft2(whole)[:20, :20].ravel()[1:], np.fft.fft2(image)[:20, :20].ravel()[1:]
        scale = np.vdot(there, here) / np.vdot(there, there)
        assert scale.real > 0
        np.testing.assert_allclose(here, scale.real * there, atol=1e-4 * np.abs(here).max())
        mine = places[places["image_name"] == name]
        dark = [image[y, x] < 0 for x, y in zip(mine["x_coord"], mine["y_coord"], strict=True)]
        assert np.mean(dark) > 0.8


def test_parts_of_a_data_set(exported, world, labels, tmp_path):
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


def test_micrographs_without_particles(world, tmp_path):
    simulate.run(SimulateSettings(out=tmp_path / "empty", volume=(world / "map/phantom.mrc",), pixel_size=PIXEL_SIZE,
                                  micrographs=1, micrograph_size=SHAPE, particles_mean=0, particles_sigma=0))
    for to in ("relion", "cryosparc"):
        export.run(ExportSettings(dataset=tmp_path / "empty", to=to, out=tmp_path / to))
        assert len(list((tmp_path / to / "micrographs").iterdir())) == 1
        assert read_manifest(tmp_path / to).particles == 0
    for to in ("topaz", "cryodrgn"):
        with pytest.raises(DataError, match="has no whole particle"):
            export.run(ExportSettings(dataset=tmp_path / "empty", to=to, out=tmp_path / to))


def test_an_export_continues_and_keeps_what_is_there(exported):
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


def test_changed_micrographs_are_cut_again(exported, world, tmp_path):
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


def test_a_full_disk_is_noticed_before_anything_is_written(exported, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=20_000))
    exported("relion", out=tmp_path / "links")
    cases = {"relion": {"files": "copy"}, "cryosparc": {"box_size": 20}, "topaz": {}, "cryodrgn": {}}
    for to, changes in cases.items():
        with pytest.raises(DataError, match="MB free; make room"):
            exported(to, out=tmp_path / to, **changes)
        assert not (tmp_path / to).exists()


@pytest.mark.parametrize(("change", "message"), [
    ({"dataset": "map"}, "holds the result of 'phantom'"), ({"dataset": "nowhere"}, r"has no manifest\.json"),
    ({"box_size": 200}, r"box_size 200 does not fit micrographs of 190 x 230"),
    ({"to": "cryodrgn", "box_size": 33}, "even boxes only; give box_size 34"),
    ({"to": "cryodrgn", "extract": False}, "leave extract on"),
    ({"to": "cryodrgn", "relative_to": "."}, "hold no paths"),
    ({"binning": 2}, "binning 2 is for Topaz only"), ({"to": "topaz", "binning": 12}, "give up to 5"),
    ({"to": "topaz", "random_shift": 3}, "random_shift 3 moves the boxes"),
    ({"random_shift": 3, "extract": False}, "random_shift 3 moves the boxes"),
    ({"dataset": "sim", "dataset_particles": "gen/extracted.star"}, "no extracted particles to choose from"),
    ({"dataset_micrographs": "sim/none.star"}, "is not a file"),
    ({"dataset_micrographs": "foreign.star"}, r"asks for micrographs/foreign\.mrc, which the data set does not have"),
])
def test_refusals(world, tmp_path, change, message):
    optics, rows = read_table(world / "gen/micrographs.star", "micrographs")
    write_table(world / "foreign.star", "micrographs", optics,
                rows.assign(rlnMicrographName="micrographs/foreign.mrc"))
    paths = {name: world / change[name] for name in ("dataset", "dataset_micrographs", "dataset_particles")
             if name in change}
    with pytest.raises(CryogemError, match=message) as caught:
        export.run(parse(ExportSettings, {"dataset": world / "gen", "out": tmp_path / "out", **change, **paths}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_micrograph_is_noticed_before_anything_is_written(world, tmp_path):
    shutil.copytree(world / "gen", tmp_path / "gen")
    (tmp_path / "gen/micrographs/mic_000001.mrc").unlink()
    with pytest.raises(DataError, match=r"mic_000001\.mrc is not a file"):
        export.run(ExportSettings(dataset=tmp_path / "gen", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_micrographs_and_coordinates_alone(exported):
    out = exported("relion", extract=False)
    assert not (out / "particles").exists()
    optics, rows = read_table(out / "particles.star", "particles", PLACE)
    assert "rlnImageName" not in rows
    assert optics["rlnImageSize"].iloc[0] == BOX  # RELION asks for it
