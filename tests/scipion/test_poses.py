# SPDX-License-Identifier: GPL-3.0-or-later
"""From generated particles to a pose estimator, and to poses of particles that it has not seen, in a project."""
import importlib.util
import shutil
from pathlib import Path

import matplotlib
import mrcfile
import numpy as np
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pwem.constants import ALIGN_NONE, ALIGN_PROJ
from pwem.objects import Particle
from scipy.spatial.transform import Rotation

from cryogem_scipion.engine.io.dataset import read_table
from cryogem_scipion.protocols.particle_tables import image_name, read_named_images
from cryogem_scipion.wizards.protocol_wizards import CryogemDiameterWizard
from cryogem_scipion.workflow import WorkflowError, new_protocol, open_project, run
from tests.fsc import shell_correlation
from tests.scipion.conftest import PIXEL_SIZE, finished
from tests.scipion.conventions import relion_pose, rotation
from tests.scipion.test_wizards import Form, press

pytestmark = pytest.mark.slow
has_relion = pytest.mark.skipif(not (shutil.which("relion_reconstruct") and importlib.util.find_spec("relion")),
                                reason="RELION or scipion-em-relion is not installed")
# Other programs' pixel size, and the box of our 28 px in it.
OTHER_EDGE = 35


@pytest.fixture(scope="module")
def simulation(scipion, project):
    volume = run(project, "ProtImportVolumes", "map", filesPath=scipion / "map.mrc", samplingRate=6.0)
    return run(project, "ProtCryogemSimulate", "posed", inputVolume=(volume, "outputVolume"), pixelSize=PIXEL_SIZE,
               micrographs=2, micrographSize="400 400", particlesMean=45.0, particlesSigma=0.0, particleDistance=150.0,
               boxSize=28, seed=5, numberOfThreads=2, measureMicrographs=False)


def generate(project, simulation, label, micrographs, seed):
    return run(project, "ProtCryogemGenerate", label, inputSimulation=(simulation, "outputMicrographs"),
               noise="gaussian", snr=4.0, micrographs=micrographs, seed=seed, numberOfThreads=2)


@pytest.fixture(scope="module")
def training(project, simulation):
    """A pose estimator, trained on about 300 generated particles."""
    generated = generate(project, simulation, "to train on", 8, seed=1)
    return run(project, "ProtCryogemTrainPoses", "training", inputParticles=(generated, "outputParticles"), steps=50,
               validateEvery=25, numberOfThreads=2)


@pytest.fixture(scope="module")
def fresh(project, simulation):
    """Particles that the training has not seen."""
    return generate(project, simulation, "fresh", 3, seed=2)


def assign(project, training, protocol, name="outputParticles"):
    return run(project, "ProtCryogemAssignPoses", "assign", inputModel=(training, "outputModel"),
               inputParticles=(protocol, name), numberOfThreads=2)


@pytest.fixture(scope="module")
def assigned(project, training, fresh):
    return assign(project, training, fresh)


def errors(found, true):
    """Angular errors (degrees) of the particles of one set, by the object ids of the other."""
    truth = {item.getObjId(): rotation(*relion_pose(item.getTransform().getMatrix())[0]) for item in true.iterItems()}
    return np.array([np.degrees(np.linalg.norm(Rotation.from_matrix(
        rotation(*relion_pose(item.getTransform().getMatrix())[0]) @ truth[item.getObjId()].T).as_rotvec()))
        for item in found.iterItems()])


def test_the_model_says_what_it_was_trained_for(scipion, project, training, simulation):
    training = open_project(scipion, "tests").getProtocol(training.getObjId())  # read from the database
    model = training.outputModel
    assert Path(model.getFileName()).is_file()
    assert (model.getSymmetry(), model.getSteps(), model.getClasses()) == ("C1", 50, 1)
    assert model.getDiameter() == pytest.approx(1.1 * simulation.manifest().particle_diameter_angstrom, abs=0.01)
    assert 0 < model.getError() < 15  # measured 5; random poses have 132
    assert "C1, diameter" in str(model)
    assert f"The median angular error on held-out particles is {model.getError():.2g}°." in training.summary()


