# SPDX-License-Identifier: GPL-3.0-or-later
"""train-poses and assign-poses from files to files: accuracy, conventions, other boxes, killed runs, bad input."""
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cryogem_scipion.engine.compute.resampling import fourier_crop
from cryogem_scipion.engine.errors import CheckpointError, CryogemError, DataError, SettingsError
from cryogem_scipion.engine.io.dataset import EXTRACTED, PARTICLES, read_manifest, read_table, table_text, write_table
from cryogem_scipion.engine.io.mrc import read_stack, write_mrc
from cryogem_scipion.engine.pose_estimation import evaluation, training
from cryogem_scipion.engine.pose_estimation.orientations import angles_modulo
from cryogem_scipion.engine.settings import (
    AssignPosesSettings,
    GenerateSettings,
    PhantomSettings,
    SimulateSettings,
    TrainPosesSettings,
    parse,
)
from cryogem_scipion.engine.simulation.projection import rotation_matrices
from cryogem_scipion.engine.stages import assign_poses, generate, phantom, simulate, train_poses

ROOT = Path(__file__).resolve().parents[2]
ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
ORIGIN = ["rlnOriginXAngst", "rlnOriginYAngst"]
PIXEL_SIZE = 6.0
QUICK = {"steps": 40, "batch": 64, "validate_every": 20, "checkpoint_every": 10}


@pytest.fixture(scope="module", autouse=True)
def few_held_out_particles():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "VALIDATED", 2)
        patch.setattr(evaluation, "MOST", 6)
        yield


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """About 200 particles with noise."""
    folder = tmp_path_factory.mktemp("poses")
    phantom.run(PhantomSettings(out=folder / "map", box=32, pixel_size=PIXEL_SIZE, diameter_angstrom=130))
    simulate.run(SimulateSettings(out=folder / "sim", volume=(folder / "map/phantom.mrc",), micrographs=2,
                                  micrograph_size=(224, 224), particles_mean=14, particles_sigma=0, snr=0.6))
    generate.run(GenerateSettings(out=folder / "gen", simulation=folder / "sim", noise="gaussian", micrographs=18,
                                  extract=True))
    return folder / "gen"


@pytest.fixture(scope="module")
def trained(generated):
    out = generated.parent / "trained"
    train_poses.run(TrainPosesSettings(particles=generated, out=out, **QUICK))
    return out


def assign(trained, particles, out, **settings):
    assign_poses.run(AssignPosesSettings(model=trained / "model.safetensors", particles=particles, out=out, **settings))
    return read_table(out / PARTICLES, "particles")[1]


def rotations(rows):
    return rotation_matrices(torch.tensor(rows[ANGLES].to_numpy(float)))


def errors(found, truth):
    """Angles in degrees and distances in Å to the true poses."""
    angles = angles_modulo(rotations(found), rotations(truth), torch.eye(3, dtype=torch.float64)[None]).numpy()
    return angles, np.linalg.norm(found[ORIGIN].to_numpy(float) - truth[ORIGIN].to_numpy(float), axis=1)


@pytest.fixture(scope="module")
def expected(generated, trained, tmp_path_factory):
    """Poses of some particles whose images are as they were generated."""
    folder = tmp_path_factory.mktemp("expected")
    return assign(trained, some_particles(generated, folder / "some")[0], folder / "out")


def some_particles(generated, folder, count=12, change=lambda images: images, **columns):
    """A STAR file with the first particles of the set and their images, changed."""
    folder.mkdir(exist_ok=True)
    optics, rows = read_table(generated / EXTRACTED, "particles")
    rows = rows.iloc[:count].reset_index(drop=True)
    images = []
    for name in rows["rlnImageName"]:
        number, _, stack = name.partition("@")
        images.append(read_stack(generated / stack)[int(number) - 1])
    images = change(torch.from_numpy(np.stack(images)))
    box = images.shape[-1]
    size = optics["rlnImageSize"].iloc[0] * PIXEL_SIZE / box if columns.pop("resampled", False) else PIXEL_SIZE
    write_mrc(folder / "stack.mrcs", images.numpy(), size, stack=True)
    rows["rlnImageName"] = [f"{index + 1:06d}@stack.mrcs" for index in range(count)]
    optics = optics.assign(rlnImageSize=box, rlnImagePixelSize=size)
    for name, value in columns.items():
        (optics if name in ("rlnCtfDataArePhaseFlipped",) else rows)[name] = value
    write_table(folder / "some.star", "particles", optics, rows)
    return folder / "some.star", rows


