# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulate, train and generate in a Scipion project without a window; outputs are read from its database."""
import json
import os
import sys
from pathlib import Path

import matplotlib
import mrcfile
import numpy as np
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pwem.constants import ALIGN_PROJ

from cryogem_scipion.engine.io.dataset import EXTRACTED, MICROGRAPHS, PARTICLES, read_manifest, read_table
from cryogem_scipion.protocols.inputs import write_ctfs, write_orientations
from cryogem_scipion.workflow import WorkflowError, open_project, rerun, run
from tests.scipion.conftest import (
    LOG_LINES,
    MICROGRAPH_COUNT,
    PIXEL_SIZE,
    REAL_COUNT,
    REAL_PIXEL_SIZE,
    REAL_SHAPE,
    SHAPE,
    simulate,
)
from tests.scipion.conventions import defocus, relion_pose, rotation


def test_a_python_without_tkinter_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(WorkflowError, match="has no tkinter, which Scipion needs; on Debian: apt-get"):
        open_project(tmp_path / "work", "tests")
    assert not (tmp_path / "work").exists()


def read_back(scipion, protocol):
    """The protocol, read from the database of a newly opened project."""
    return open_project(scipion, "tests").getProtocol(protocol.getObjId())


@pytest.fixture(scope="module", params=["simulation", "dataset"])
def labelled(request, scipion):
    protocol = read_back(scipion, request.getfixturevalue(request.param))
    return protocol, protocol.outFolder()


def test_micrographs_have_size_sampling_acquisition_and_what_later_protocols_need(labelled):
    protocol, folder = labelled
    micrographs = protocol.outputMicrographs
    count, shape = (MICROGRAPH_COUNT, SHAPE) if protocol.getObjLabel() == "simulation" else (2, (150, 170))
    assert micrographs.getSize() == count
    assert micrographs.getDim()[:2] == shape[::-1]
    # The pixel size is the nearest one that gives whole sizes in pixels.
    assert micrographs.getSamplingRate() == pytest.approx(PIXEL_SIZE, rel=1e-3)
    for found in (micrographs.getAcquisition(), micrographs.getFirstItem().getAcquisition()):
        assert (found.getVoltage(), found.getSphericalAberration(), found.getAmplitudeContrast()) == (200.0, 1.4, 0.08)
    for micrograph in micrographs.iterItems():
        with mrcfile.open(micrograph.getFileName()) as file:
            assert file.data.shape == shape
            assert float(file.voxel_size.x) == pytest.approx(micrograph.getSamplingRate())
        assert Path(micrograph._cryogemMask.get()).is_file()
        assert Path(micrograph._cryogemParticles.get()) == folder / PARTICLES
        assert read_manifest(Path(micrograph._cryogemManifest.get()).parent).micrographs == count


def test_coordinates_are_the_whole_particles_in_the_mask(labelled):
    protocol, folder = labelled
    coordinates = protocol.outputCoordinates
    _, rows = read_table(folder / PARTICLES, "particles")
    whole = rows[rows["cryogemWhole"] == 1]
    manifest = read_manifest(folder)
    assert coordinates.getSize() == len(whole) == manifest.whole_particles > 0
    assert coordinates.getBoxSize() == manifest.box_size
    assert coordinates.getMicrographs().getSize() == protocol.outputMicrographs.getSize()
    inside = dark = 0
    # A list, because looking up an item would end the iteration over the set.
    for micrograph in [item.clone() for item in protocol.outputMicrographs.iterItems()]:
        image, mask = mrcfile.read(micrograph.getFileName()), mrcfile.read(micrograph._cryogemMask.get())
        here = [item.getPosition() for item in coordinates.iterCoordinates(micrograph)]
        expected = whole[whole["rlnMicrographName"].map(os.path.basename) == os.path.basename(micrograph.getFileName())]
        assert here == list(zip(expected["rlnCoordinateX"], expected["rlnCoordinateY"], strict=True))
        edge = coordinates.getBoxSize()
        for x, y in here:
            assert edge // 2 <= x <= image.shape[1] - edge + edge // 2
            assert edge // 2 <= y <= image.shape[0] - edge + edge // 2
            near = slice(y - 2, y + 3), slice(x - 2, x + 3)
            inside += mask[near].mean() > 0.5
            dark += image[near].mean() < np.median(image[mask < 0.5])
    # By chance, some fields of 5 x 5 pixels of noise are bright. Swapped axes would give a third.
    assert inside >= 0.8 * len(whole)
    assert dark >= 0.8 * len(whole)