def test_fresh_particles_get_their_poses_and_keep_all_else(scipion, assigned, fresh):
    assigned = open_project(scipion, "tests").getProtocol(assigned.getObjId())
    found, given = assigned.outputParticles, fresh.outputParticles
    assert found.getSize() == given.getSize()
    assert found.getAlignment() == ALIGN_PROJ
    assert np.median(errors(found, given)) < 15  # measured 9
    given_items = {item.getObjId(): item.clone() for item in given.iterItems()}
    shifts = []
    for item in found.iterItems():
        before = given_items[item.getObjId()]
        assert item.getLocation() == before.getLocation()
        assert item.getCoordinate().getPosition() == before.getCoordinate().getPosition()
        assert item.getMicId() == before.getMicId()
        assert item.getCTF().getDefocus() == before.getCTF().getDefocus()
        assert 0 <= item._rlnMaxValueProbDistribution.get() <= 1
        shifts.append([relion_pose(each.getTransform().getMatrix())[1] for each in (item, before)])
    off = np.linalg.norm(np.subtract(*np.moveaxis(shifts, 1, 0)), axis=1)
    assert np.median(off) < 0.5  # pixels, measured 0.31; the grid of the search is coarser
    assert f"{found.getSize()} particles" in " ".join(assigned.summary())


def resampled(image):
    """An image with finer pixels: its Fourier transform with zeros around it."""
    edge = len(image)
    spectrum = np.zeros((OTHER_EDGE, OTHER_EDGE), complex)
    low = OTHER_EDGE // 2 - edge // 2
    spectrum[low:low + edge, low:low + edge] = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image)))
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum))).real.astype(np.float32)


@pytest.fixture(scope="module")
def foreign(project, fresh):
    """The same particles as another program may have them: other pixels, values and ids, no CTF, no coordinate."""
    def define(protocol):
        given = fresh.outputParticles
        names = [image_name(item) for item in given.iterItems()]
        stack = protocol._getExtraPath("particles.mrcs")
        with mrcfile.new(stack) as file:
            file.set_data(np.stack([3 + 40 * resampled(image) for image in read_named_images(names)]))
        particles = protocol._createSetOfParticles()
        particles.setSamplingRate(given.getSamplingRate() * 28 / OTHER_EDGE)
        particles.setAlignment(ALIGN_NONE)
        for number, item in enumerate(given.iterItems(), 1):
            particle = Particle()
            particle.setObjId(item.getObjId() + 1000)
            particle.setLocation(number, stack)
            particles.append(particle)
        protocol._defineOutputs(outputParticles=particles)
    return finished(project, "foreign", define)


def test_particles_of_another_program_without_ctf_get_poses(project, training, foreign, fresh):
    found = assign(project, training, foreign).outputParticles
    assert found.getSamplingRate() == pytest.approx(6.4, rel=1e-3)
    assert not found.hasCTF()
    truth = {item.getObjId() + 1000: relion_pose(item.getTransform().getMatrix())
             for item in fresh.outputParticles.iterItems()}
    angles, shifts = [], []
    for item in found.iterItems():
        pose, origin = relion_pose(item.getTransform().getMatrix())
        true_pose, true_origin = truth.pop(item.getObjId())
        angles.append(Rotation.from_matrix(rotation(*pose) @ rotation(*true_pose).T).magnitude())
        shifts.append(np.linalg.norm(origin * found.getSamplingRate() - true_origin * PIXEL_SIZE))
    assert truth == {}
    assert np.degrees(np.median(angles)) < 15  # measured 7
    assert np.median(shifts) < 0.5 * PIXEL_SIZE  # measured 0.23 pixels