def test_poses_and_shifts_are_found(generated, trained, tmp_path):
    truth = read_table(generated / EXTRACTED, "particles")[1].iloc[:30]
    star, _ = some_particles(generated, tmp_path / "some", 30)
    found = assign(trained, star, tmp_path / "out", candidates=3)
    angles, distances = errors(found, truth)
    assert np.median(angles) < 8
    assert (angles < 20).mean() > 0.8
    assert np.median(distances) < 2.5
    # Shifts have RELION's sign: with the other one, the found and the true origins would not be correlated.
    assert np.corrcoef(found[ORIGIN].to_numpy(float).ravel(), truth[ORIGIN].to_numpy(float).ravel())[0, 1] > 0.5
    manifest = read_manifest(trained)
    assert manifest.figures["median_error_degrees"] < 12
    assert manifest.stage == "train-poses"


def test_the_columns_of_the_input_are_kept_and_candidates_are_written(generated, trained, tmp_path):
    star, rows = some_particles(generated, tmp_path / "some", 5, rlnSomethingElse=7, rlnOriginX=1.0)
    found = assign(trained, star, tmp_path / "out", candidates=3)
    assert (found["rlnSomethingElse"] == 7).all()
    assert "rlnOriginX" not in found
    assert found["rlnImageName"].iloc[0] == f"000001@{tmp_path / 'some/stack.mrcs'}"
    assert found["rlnMaxValueProbDistribution"].between(0, 1).all()
    for name in ("rlnMicrographName", "rlnCoordinateX", "rlnDefocusU"):
        assert (found[name] == rows[name]).all()
    candidates = read_table(tmp_path / "out/candidates.star", "candidates")[1]
    assert set(candidates["rlnImageName"]) == set(found["rlnImageName"])
    first = candidates.drop_duplicates("rlnImageName")
    assert np.allclose(first[ANGLES], found[ANGLES])
    assert (candidates.groupby("rlnImageName")["cryogemProbability"].sum() <= 1.001).all()
    assert (tmp_path / "out/assignment.png").is_file()
    assert not (tmp_path / "out/parts").exists()
    assert json.loads((tmp_path / "out/assignment.json").read_text())["particles"] == 5