def test_ctfs_are_those_of_the_star_file(labelled):
    protocol, folder = labelled
    _, rows = read_table(folder / MICROGRAPHS, "micrographs")
    assert protocol.outputCTF.getSize() == len(rows)
    assert protocol.outputCTF.getMicrographs().getSize() == len(rows)
    for ctf, row in zip(protocol.outputCTF.iterItems(), rows.to_dict("records"), strict=True):
        assert protocol.outputMicrographs[ctf.getObjId()].getFileName() == str(folder / row["rlnMicrographName"])
        # Scipion swaps the axes where V > U; the CTF is the same.
        for angle in np.radians([0, 30, 77]):
            assert defocus(*ctf.getDefocus(), angle) == pytest.approx(
                defocus(row["rlnDefocusU"], row["rlnDefocusV"], row["rlnDefocusAngle"], angle), abs=0.01)
        assert ctf.getPhaseShift() == pytest.approx(20.0)


def test_particles_have_pose_ctf_coordinate_and_micrograph(labelled):
    protocol, folder = labelled
    particles = protocol.outputParticles
    _, rows = read_table(folder / EXTRACTED, "particles")
    manifest = read_manifest(folder)
    assert particles.getSize() == len(rows) == manifest.whole_particles
    assert particles.getDim()[:2] == (manifest.box_size, manifest.box_size)
    assert particles.getSamplingRate() == pytest.approx(manifest.pixel_size)
    assert particles.hasCTF()
    assert particles.getAlignment() == ALIGN_PROJ
    assert particles.getCoordinates().getSize() == len(rows)
    bright = 0
    for particle, row in zip(particles.iterItems(), rows.to_dict("records"), strict=True):
        index, stack = particle.getLocation()
        assert row["rlnImageName"] == f"{index:06d}@{Path(stack).relative_to(folder)}"
        assert particle.getCoordinate().getPosition() == (row["rlnCoordinateX"], row["rlnCoordinateY"])
        micrograph = protocol.outputMicrographs[particle.getMicId()]
        assert micrograph.getFileName() == str(folder / row["rlnMicrographName"])
        # The protocol's number in the name tells the micrographs of joined sets apart.
        assert micrograph.getMicName() == f"{protocol.getObjId():06d}_{os.path.basename(row['rlnMicrographName'])}"
        assert particle.getCoordinate().getMicName() == micrograph.getMicName()
        assert particle.getCTF().getPhaseShift() == pytest.approx(20.0)
        assert particle.getCTF().getDefocusU() >= particle.getCTF().getDefocusV() > 5000
        assert particle._rlnRandomSubset.get() == row["rlnRandomSubset"]
        angles, shifts = relion_pose(particle.getTransform().getMatrix())
        origin = -np.array([row["rlnOriginXAngst"], row["rlnOriginYAngst"]]) / manifest.pixel_size
        assert shifts == pytest.approx(-origin, abs=1e-6)
        assert rotation(*angles) == pytest.approx(
            rotation(row["rlnAngleRot"], row["rlnAngleTilt"], row["rlnAnglePsi"]), abs=1e-6)
        stack = np.atleast_3d(mrcfile.read(stack)).reshape(-1, manifest.box_size, manifest.box_size)
        middle = slice(manifest.box_size // 4, -manifest.box_size // 4)
        bright += stack[index - 1][middle, middle].mean() > 0
    assert bright >= 0.8 * len(rows)  # the background has mean 0


def test_refined_particles_and_measured_ctfs_become_star_files(scipion, simulation, tmp_path):
    """These are inputs of a simulation. Orientations and defocus values are those of the labels."""
    protocol = read_back(scipion, simulation)
    write_orientations(protocol.outputParticles, tmp_path / "views.star")
    write_ctfs(protocol.outputCTF, tmp_path / "ctfs.star")
    angles = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    _, found = read_table(tmp_path / "views.star", "particles", tuple(angles))
    _, rows = read_table(protocol.outFolder() / EXTRACTED, "particles")
    for one, other in zip(found[angles].to_numpy(), rows[angles].to_numpy(), strict=True):
        assert rotation(*one) == pytest.approx(rotation(*other), abs=1e-5)
    _, ctfs = read_table(tmp_path / "ctfs.star", "micrographs", ("rlnDefocusU", "rlnPhaseShift"))
    _, rows = read_table(protocol.outFolder() / MICROGRAPHS, "micrographs")
    assert ctfs["rlnPhaseShift"].to_numpy() == pytest.approx(20.0)
    for one, other in zip(ctfs.to_dict("records"), rows.to_dict("records"), strict=True):
        values = [[row[f"rlnDefocus{name}"] for name in ("U", "V", "Angle")] for row in (one, other)]
        assert defocus(*values[0], 1.0) == pytest.approx(defocus(*values[1], 1.0), abs=0.01)


def test_the_model_says_what_it_was_trained_on(scipion, training):
    protocol = read_back(scipion, training)
    model = protocol.outputModel
    assert Path(model.getFileName()).is_file()
    assert (model.getCrop(), model.getSteps()) == (64, 3)
    assert model.getSamplingRate() == pytest.approx(PIXEL_SIZE, rel=1e-3)
    assert model.getSnr() == 1.0
    assert "3 steps" in str(model)
    copy = model.clone()
    assert (copy.getFileName(), copy.getCrop(), copy.getSnr()) == (model.getFileName(), 64, 1.0)


def test_the_real_micrographs_come_back_at_the_working_pixel_size(scipion, training, inputs):
    found, original = read_back(scipion, training).outputMicrographs, inputs["real"][0].outputMicrographs
    assert found.getSize() == REAL_COUNT
    assert found.getSamplingRate() == pytest.approx(PIXEL_SIZE, rel=1e-3)
    # Cropped until both sizes are whole numbers of pixels.
    assert found.getDim()[0] == pytest.approx(REAL_SHAPE[1] * REAL_PIXEL_SIZE / PIXEL_SIZE, abs=4)
    assert found.getAcquisition().getVoltage() == 200.0
    names = {micrograph.getObjId(): micrograph.getMicName() for micrograph in original.iterItems()}
    assert {micrograph.getObjId(): micrograph.getMicName() for micrograph in found.iterItems()} == names


def test_a_subset_trains_on_its_part_only(training, simulation):
    values = json.loads(Path(training.configFile()).read_text())
    _, rows = read_table(Path(values["simulation_micrographs"]), "micrographs")
    assert list(rows["rlnMicrographName"]) == [f"micrographs/mic_{number:06d}.mrc" for number in (1, 2, 3)]
    assert Path(values["simulation"]) == Path(os.path.abspath(simulation.outFolder()))


def test_the_user_sees_progress_and_reads_sentences(simulation, dataset):
    assert any("simulating micrograph 4/4" in line for line in LOG_LINES)
    text = " ".join(simulation.summary())
    assert "4 micrographs of 160 x 201 px" in text
    assert "were simulated" in text
    assert "trained noise translator" in " ".join(dataset.summary())
    assert "2312.02235" in " ".join(dataset.methods())


@pytest.mark.slow
def test_continue_makes_what_is_missing_and_nothing_else(scipion, project, inputs):
    """As after a crash: one micrograph and the manifest are missing, the step has failed.

    Scipion does not continue a run whose outputs are inputs of others, so this test has its own run.
    """
    from pyworkflow.protocol import MODE_RESUME, STATUS_FAILED
    from pyworkflow.protocol.protocol import StepSet
    simulation = simulate(project, inputs, "to be continued", micrographs=3, extract=False)
    folder = simulation.outFolder()
    images = sorted(folder.glob("micrographs/*.mrc"))
    content = {path: path.read_bytes() for path in images}
    kept = {path: path.stat().st_mtime_ns for path in images[1:]}
    images[0].unlink()
    (folder / "manifest.json").unlink()
    steps = StepSet(filename=simulation.getStepsFile())
    for step in [step.clone() for step in steps][1:]:
        step.setStatus(STATUS_FAILED)
        steps.update(step)
    steps.write()
    steps.close()
    simulation.runMode.set(MODE_RESUME)
    rerun(project, simulation)
    assert {path: path.read_bytes() for path in images} == content
    assert {path: path.stat().st_mtime_ns for path in images[1:]} == kept
    assert read_back(scipion, simulation).outputMicrographs.getSize() == 3


def test_a_refusal_of_the_engine_is_the_protocols_error(scipion, project, inputs):
    """The map, imported as a link, is truncated before the engine reads it."""
    whole = (scipion / "map.mrc").read_bytes()
    (scipion / "map.mrc").write_bytes(whole[:5000])
    try:
        with pytest.raises(WorkflowError, match=r"failed: .*map\.mrc") as caught:
            run(project, "ProtCryogemSimulate", "fails", inputVolume=inputs["volume"], numberOfThreads=2,
                micrographs=1)
    finally:
        (scipion / "map.mrc").write_bytes(whole)
    assert "Traceback" not in str(caught.value)


def test_inputs_that_do_not_fit_are_refused_before_anything_runs(project, inputs, simulation):
    with pytest.raises(WorkflowError, match="its edge is 198 Å, longer than the micrographs \\(96 Å\\)"):
        run(project, "ProtCryogemSimulate", inputVolume=inputs["volume"], micrographSize="16 2000")
    with pytest.raises(WorkflowError, match=r"real_0\.mrc is not a simulated micrograph"):
        run(project, "ProtCryogemTrain", inputMicrographs=inputs["real"], inputSimulation=inputs["real"])
    with pytest.raises(WorkflowError, match="less than the crop \\(1024 px\\); lower the crop"):
        run(project, "ProtCryogemTrain", inputMicrographs=inputs["real"],
            inputSimulation=(simulation, "outputMicrographs"), crop=1024)
    with pytest.raises(WorkflowError, match="5 Å is not the pixel size of the simulation"):
        run(project, "ProtCryogemTrain", inputMicrographs=inputs["real"],
            inputSimulation=(simulation, "outputMicrographs"), pixelSize=5.0, crop=64)
    with pytest.raises(WorkflowError, match="noise spectrum is measured from real micrographs; give real"):
        run(project, "ProtCryogemGenerate", inputSimulation=(simulation, "outputMicrographs"), noise="spectrum")
    with pytest.raises(WorkflowError, match=r"Noise model.*cannot be EMPTY"):
        run(project, "ProtCryogemGenerate", inputSimulation=(simulation, "outputMicrographs"))
    with pytest.raises(WorkflowError, match="give one of model, gaussian, spectrum"):
        run(project, "ProtCryogemGenerate", inputSimulation=(simulation, "outputMicrographs"), noise="pink")


@pytest.mark.parametrize("which", ["simulation", "training", "dataset"])
def test_every_button_of_the_viewer_draws_a_figure(which, request, project, tmp_path):
    matplotlib.use("Agg")
    protocol = request.getfixturevalue(which)
    viewer = project.getDomain().findViewers(protocol, "tkinter")[0](project=project, protocol=protocol)
    viewer.setProtocol(protocol)
    for name, button in viewer._getVisualizeDict().items():
        views = button(name)
        assert views, name
        for view in views:
            view.savefig(tmp_path / f"{name}.png")
            view.close()
            assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_the_model_has_a_viewer(training, project):
    model = training.outputModel
    viewer = project.getDomain().findViewers(model, "tkinter")[0](project=project, protocol=training)
    views = viewer._visualize(model)
    assert len(views) == 3
    for view in views:
        view.close()