@has_relion
@pytest.mark.optional
def test_relion_reconstructs_the_map_from_the_poses_of_particles_that_it_extracted(project, training, fresh, scipion):
    cut = run(project, "ProtRelionExtractParticles", inputCoordinates=(fresh, "outputCoordinates"),
              ctfRelations=(fresh, "outputCTF"), boxSize=28, doInvert=True, backDiameter=28, saveFloat16=False,
              numberOfMpi=1)
    posed = assign(project, training, cut)
    assert posed.outputParticles.hasCTF()
    with_poses = run(project, "ProtRelionExportParticles", inputParticles=(posed, "outputParticles"), stackType=0)
    [table] = Path(with_poses._getExportPath()).glob("*.star")
    _, rows = read_table(table, "particles")
    _, ours = read_table(posed.outFolder() / "particles.star", "particles")
    for theirs, row in zip(rows.to_dict("records"), ours.to_dict("records"), strict=True):
        angles = [[values[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")] for values in (theirs, row)]
        assert rotation(*angles[0]) == pytest.approx(rotation(*angles[1]), abs=1e-4)
        for axis in "XY":
            assert theirs[f"rlnOrigin{axis}Angst"] == pytest.approx(row[f"rlnOrigin{axis}Angst"], abs=1e-3)
    volumes = [run(project, "ProtRelionReconstruct", inputParticles=(protocol, "outputParticles"), doCTF=True)
               for protocol in (posed, fresh)]
    found, true = (np.array(mrcfile.read(each.outputVolume.getFileName().removesuffix(":mrc"))) for each in volumes)
    # Shells down to 45 Å: measured 0.96 and more.
    assert shell_correlation(found, true)[1:6].min() > 0.9


@pytest.mark.parametrize("which", ["training", "assigned"])
def test_every_button_of_the_viewers_draws_a_figure(which, request, project, tmp_path):
    matplotlib.use("Agg")
    protocol = request.getfixturevalue(which)
    viewer = project.getDomain().findViewers(protocol, "tkinter")[0](project=project, protocol=protocol)
    viewer.setProtocol(protocol)
    views = [view for name, button in viewer._getVisualizeDict().items() for view in button(name)]
    if which == "training":
        model = project.getDomain().findViewers(protocol.outputModel, "tkinter")[0](project=project, protocol=protocol)
        views += model._visualize(protocol.outputModel)
    for number, view in enumerate(views):
        view.savefig(tmp_path / f"{number}.png")
        view.close()
        assert (tmp_path / f"{number}.png").stat().st_size > 5000
    assert len(views) >= 3


def test_the_diameter_of_the_dataset_is_the_wizards_first_value(project, training, monkeypatch):
    shown = []
    monkeypatch.setattr("cryogem_scipion.wizards.dialogs.ask_values", lambda parent, page: shown.append(page) or {
        "diameterAngstrom": 200})
    form = Form(new_protocol(project, "ProtCryogemTrainPoses",
                             inputParticles=(training.inputParticles.getObjValue(), "outputParticles")))
    press(project, form, "diameterAngstrom")
    assert form.set == {"diameterAngstrom": 200}
    assert shown[0].sliders[0].value == round(training.outputModel.getDiameter())
    assert CryogemDiameterWizard._targets


def test_what_cannot_be_trained_or_assigned_is_refused(project, training, foreign):
    with pytest.raises(WorkflowError, match="they have no projection angles; choose"):
        run(project, "ProtCryogemTrainPoses", inputParticles=(foreign, "outputParticles"))
    protocol = new_protocol(project, "ProtCryogemAssignPoses", inputModel=(training, "outputModel"),
                            inputParticles=(foreign, "outputParticles"))
    assert protocol.validate() == []
    protocol.inputModel.get().setFileName("nothing.safetensors")
    assert "nothing.safetensors does not exist any more; train it again" in protocol.validate()[0]
