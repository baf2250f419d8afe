# SPDX-License-Identifier: GPL-3.0-or-later
"""Content of exports: each file is read back and compared with the labels."""
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryogem_scipion.engine.io.dataset import read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_header, read_mrc, read_stack
from tests.unit.export.conftest import (
    ANGLES,
    BOX,
    COUNT,
    DEFOCUS,
    ORIGIN,
    PIXEL_SIZE,
    PLACE,
    SHAPE,
    by_hand,
    centres,
    images,
    matrices,
)


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
def test_protein_is_dark_on_micrographs_and_bright_in_stacks(exported, labels, to):
    """This is the sign that RELION and cryoSPARC expect."""
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


@pytest.mark.parametrize("box", [None, 26, 33])
def test_particles_are_extracted_when_the_dataset_has_no_stacks_of_that_box_size(exported, world, box):
    out = exported("relion", dataset=world / "sim", box_size=box)
    optics, rows = read_table(out / "particles.star", "particles")
    edge = box or BOX
    assert optics["rlnImageSize"].iloc[0] == edge
    expected = by_hand(Path("/"), rows, edge)
    np.testing.assert_allclose(images(Path("/"), rows), expected, atol=2e-5)
    # With a smaller box, more particles are whole.
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


def test_cryosparc_files_hold_the_labels(exported, labels):
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
    # Rodrigues' rotation formula.
    pose = np.asarray(cs["alignments3D/pose"], float)
    angle = np.linalg.norm(pose, axis=1)[:, None, None]
    x, y, z = (pose / angle[:, 0]).T
    zero = np.zeros_like(x)
    cross = np.stack([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    rotations = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    np.testing.assert_allclose(rotations.transpose(0, 2, 1), matrices(labels), atol=1e-4)
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


def test_stacks_of_the_dataset_become_one_stack_for_cryodrgn(exported, world, labels):
    out = exported("cryodrgn")
    np.testing.assert_array_equal(read_stack(out / "particles.mrcs"), images(world / "gen", labels))


@pytest.mark.parametrize("binning", [1, 3])
def test_topaz_gets_normalised_images_and_matching_coordinates(exported, world, labels, binning):
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
        cropped = original[:shape[0] * binning, :shape[1] * binning].astype(float)
        # The low frequencies have the same phases as in the original, so the image is not shifted.
        before, after = (np.fft.fft2(data)[:20, :20].ravel()[1:] for data in (cropped, image))
        scale = np.vdot(before, after) / np.vdot(before, before)
        assert scale.real > 0
        np.testing.assert_allclose(after, scale.real * before, atol=1e-4 * np.abs(after).max())
        own = places[places["image_name"] == name]
        dark = [image[y, x] < 0 for x, y in zip(own["x_coord"], own["y_coord"], strict=True)]
        assert np.mean(dark) > 0.8


def test_export_without_particle_images(exported):
    out = exported("relion", extract=False)
    assert not (out / "particles").exists()
    optics, rows = read_table(out / "particles.star", "particles", PLACE)
    assert "rlnImageName" not in rows
    assert optics["rlnImageSize"].iloc[0] == BOX  # RELION needs it
