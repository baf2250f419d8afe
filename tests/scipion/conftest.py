# SPDX-License-Identifier: GPL-3.0-or-later
"""A Scipion project in a temporary folder, with a synthetic map and synthetic micrographs."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from cryogem_scipion.workflow import open_project, run
from tests.optional.environments import Program
from tests.registration import checkout_environment, is_installed

PIXEL_SIZE = 8.0  # Working pixel size, Å.
REAL_PIXEL_SIZE = 5.0
REAL_SHAPE = (300, 371)
REAL_COUNT = 3
MICROGRAPH_COUNT, SHAPE = 4, (160, 201)
# Positions (y, x) and width of dark points on every real micrograph, in its pixels.
POINTS = np.array([(40.3, 60.8), (150.0, 330.4), (272.6, 25.5), (260.2, 341.7)])
POINT_WIDTH = 4.0
LOG_LINES = []  # of the fixture ``simulation``
MINIATURE = """
import sys
from pathlib import Path
from cryogem_scipion.demo import DemoSize, run_and_report
size = DemoSize(pixel_size=9.0, micrographs=1, steps=2, crop=64, width=4)
sys.exit(run_and_report(Path(sys.argv[1]), size))
"""


def write_map(path, box=33, pixel_size=6.0):
    """Write a map of five Gaussians without symmetry, about 150 Å wide and densest in the middle, with an odd edge."""
    z, y, x = (np.mgrid[:box, :box, :box] - box // 2) * pixel_size
    density = np.zeros((box, box, box), np.float32)
    for (cx, cy, cz), width, weight in [((0, 0, 0), 22, 1.0), ((30, 0, 10), 18, 1.0), ((-35, 20, 0), 14, 1.2),
                                        ((0, -35, 25), 12, 1.5), ((5, 25, -35), 16, 0.8)]:
        density += weight * np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * width ** 2))
    _write(path, density, pixel_size, volume=True)


def write_real(folder):
    """Write micrographs with correlated noise, an ice gradient, dark discs and darker points."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[:REAL_SHAPE[0], :REAL_SHAPE[1]]
    for number in range(REAL_COUNT):
        image = random.normal(0, 1, REAL_SHAPE)
        image = image + np.roll(image, 1, 0) + np.roll(image, 1, 1)
        for cy, cx in random.uniform(20, 280, (12, 2)):
            image -= 0.8 * ((y - cy) ** 2 + (x - cx) ** 2 < 15 ** 2)
        for cy, cx in POINTS:
            image -= 20 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * POINT_WIDTH**2))
        image = (1000 + 40 * image) * (1 + 0.1 * x / REAL_SHAPE[1])
        _write(folder / f"real_{number}.mrc", image.astype(np.float32), REAL_PIXEL_SIZE)


def _write(path, data, pixel_size, volume=False):
    with mrcfile.new(path) as file:
        file.set_data(data)
        file.voxel_size = pixel_size
        if volume:
            file.set_volume()


def optional_plugins():
    """Return the environment variables of Scipion's plugins for other programs, as far as these are installed."""
    variables = {"CONDA_ACTIVATION_CMD": "true"}  # the default needs conda
    relion = shutil.which("relion_reconstruct")
    if relion:
        variables["RELION_HOME"] = str(Path(relion).parents[1])
    topaz = Program("topaz")
    if topaz.activation:
        # Topaz's own pretrained models are pickles.
        variables |= {topaz.variable: topaz.activation, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    return variables


@pytest.fixture(scope="session")
def scipion(tmp_path_factory):
    """A Scipion workspace. Scipion finds the plugin even if it is not installed. HOME is an empty folder."""
    folder = tmp_path_factory.mktemp("scipion")
    before, place, path = dict(os.environ), os.getcwd(), list(sys.path)
    if not is_installed():
        metadata = tmp_path_factory.mktemp("metadata")
        os.environ["PYTHONPATH"] = checkout_environment(metadata)["PYTHONPATH"]
        sys.path.append(str(metadata))
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ.update(optional_plugins())
    write_map(folder / "map.mrc")
    (folder / "real").mkdir()
    write_real(folder / "real")
    yield folder
    os.chdir(place)
    os.environ.clear()
    os.environ.update(before)
    sys.path[:] = path


@pytest.fixture(scope="session")
def demo(scipion, tmp_path_factory):
    """Folder of a small demo, and its output."""
    folder = tmp_path_factory.mktemp("miniature")
    run = subprocess.run([sys.executable, "-c", MINIATURE, str(folder / "demo")], cwd=folder, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert run.returncode == 0, run.stdout[-3000:]
    return folder / "demo", run.stdout


@pytest.fixture(scope="session")
def project(scipion):
    """An open project; Scipion makes its folder the current one."""
    return open_project(scipion, "tests")


def finished(project, label, define):
    """Return a protocol that is marked as finished without a run, with the outputs that ``define`` creates."""
    protocol = project.newProtocol(project.getDomain().getProtocols()["ProtImportVolumes"])
    protocol.setObjLabel(label)
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    define(protocol)
    protocol.setFinished()
    project._storeProtocol(protocol)
    return protocol


@pytest.fixture(scope="session")
def inputs(scipion, project):
    """The map and the micrographs, as outputs of Scipion's import protocols."""
    volume = run(project, "ProtImportVolumes", "map", filesPath=scipion / "map.mrc", samplingRate=6.0)
    real = run(project, "ProtImportMicrographs", "real", filesPath=scipion / "real", filesPattern="*.mrc",
               samplingRate=REAL_PIXEL_SIZE, voltage=200.0, sphericalAberration=1.4, amplitudeContrast=0.08)
    return {"volume": (volume, "outputVolume"), "real": (real, "outputMicrographs")}


def simulate(project, inputs, label, **changes):
    """Run simulate micrographs."""
    values = {"pixelSize": PIXEL_SIZE, "micrographs": MICROGRAPH_COUNT, "micrographSize": f"{SHAPE[0]} {SHAPE[1]}",
              "particlesMean": 6.0, "particlesSigma": 1.0, "extract": True, "seed": 3, "phaseShiftDegrees": 20.0,
              "measureMicrographs": False, "numberOfThreads": 2, **changes}
    return run(project, "ProtCryogemSimulate", label, inputVolume=inputs["volume"], inputMicrographs=inputs["real"],
               **values)


@pytest.fixture(scope="session")
def simulation(project, inputs):
    """A run of simulate micrographs, once for all tests."""
    return simulate(project, inputs, "simulation", show=LOG_LINES.append)


@pytest.fixture(scope="session")
def subset(project, simulation):
    """Three micrographs of the simulation."""
    return run(project, "ProtSubSet", "subset", inputFullSet=(simulation, "outputMicrographs"), selectIds=True,
               range="2-4")


@pytest.fixture(scope="session")
def training(project, inputs, subset):
    """Three steps of a training on that subset."""
    return run(project, "ProtCryogemTrain", "training", inputMicrographs=inputs["real"],
               inputSimulation=(subset, "outputMicrographs"), steps=3, judgeEvery=0, crop=64, snr=1.0,
               noise="gaussian", generatorWidth=4, discriminatorWidth=4, previewEvery=2, checkpointEvery=2,
               numberOfThreads=2)


@pytest.fixture(scope="session")
def dataset(project, simulation, training):
    """Two generated micrographs."""
    return run(project, "ProtCryogemGenerate", "dataset", inputSimulation=(simulation, "outputMicrographs"),
               inputModel=(training, "outputModel"), micrographs=2, micrographSize="150 170", numberOfThreads=2)
