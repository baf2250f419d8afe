# SPDX-License-Identifier: GPL-3.0-or-later
"""Poses against the truth: errors put in by hand, maps turned, moved and mirrored, chance with its known law."""
import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryogem_scipion.__main__ import run
from cryogem_scipion.engine.errors import CryogemError, DataError
from cryogem_scipion.engine.io.dataset import read_manifest, write_table
from cryogem_scipion.engine.scoring.alignment import HALF_TURN, align, map_shift, random_pose_errors, rotation_angles
from cryogem_scipion.engine.scoring.particles import relion_matrices
from cryogem_scipion.engine.settings import PosesSettings
from cryogem_scipion.engine.simulation.projection import euler_angles, prepare_projector, project, rotation_matrices
from cryogem_scipion.engine.simulation.symmetry import symmetry_operators
from cryogem_scipion.engine.simulation.volume import Volume

PIXEL_SIZE = 4.0
C1 = np.eye(3)[None]


def uniform(count, seed=1):
    return Rotation.random(count, random_state=seed).as_matrix()


def turns(degrees, count, seed=2):
    """Rotations by an angle about random axes."""
    axes = np.random.default_rng(seed).normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return Rotation.from_rotvec(np.radians(degrees) * axes).as_matrix()


TURN = Rotation.from_rotvec([0.4, -1.9, 1.1]).as_matrix()


def test_matrices_are_those_of_the_projection():
    degrees = np.random.default_rng(3).uniform(-180, 180, (50, 3))
    assert relion_matrices(degrees) == pytest.approx(rotation_matrices(torch.from_numpy(degrees)).numpy(), abs=1e-12)


def test_an_angle_put_in_is_the_angle_found():
    truth = uniform(400)
    for degrees in (0.0, 1e-4, 3.0, 90.0, 179.9):
        found = align(turns(degrees, 400) @ truth, truth, C1, fit_rotation=False)
        assert found.errors_degrees == pytest.approx(np.full(400, degrees), abs=1e-6)