@pytest.mark.parametrize("case", ["other scale", "dark", "finer", "odd box", "flipped", "no ctf"])
def test_other_boxes_scales_and_signs_give_the_same_poses(case, generated, trained, expected, tmp_path):
    settings, columns, change, tolerance = {}, {}, lambda images: images, 1.5
    if case == "other scale":
        change = lambda images: 40 * images + 1000  # noqa: E731
    elif case == "dark":
        change, settings = lambda images: -images, {"contrast": "dark"}
    elif case == "finer":
        change, columns = lambda images: fourier_crop(images, (2 * images.shape[1],) * 2), {"resampled": True}
    elif case == "odd box":
        change = lambda images: images[:, 1:, 1:] if images.shape[1] % 2 == 0 else images[:, :-1, :-1]  # noqa: E731
    elif case == "flipped":
        columns = {"rlnCtfDataArePhaseFlipped": 0}
    star, _ = some_particles(generated, tmp_path / "changed", change=change, **columns)
    if case == "no ctf":
        optics, rows = read_table(star, "particles")
        write_table(star, "particles", optics, rows.drop(columns=["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]))
        tolerance = 12
    found = assign(trained, star, tmp_path / "out", **settings)
    angles, _ = errors(found, expected)
    assert np.median(angles) < tolerance
    if case == "no ctf":
        assert "no CTF" in read_manifest(tmp_path / "out").warnings[0]


@pytest.mark.slow
def test_phase_flipped_images_are_compared_with_positive_ctfs(generated, trained, tmp_path):
    """A phase shift by 180° gives all CTFs the other sign, which phase flipping removes."""
    star, truth = some_particles(generated, tmp_path / "dark", change=lambda images: -images,
                                 rlnPhaseShift=180.0, rlnCtfDataArePhaseFlipped=0)
    found = assign(trained, star, tmp_path / "not flipped")
    assert np.median(errors(found, truth)[0]) < 8
    # Here all rings are below the first zero of most CTFs, so the images are nearly as they were.
    star, _ = some_particles(generated, tmp_path / "flipped", rlnPhaseShift=180.0, rlnCtfDataArePhaseFlipped=1)
    found = assign(trained, star, tmp_path / "out")
    assert np.median(errors(found, truth)[0]) < 12


def outputs(folder):
    """Contents of the files of a run, without times and folder names."""
    files = {}
    for path in sorted(Path(folder).iterdir()):
        if path.name == "losses.csv":
            files[path.name] = [line.rpartition(",")[0] for line in path.read_text().splitlines()]
        elif path.is_file() and path.name != "manifest.json":
            files[path.name] = path.read_bytes()
    return files


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_bytes_for_any_number_of_threads(generated, trained, tmp_path,
                                                                               torch_threads):
    settings = TrainPosesSettings(particles=generated, out=tmp_path / "out", **QUICK)
    records = train_poses.train_poses

    def interrupted(*arguments):
        for record in records(*arguments):
            if record.step == 17:
                raise KeyboardInterrupt
            yield record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_poses, "train_poses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_poses.run(settings)
    torch_threads(2)
    train_poses.run(settings)
    assert outputs(tmp_path / "out") == outputs(trained)


def in_two_processes(generated, out):
    """Start a training in two processes."""
    psutil = pytest.importorskip("psutil", reason="psutil, which comes with Scipion, is not installed")
    return psutil.Popen([sys.executable, "-m", "cryogem_scipion", "train-poses", "--particles", generated, "--out", out,
                         "--device", "cpu", "--processes", "2", "--threads", "2", "--steps", "40", "--batch", "32",
                         "--validate-every", "40", "--checkpoint-every", "10"], cwd=ROOT)


@pytest.mark.slow
def test_two_processes_train_together_and_continue_to_the_same_bytes(generated, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert in_two_processes(generated, whole).wait() == 0
    assert read_manifest(whole).settings["processes"] == 2
    # As exact as one process with batches of 64 (test_poses_and_shifts_are_found).
    assert read_manifest(whole).figures["median_error_degrees"] < 12
    run = in_two_processes(generated, killed)
    while not (killed / training.CHECKPOINT).exists() and run.is_running():
        time.sleep(0.01)
    for process in (*run.children(recursive=True), run):
        process.kill()
    run.wait()
    assert not (killed / "model.safetensors").exists()
    assert in_two_processes(generated, killed).wait() == 0
    assert outputs(killed) == outputs(whole)


@pytest.mark.slow
def test_another_seed_gives_another_model(generated, trained, tmp_path):
    train_poses.run(TrainPosesSettings(particles=generated, out=tmp_path / "out", seed=1, **QUICK))
    assert (tmp_path / "out/model.safetensors").read_bytes() != (trained / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_assignment_continues_to_the_same_bytes(generated, trained, tmp_path, monkeypatch, torch_threads):
    monkeypatch.setattr(assign_poses, "PART", 4)
    star, _ = some_particles(generated, tmp_path / "some", 10)
    assign(trained, star, tmp_path / "whole")
    write, written = assign_poses.write_part, []

    def interrupted(path, poses):
        if len(written) == 2:
            raise KeyboardInterrupt
        write(path, poses)
        written.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(assign_poses, "write_part", interrupted)
        with pytest.raises(KeyboardInterrupt):
            assign(trained, star, tmp_path / "out")
    torch_threads(2)
    assign(trained, star, tmp_path / "out")
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")


@pytest.mark.slow
def test_symmetry_comes_from_the_simulation_or_the_setting(generated, tmp_path):
    settings = {**QUICK, "steps": 5}
    train_poses.run(TrainPosesSettings(particles=generated, out=tmp_path / "c1", **settings))
    assert json.loads((tmp_path / "c1/pose_training.json").read_text())["symmetry"] == "C1"
    train_poses.run(TrainPosesSettings(particles=generated, out=tmp_path / "d2", symmetry="d2", **settings))
    assert json.loads((tmp_path / "d2/pose_training.json").read_text())["symmetry"] == "D2"


@pytest.mark.slow
def test_two_classes_in_the_table_make_two_references(generated, tmp_path):
    star, _ = some_particles(generated, tmp_path / "some", 60)
    optics, table = read_table(star, "particles")
    write_table(star, "particles", optics, table.assign(rlnClassNumber=[3 if index % 2 else 8 for index in range(60)]))
    train_poses.run(TrainPosesSettings(particles=star, out=tmp_path / "two", **{**QUICK, "steps": 5}))
    assert "class_accuracy" in read_manifest(tmp_path / "two").figures
    few = broken(star, tmp_path, lambda o, r: (o, r.iloc[:4]))
    found = assign(tmp_path / "two", few, tmp_path / "out")
    assert set(found["rlnClassNumber"]) <= {3, 8}
    assert np.allclose(found["cryogemClassProbability3"] + found["cryogemClassProbability8"], 1, atol=1e-3)


def broken(star, tmp_path, change):
    """A copy of a STAR file whose optics table and rows are changed."""
    optics, rows = read_table(star, "particles")
    optics, rows = change(optics, rows)
    path = star.parent / "broken.star"
    write_table(path, "particles", optics, rows)
    return path


BAD = {
    "no images": (lambda o, r: (o, r.drop(columns="rlnImageName")), "no particles with rlnImageName"),
    "name": (lambda o, r: (o, r.assign(rlnImageName="stack.mrcs")), "have to be like 000001@stack.mrcs"),
    "no stack": (lambda o, r: (o, r.assign(rlnImageName="1@none.mrcs")), "neither in its folder nor"),
    "number": (lambda o, r: (o, r.assign(rlnImageName="000099@stack.mrcs")), "12 images, but .* names image 99"),
    "group": (lambda o, r: (o, r.assign(rlnOpticsGroup=4)), "no optics group 4"),
    "defocus": (lambda o, r: (o, r.assign(rlnDefocusU=float("nan"))), "not finite numbers in rlnDefocusU"),
    "text": (lambda o, r: (o, r.assign(rlnDefocusV="x")), "not a number"),
    "size": (lambda o, r: (o.assign(rlnImagePixelSize=0.0), r), "give pixel_size"),
    "coarse": (lambda o, r: (o.assign(rlnImagePixelSize=20.0), r), "too coarse"),
    "small": (lambda o, r: (o.assign(rlnImagePixelSize=0.8), r), "extract larger boxes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_particles_are_refused_before_anything_is_written(case, generated, trained, tmp_path):
    change, message = BAD[case]
    star, _ = some_particles(generated, tmp_path / "some")
    with pytest.raises(DataError, match=message):
        assign(trained, broken(star, tmp_path, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_models_are_refused(generated, trained, tmp_path):
    star, _ = some_particles(generated, tmp_path / "some")
    for content, message in ((b"nonsense", "damaged"), (None, "cannot be read")):
        folder = tmp_path / message.replace(" ", "_")
        folder.mkdir()
        if content:
            (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            assign(folder, star, tmp_path / "out")
    (tmp_path / "other").mkdir()
    shutil.copy(trained / "checkpoint.safetensors", tmp_path / "other/model.safetensors")
    with pytest.raises(CheckpointError, match="pose estimator"):
        assign(tmp_path / "other", star, tmp_path / "out")


TRAINING = {
    "resolution": ({"resolution_angstrom": 5.0}, SettingsError, "finer than particles of 6 Å per pixel"),
    "circle": ({"diameter_angstrom": 900.0}, SettingsError, "much larger than the boxes"),
    "details": ({"diameter_angstrom": 30.0}, SettingsError, "no details that tell views apart"),
    "shift": ({"largest_shift_angstrom": 150.0}, SettingsError, "more than half of the circle"),
}


@pytest.mark.parametrize("case", TRAINING)
def test_settings_that_do_not_fit_are_refused(case, generated, tmp_path):
    settings, kind, message = TRAINING[case]
    with pytest.raises(kind, match=message):
        train_poses.run(TrainPosesSettings(particles=generated, out=tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


def test_particles_without_poses_or_too_few_are_refused(generated, tmp_path):
    star, _ = some_particles(generated, tmp_path / "some")
    without = broken(star, tmp_path, lambda o, r: (o, r.drop(columns="rlnAngleTilt")))
    with pytest.raises(DataError, match="lacks rlnAngleTilt"):
        train_poses.run(TrainPosesSettings(particles=without, out=tmp_path / "out"))
    many = broken(star, tmp_path, lambda o, r: (o, r.assign(rlnClassNumber=range(len(r)))))
    with pytest.raises(DataError, match="12 classes, and each would be a map"):
        train_poses.run(TrainPosesSettings(particles=many, out=tmp_path / "out"))
    few = broken(star, tmp_path, lambda o, r: (o, r.iloc[:3]))
    with pytest.raises(DataError, match="has 3 particles; give 4 or more"):
        train_poses.run(TrainPosesSettings(particles=few, out=tmp_path / "out"))
    with pytest.raises(DataError, match="no extracted particles"):
        train_poses.run(TrainPosesSettings(particles=generated.parent / "sim", out=tmp_path / "out"))
    with pytest.raises(CryogemError, match="symmetry"):
        parse(TrainPosesSettings, {"particles": generated, "out": tmp_path, "symmetry": "X3"})


def test_files_of_relion_3_0_are_read_and_written_with_an_optics_table(generated, trained, tmp_path):
    star, truth = some_particles(generated, tmp_path / "some")
    _, rows = read_table(star, "particles")
    flat = rows.drop(columns=["rlnOpticsGroup", *ORIGIN]).assign(
        rlnVoltage=300.0, rlnSphericalAberration=2.7, rlnAmplitudeContrast=0.1, rlnDetectorPixelSize=PIXEL_SIZE,
        rlnMagnification=10000.0)
    (star.parent / "flat.star").write_text(table_text({"": flat}))
    found = assign(trained, star.parent / "flat.star", tmp_path / "out")
    assert np.median(errors(found, truth)[0]) < 10
    written = read_table(tmp_path / "out" / PARTICLES, "particles")[0]
    assert written["rlnImagePixelSize"].iloc[0] == pytest.approx(PIXEL_SIZE)
