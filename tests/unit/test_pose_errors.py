# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of poses: known errors, rotated, shifted and mirrored maps, and random poses."""
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


def test_scoring_and_projection_have_the_same_rotation_matrices():
    degrees = np.random.default_rng(3).uniform(-180, 180, (50, 3))
    assert relion_matrices(degrees) == pytest.approx(rotation_matrices(torch.from_numpy(degrees)).numpy(), abs=1e-12)


def test_the_measured_error_is_the_rotation_that_was_applied():
    truth = uniform(400)
    for degrees in (0.0, 1e-4, 3.0, 90.0, 179.9):
        alignment = align(turns(degrees, 400) @ truth, truth, C1, fit_rotation=False)
        assert alignment.errors_degrees == pytest.approx(np.full(400, degrees), abs=1e-6)


@pytest.mark.parametrize("symmetry", ["C1", "C4", "D2", "O", "I"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotated_and_mirrored_maps_with_symmetric_copies_have_no_error(symmetry, mirrored):
    group = symmetry_operators(symmetry).numpy()
    truth = uniform(300)
    copies = truth @ group[np.random.default_rng(5).integers(len(group), size=300)]
    refined = (HALF_TURN @ copies if mirrored else copies) @ TURN.T
    alignment = align(refined, truth, group)
    assert alignment.mirrored == mirrored
    assert alignment.errors_degrees.max() < 1e-5
    assert rotation_angles(alignment.rotation.T @ TURN @ group).min() < 1e-5


def test_projections_of_a_mirrored_map_equal_those_after_a_half_turn():
    """Projections of V(-r) at D A equal those of V at A; the alignment of the hand relies on this."""
    axis = np.arange(33) - 16.0
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    density = sum(weight * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 8)
                  for a, b, c, weight in [(4, 0, 1, 1.0), (-3, 5, 0, 2.0), (0, -4, -5, 1.5)])
    poses = uniform(5)

    def images(values, matrices):
        volume = Volume(torch.from_numpy(np.ascontiguousarray(values)).float(), 2.0)
        return project(prepare_projector(volume), torch.from_numpy(matrices), torch.zeros(5, 2), 33, 2.0).numpy()

    original, mirrored = images(density, poses), images(density[::-1, ::-1, ::-1], HALF_TURN @ poses)
    # The interpolation error is below 0.005 of the image.
    assert np.linalg.norm(original - mirrored) < 0.01 * np.linalg.norm(original)
    assert np.linalg.norm(original - images(density, HALF_TURN @ poses)) > 0.5 * np.linalg.norm(original)


def test_the_rotation_is_found_although_half_of_the_poses_are_random():
    """Half of the poses are random. The others have errors of 5°, which average out in the rotation."""
    truth, count = uniform(600), 300
    refined = np.concatenate([turns(5.0, count) @ truth[:count] @ TURN.T, uniform(600 - count, 9)])
    alignment = align(refined, truth, C1)
    assert not alignment.mirrored
    # The mean of 300 errors of 5° is about 5 / sqrt(3 * 300) in each direction.
    assert rotation_angles(alignment.rotation.T @ TURN) < 1.0
    assert np.median(alignment.errors_degrees[:count]) == pytest.approx(5.0, abs=0.5)


def test_errors_of_random_poses_follow_the_law_of_so3():
    """Angles w of uniform rotations have the distribution (w - sin w) / pi: mean 126.5°, median 132.3°."""
    errors = align(uniform(20000, 3), uniform(20000, 4), C1, fit_rotation=False).errors_degrees
    # Standard error of a fraction of 20000: 0.0035.
    for w in (0.7, 1.5, 2.3, 2.8):
        law = (w - np.sin(w)) / np.pi
        assert np.mean(errors < np.degrees(w)) == pytest.approx(law, abs=0.012)
        assert np.mean(random_pose_errors(C1) < np.degrees(w)) == pytest.approx(law, abs=0.012)
    assert errors.mean() == pytest.approx(np.degrees(np.pi / 2 + 2 / np.pi), abs=1.0)
    assert np.median(errors) == pytest.approx(132.35, abs=1.0)
    # With n symmetric copies about z, w < w0 is n times as frequent, if the copies do not overlap (w0 < 180° / n).
    law = 4 * (np.radians(30) - np.sin(np.radians(30))) / np.pi
    assert np.mean(random_pose_errors(symmetry_operators("C4").numpy()) < 30) == pytest.approx(law, abs=0.004)


@pytest.mark.parametrize(("symmetry", "free"), [("C1", (1, 1, 1)), ("C3", (0, 0, 1)), ("D2", (0, 0, 0))])
def test_the_shift_of_a_map_lies_on_its_symmetry_axes(symmetry, free):
    """A point p of the map appears at (A p)x, (A p)y. One fifth of the particles have a wrong offset."""
    truth, point = uniform(200), np.array([5.0, -3.0, 8.0]) * free
    offsets = (truth @ point)[:, :2]
    offsets[::5] += 60.0
    assert map_shift(offsets, truth, symmetry_operators(symmetry).numpy()) == pytest.approx(point, abs=0.5)


# --------------------------- Files
def particles(count=120, seed=7):
    """Rows of particles.star with poses, on three micrographs, at least 25 pixels apart."""
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


def test_all_errors_of_a_refinement_are_measured(tmp_path):
    """Map rotated by TURN and shifted by 8 Å along z; errors of 2°, 3 Å in x and 100 Å of defocus; rows shuffled."""
    rows, matrices = particles()
    point = np.array([0.0, 0.0, 8.0])
    refined = with_poses(rows, turns(2.0, len(rows)) @ matrices @ TURN.T)
    moved = (matrices @ point)[:, :2] + np.array([3.0, 0.0]) * np.random.default_rng(1).choice([-1, 1], (len(rows), 1))
    refined = refined.assign(rlnOriginXAngst=rows["rlnOriginXAngst"] - moved[:, 0],
                             rlnOriginYAngst=rows["rlnOriginYAngst"] - moved[:, 1],
                             rlnDefocusU=rows["rlnDefocusU"] + 200)
    scores = report(tmp_path, refined.drop(columns="rlnImageName").sample(100, random_state=1), rows)
    assert (scores["particles"], scores["unknown_particles"], scores["left_out_particles"]) == (100, 0, 20)
    assert (scores["paired_by"], scores["map"]["mirrored"]) == ("coordinates", False)
    assert scores["map"]["turn_degrees"] == pytest.approx(rotation_angles(TURN), abs=0.5)
    assert scores["angular_error_degrees"]["median"] == pytest.approx(2.0, abs=0.2)
    assert scores["angular_error_degrees"]["within"] == {"2": pytest.approx(0.5, abs=0.2), "5": 1, "10": 1, "20": 1,
                                                         "30": 1}
    assert scores["map"]["shift_angstrom"] == pytest.approx(point, abs=1.0)
    assert scores["shift_error_angstrom"]["median"] == pytest.approx(3.0, abs=0.5)
    assert scores["defocus_error_angstrom"]["median"] == pytest.approx(100)
    assert scores["defocus_error_angstrom"]["offset"] == pytest.approx(100)
    # For small errors, the view error and the in-plane error are perpendicular components.
    parts = [scores[f"{name}_error_degrees"]["mean"] for name in ("view", "in_plane")]
    assert parts == pytest.approx([2 * np.pi / 4, 2 / 2], abs=0.2)  # means of |sin| and |cos| over the sphere
    manifest = read_manifest(tmp_path / "report")
    assert (manifest.stage, manifest.particles) == ("poses", 100)
    assert manifest.figures["angular_error_degrees_median"] == scores["angular_error_degrees"]["median"]


def test_the_true_poses_have_no_error(tmp_path):
    rows, _ = particles()
    scores = report(tmp_path, rows, rows, alignment="none")
    assert scores["angular_error_degrees"]["mean"] < 1e-5
    assert scores["shift_error_angstrom"]["mean"] == scores["defocus_error_angstrom"]["mean"] == 0
    assert scores["angular_error_degrees"]["median_of_chance"] == pytest.approx(132.35, abs=1.0)


def test_the_hand_is_corrected_only_with_full_alignment(tmp_path):
    rows, matrices = particles()
    refined = with_poses(rows, HALF_TURN @ matrices)
    for name, alignment in (("full", "full"), ("kept", "rotation")):
        (tmp_path / name).mkdir()
        scores = report(tmp_path / name, refined, rows, alignment=alignment)
        assert scores["map"]["mirrored"] == (alignment == "full")
        assert (scores["angular_error_degrees"]["median"] < 1e-5) == (alignment == "full")
    assert "the opposite handedness" in read_manifest(tmp_path / "full/report").warnings[0]


def test_particles_without_coordinates_are_paired_by_image_name(tmp_path):
    """In another folder, in another order, without micrographs; the difference of the origins is the shift error."""
    rows, matrices = particles()
    refined = with_poses(rows, matrices @ TURN.T).drop(columns=["rlnMicrographName", "rlnCoordinateX",
                                                                "rlnCoordinateY"])
    refined = refined.assign(rlnImageName=rows["rlnImageName"].str.replace("@", "@/data/export/"),
                             rlnOriginXAngst=rows["rlnOriginXAngst"] - 2.0).sample(frac=1, random_state=2)
    scores = report(tmp_path, refined, rows, alignment="rotation")
    assert (scores["paired_by"], scores["particles"]) == ("image names", 120)
    assert scores["angular_error_degrees"]["median"] < 1e-5
    assert scores["shift_error_angstrom"]["offset_x"] == pytest.approx(2.0, abs=0.5)


def test_micrographs_may_have_different_pixel_sizes(tmp_path):
    rows, _ = particles()
    refined = rows.assign(rlnCoordinateX=rows["rlnCoordinateX"] * 2, rlnCoordinateY=rows["rlnCoordinateY"] * 2)
    scores = report(tmp_path, (refined, PIXEL_SIZE / 2), rows)
    assert scores["particles"] == 120
    assert scores["shift_error_angstrom"]["mean"] < 1e-6


@pytest.mark.parametrize(("change", "message"), [
    (lambda rows: rows.drop(columns="rlnAnglePsi"), "has no particles with rlnAngleRot"),
    (lambda rows: rows.assign(rlnAngleRot=np.nan), "angles that are not finite numbers"),
    (lambda rows: rows.drop(columns=["rlnImageName", "rlnCoordinateX"]), "neither coordinates .* nor image names"),
    (lambda rows: rows.assign(rlnImageName="5").drop(columns="rlnCoordinateX"),
     "image names that are not like 000001@"),
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