@pytest.mark.parametrize("symmetry", ["C1", "C4", "D2", "O", "I"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_and_mirrored_maps_with_symmetric_copies_have_no_error(symmetry, mirrored):
    group = symmetry_operators(symmetry).numpy()
    truth = uniform(300)
    copies = truth @ group[np.random.default_rng(5).integers(len(group), size=300)]
    found = (HALF_TURN @ copies if mirrored else copies) @ TURN.T
    aligned = align(found, truth, group)
    assert aligned.mirrored == mirrored
    assert aligned.errors_degrees.max() < 1e-5
    assert rotation_angles(aligned.rotation.T @ TURN @ group).min() < 1e-5


def test_a_mirrored_map_looks_the_same_a_half_turn_on():
    """Projections of V(-r) at D A are those of V at A; this is where the hand's convention comes from."""
    axis = np.arange(33) - 16.0
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    density = sum(weight * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 8)
                  for a, b, c, weight in [(4, 0, 1, 1.0), (-3, 5, 0, 2.0), (0, -4, -5, 1.5)])
    poses = uniform(5)

    def images(values, matrices):
        volume = Volume(torch.from_numpy(np.ascontiguousarray(values)).float(), 2.0)
        return project(prepare_projector(volume), torch.from_numpy(matrices), torch.zeros(5, 2), 33, 2.0).numpy()

    original, mirrored = images(density, poses), images(density[::-1, ::-1, ::-1], HALF_TURN @ poses)
    # Interpolation errs by less than 0.005 of the image.
    assert np.linalg.norm(original - mirrored) < 0.01 * np.linalg.norm(original)
    assert np.linalg.norm(original - images(density, HALF_TURN @ poses)) > 0.5 * np.linalg.norm(original)


def test_the_turn_is_found_among_lost_particles():
    """Half of the particles are random; the others have errors of 5°, of which the turn keeps almost nothing."""
    truth, count = uniform(600), 300
    found = np.concatenate([turns(5.0, count) @ truth[:count] @ TURN.T, uniform(600 - count, 9)])
    aligned = align(found, truth, C1)
    assert not aligned.mirrored
    # The mean of 300 errors of 5° is about 5 / sqrt(3 * 300) in each direction.
    assert rotation_angles(aligned.rotation.T @ TURN) < 1.0
    assert np.median(aligned.errors_degrees[:count]) == pytest.approx(5.0, abs=0.5)


def test_random_poses_have_the_errors_of_chance():
    """Uniform on SO(3) an angle w has the distribution (w - sin w) / pi: mean 126.5°, median 132.3°."""
    errors = align(uniform(20000, 3), uniform(20000, 4), C1, fit_rotation=False).errors_degrees
    # Standard error of a fraction of 20000: 0.0035.
    for w in (0.7, 1.5, 2.3, 2.8):
        law = (w - np.sin(w)) / np.pi
        assert np.mean(errors < np.degrees(w)) == pytest.approx(law, abs=0.012)
        assert np.mean(random_pose_errors(C1) < np.degrees(w)) == pytest.approx(law, abs=0.012)
    assert errors.mean() == pytest.approx(np.degrees(np.pi / 2 + 2 / np.pi), abs=1.0)
    assert np.median(errors) == pytest.approx(132.35, abs=1.0)
    # With n symmetric copies about z, w is below w0 n times as often while copies do not overlap (w0 < 180° / n).
    law = 4 * (np.radians(30) - np.sin(np.radians(30))) / np.pi
    assert np.mean(random_pose_errors(symmetry_operators("C4").numpy()) < 30) == pytest.approx(law, abs=0.004)


@pytest.mark.parametrize(("symmetry", "free"), [("C1", (1, 1, 1)), ("C3", (0, 0, 1)), ("D2", (0, 0, 0))])
def test_the_maps_shift_lies_on_its_axes(symmetry, free):
    """A point p of the map is seen at (A p)x, (A p)y; a fifth of the particles is elsewhere."""
    truth, point = uniform(200), np.array([5.0, -3.0, 8.0]) * free
    offsets = (truth @ point)[:, :2]
    offsets[::5] += 60.0
    assert map_shift(offsets, truth, symmetry_operators(symmetry).numpy()) == pytest.approx(point, abs=0.5)


# --------------------------- Files
def particles(count=120, seed=7):
    """Rows of particles.star with poses, in three micrographs, at least 25 pixels from each other."""
    random = np.random.default_rng(seed)
    place = np.arange(count) // 3
    matrices = uniform(count, seed)
    angles = euler_angles(torch.from_numpy(matrices)).numpy()
    rows = pd.DataFrame({
        "rlnMicrographName": [f"micrographs/mic_{number % 3}.mrc" for number in range(count)], "rlnOpticsGroup": 1,
        "rlnCoordinateX": 60.0 + 50 * (place % 10), "rlnCoordinateY": 60.0 + 50 * (place // 10),
        "rlnAngleRot": angles[:, 0], "rlnAngleTilt": angles[:, 1], "rlnAnglePsi": angles[:, 2],
        "rlnOriginXAngst": random.uniform(-4, 0, count), "rlnOriginYAngst": random.uniform(-4, 0, count),
        "rlnDefocusU": random.uniform(1e4, 2e4, count), "rlnDefocusV": 1.5e4,
        "rlnImageName": [f"{1 + number // 3:06d}@particles/mic_{number % 3}.mrcs" for number in range(count)]})
    return rows, matrices


def with_poses(rows, matrices):
    angles = euler_angles(torch.from_numpy(np.ascontiguousarray(matrices))).numpy()
    return rows.assign(rlnAngleRot=angles[:, 0], rlnAngleTilt=angles[:, 1], rlnAnglePsi=angles[:, 2])


def write(path, rows, pixel_size=PIXEL_SIZE):
    optics = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "o"}
    if pixel_size:
        optics |= {"rlnMicrographPixelSize": pixel_size, "rlnImagePixelSize": pixel_size}
    write_table(path, "particles", pd.DataFrame([optics]), rows)
    return path


@pytest.fixture(autouse=True)
def few_figures(request, monkeypatch):
    if "figure" not in request.node.name:
        monkeypatch.setattr("cryogem_scipion.engine.stages.poses.draw_poses", lambda figure, folder: None)


def report(folder, refined, truth, **values):
    refined = write(folder / "refined.star", *refined) if isinstance(refined, tuple) else write(
        folder / "refined.star", refined)
    run("poses", PosesSettings(particles=refined, truth=write(folder / "truth.star", truth), out=folder / "report",
                               **values))
    return json.loads((folder / "report/poses.json").read_text())


def test_a_refinement_with_everything_off(tmp_path):
    """Turned by TURN, moved by 8 Å along z, angles off by 2°, shifts by 3 Å in x, defocus by 100 Å; shuffled."""
    rows, matrices = particles()
    point = np.array([0.0, 0.0, 8.0])
    refined = with_poses(rows, turns(2.0, len(rows)) @ matrices @ TURN.T)
    moved = (matrices @ point)[:, :2] + np.array([3.0, 0.0]) * np.random.default_rng(1).choice([-1, 1], (len(rows), 1))
    refined = refined.assign(rlnOriginXAngst=rows["rlnOriginXAngst"] - moved[:, 0],
                             rlnOriginYAngst=rows["rlnOriginYAngst"] - moved[:, 1],
                             rlnDefocusU=rows["rlnDefocusU"] + 200)
    found = report(tmp_path, refined.drop(columns="rlnImageName").sample(100, random_state=1), rows)
    assert (found["particles"], found["unknown_particles"], found["left_out_particles"]) == (100, 0, 20)
    assert (found["paired_by"], found["map"]["mirrored"]) == ("coordinates", False)
    assert found["map"]["turn_degrees"] == pytest.approx(rotation_angles(TURN), abs=0.5)
    assert found["angular_error_degrees"]["median"] == pytest.approx(2.0, abs=0.2)
    assert found["angular_error_degrees"]["within"] == {"2": pytest.approx(0.5, abs=0.2), "5": 1, "10": 1, "20": 1,
                                                        "30": 1}
    assert found["map"]["shift_angstrom"] == pytest.approx(point, abs=1.0)
    assert found["shift_error_angstrom"]["median"] == pytest.approx(3.0, abs=0.5)
    assert found["defocus_error_angstrom"]["median"] == pytest.approx(100)
    assert found["defocus_error_angstrom"]["offset"] == pytest.approx(100)
    # Of a small error, view and turn about it are perpendicular parts.
    parts = [found[f"{name}_error_degrees"]["mean"] for name in ("view", "in_plane")]
    assert parts == pytest.approx([2 * np.pi / 4, 2 / 2], abs=0.2)  # means of |sin| and |cos| over the sphere
    manifest = read_manifest(tmp_path / "report")
    assert (manifest.stage, manifest.particles) == ("poses", 100)
    assert manifest.figures["angular_error_degrees_median"] == found["angular_error_degrees"]["median"]


def test_the_truth_itself_has_no_error(tmp_path):
    rows, _ = particles()
    found = report(tmp_path, rows, rows, alignment="none")
    assert found["angular_error_degrees"]["mean"] < 1e-5
    assert found["shift_error_angstrom"]["mean"] == found["defocus_error_angstrom"]["mean"] == 0
    assert found["angular_error_degrees"]["median_of_chance"] == pytest.approx(132.35, abs=1.0)


def test_the_other_hand_is_said_and_taken_off_only_when_asked_for(tmp_path):
    rows, matrices = particles()
    refined = with_poses(rows, HALF_TURN @ matrices)
    for name, alignment in (("full", "full"), ("kept", "rotation")):
        (tmp_path / name).mkdir()
        found = report(tmp_path / name, refined, rows, alignment=alignment)
        assert found["map"]["mirrored"] == (alignment == "full")
        assert (found["angular_error_degrees"]["median"] < 1e-5) == (alignment == "full")
    assert "the other hand" in read_manifest(tmp_path / "full/report").warnings[0]


def test_image_names_pair_what_has_no_coordinates(tmp_path):
    """In another folder, in another order, without micrographs; origins count as of the same boxes."""
    rows, matrices = particles()
    refined = with_poses(rows, matrices @ TURN.T).drop(columns=["rlnMicrographName", "rlnCoordinateX",
                                                                "rlnCoordinateY"])
    refined = refined.assign(rlnImageName=rows["rlnImageName"].str.replace("@", "@/data/export/"),
                             rlnOriginXAngst=rows["rlnOriginXAngst"] - 2.0).sample(frac=1, random_state=2)
    found = report(tmp_path, refined, rows, alignment="rotation")
    assert (found["paired_by"], found["particles"]) == ("image names", 120)
    assert found["angular_error_degrees"]["median"] < 1e-5
    assert found["shift_error_angstrom"]["offset_x"] == pytest.approx(2.0, abs=0.5)


def test_micrographs_of_another_pixel_size(tmp_path):
    rows, _ = particles()
    refined = rows.assign(rlnCoordinateX=rows["rlnCoordinateX"] * 2, rlnCoordinateY=rows["rlnCoordinateY"] * 2)
    found = report(tmp_path, (refined, PIXEL_SIZE / 2), rows)
    assert found["particles"] == 120
    assert found["shift_error_angstrom"]["mean"] < 1e-6


@pytest.mark.parametrize(("change", "message"), [
    (lambda rows: rows.drop(columns="rlnAnglePsi"), "has no particles with rlnAngleRot"),
    (lambda rows: rows.assign(rlnAngleRot=np.nan), "angles that are no finite numbers"),
    (lambda rows: rows.drop(columns=["rlnImageName", "rlnCoordinateX"]), "neither coordinates .* nor image names"),
    (lambda rows: rows.assign(rlnImageName="5").drop(columns="rlnCoordinateX"), "image names that are no 000001@"),
    (lambda rows: rows.assign(rlnImageName="1@a.mrcs").drop(columns="rlnCoordinateX"), "names the image .* twice"),
    (lambda rows: rows.assign(rlnCoordinateX=rows["rlnCoordinateX"] + 1e4), "none of the 120 particles"),
    (lambda rows: rows.iloc[:0], "has no particles with"),
])
def test_files_that_cannot_be_compared_are_refused(tmp_path, change, message):
    rows, _ = particles()
    with pytest.raises(DataError, match=message) as caught:
        report(tmp_path, change(rows), rows)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report").exists()


def test_unknown_symmetry_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give C1, C2"):
        PosesSettings(particles="a", truth="b", out="c", symmetry="X3")
    assert issubclass(DataError, CryogemError)


def test_the_figure_has_all_its_parts(tmp_path):
    rows, matrices = particles()
    report(tmp_path, with_poses(rows, turns(4.0, 120) @ matrices).drop(columns=["rlnDefocusU", "rlnImageName"]), rows)
    assert (tmp_path / "report/poses.png").stat().st_size > 50_000
