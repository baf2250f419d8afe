# SPDX-License-Identifier: GPL-3.0-or-later
"""Topaz's protocols train on a generated dataset, and pick held-out and 'real' micrographs."""
import os

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from cryogem_scipion.engine.io.dataset import PARTICLES, read_table
from cryogem_scipion.engine.scoring.picks import classify_picks, pick_metrics
from cryogem_scipion.engine.settings import GenerateSettings, PhantomSettings, SimulateSettings
from cryogem_scipion.workflow import run
from tests.optional.environments import Program

pytestmark = Program("topaz").marks
pytest.importorskip("topaz", reason="scipion-em-topaz is not installed (pip install '.[optional]')")

REAL_PIXEL_SIZE, PIXEL_SIZE = 5.0, 8.0
DIAMETER = 150.0
RADIUS = 0.265 * DIAMETER  # Å, the default of cryogem picks
SNR = 0.5  # easy to pick
FEW = {"particles_mean": 14, "particles_sigma": 2}  # far apart, so that a wrong position hits no particle by chance


@pytest.fixture(scope="module")
def world(scipion):
    """A map, and 'real' micrographs at 5 Å: other specimens with white noise, in a folder with an accent."""
    from cryogem_scipion.engine.stages import generate, phantom, simulate
    folder = scipion / "monde réel"
    phantom.run(PhantomSettings(out=folder / "map", box=32, pixel_size=6.0, diameter_angstrom=DIAMETER))
    simulate.run(SimulateSettings(out=folder / "hidden", volume=(folder / "map/phantom.mrc",), micrographs=3, seed=77,
                                  micrograph_size=(480, 450), pixel_size=REAL_PIXEL_SIZE, **FEW))
    generate.run(GenerateSettings(out=folder / "real", simulation=folder / "hidden", reuse=True, noise="gaussian",
                                  snr=SNR, extract=False))
    return folder


@pytest.fixture(scope="module")
def protocols(project, world):
    """The workflow up to the inputs of pickers: training set, held-out set, real set at both pixel sizes."""
    volume = run(project, "ProtImportVolumes", filesPath=world / "map/phantom.mrc", samplingRate=6.0)
    real = run(project, "ProtImportMicrographs", filesPath=world / "real/micrographs", filesPattern="*.mrc",
               samplingRate=REAL_PIXEL_SIZE)
    simulated = run(project, "ProtCryogemSimulate", inputVolume=(volume, "outputVolume"), pixelSize=PIXEL_SIZE,
                    micrographs=6, micrographSize="300 320", particlesMean=14.0, particlesSigma=2.0, numberOfThreads=2)
    noise = {"inputSimulation": (simulated, "outputMicrographs"), "noise": "gaussian", "snr": SNR, "extract": False,
             "numberOfThreads": 2}
    return {"real": real, "learnt": run(project, "ProtCryogemGenerate", "to learn from", **noise),
            "held out": run(project, "ProtCryogemGenerate", "held out", seed=9, micrographs=3, **noise),
            "working": run(project, "ProtCryogemTrain", inputMicrographs=(real, "outputMicrographs"), steps=1, crop=64,
                           inputSimulation=(simulated, "outputMicrographs"), generatorWidth=4, discriminatorWidth=4,
                           numberOfThreads=2)}


@pytest.fixture(scope="module")
def picker(project, protocols):
    """Topaz, trained on the generated micrographs and coordinates as they are."""
    learnt = protocols["learnt"]
    return run(project, "TopazProtTraining", inputMicrographs=(learnt, "outputMicrographs"),
               inputCoordinates=(learnt, "outputCoordinates"), micsForTraining=6, radius=2, numPartPerImg=14, scale=1,
               numEpochs=2, trainExtra="--epoch-size 25 --minibatch-size 32", gpuList="0")


def picked(project, picker, protocols, name):
    return run(project, "TopazProtPicking", f"pick {name}", inputMicrographs=(protocols[name], "outputMicrographs"),
               prevTopazModel=(picker, "outputModel"), radius=8, scale=1, gpuList="0", streamingBatchSize=32)


def matched(coordinates, folder, turned=False):
    """Picks and particles of a labelled folder as in ``classify_picks``, all in Å; ``turned`` upside down."""
    micrographs = coordinates.getMicrographs()
    pixel_size, height = micrographs.getSamplingRate(), micrographs.getDim()[1]
    names = {item.getObjId(): os.path.basename(item.getFileName()) for item in micrographs.iterItems()}
    picks = pd.DataFrame([{"micrograph": names[item.getMicId()], "score": item._topazScore.get(),
                           "x": item.getX() * pixel_size,
                           "y": (height - 1 - item.getY() if turned else item.getY()) * pixel_size}
                          for item in coordinates.iterItems()])
    optics, rows = read_table(folder / PARTICLES, "particles")
    scale = float(optics["rlnMicrographPixelSize"].iloc[0])
    truth = pd.DataFrame({"micrograph": rows["rlnMicrographName"].str.rpartition("/")[2],
                          "whole": rows["cryogemWhole"] == 1,
                          "x": rows["rlnCoordinateX"] * scale - rows["rlnOriginXAngst"],
                          "y": rows["rlnCoordinateY"] * scale - rows["rlnOriginYAngst"]})
    return classify_picks(picks, truth, RADIUS)


def average_precision(coordinates, folder, turned=False):
    return pick_metrics(*matched(coordinates, folder, turned), has_scores=True)["auprc"]


def test_a_picker_learns_from_a_generated_set(project, protocols, picker):
    """Measured 0.96; upside down, as some programs count y, 0.01."""
    picks = picked(project, picker, protocols, "held out")
    found, folder = picks.outputCoordinates, protocols["held out"].outFolder()
    precision = average_precision(found, folder)
    assert precision > 0.8
    assert average_precision(found, folder, turned=True) < 0.1
    # Evaluate picks finds Topaz's scores by itself, and gives the same value.
    evaluation = run(project, "ProtCryogemEvaluatePicks", inputCoordinates=(picks, "outputCoordinates"),
                    inputTruth=(protocols["held out"], "outputCoordinates"), radius=RADIUS)
    assert evaluation.manifest().figures["auprc"] == pytest.approx(precision, abs=1e-6)


def test_its_picks_of_real_micrographs_come_back_to_the_originals(project, protocols, picker, world):
    """The true coordinates are those of the original micrographs, in their pixels."""
    found = picked(project, picker, protocols, "working")
    back = run(project, "ProtCryogemReturnCoordinates", inputCoordinates=(found, "outputCoordinates"),
               inputMicrographs=(protocols["real"], "outputMicrographs")).outputCoordinates
    assert back.getSize() == found.outputCoordinates.getSize()
    assert back.getMicrographs().getSamplingRate() == REAL_PIXEL_SIZE
    assert average_precision(back, world / "real") > 0.8
    assert average_precision(back, world / "real", turned=True) < 0.1
    picks, _ = matched(back, world / "real")
    # Topaz's position errors differ between trainings. Returning a pick adds at most half an original pixel.
    covered = [size * REAL_PIXEL_SIZE for size in back.getMicrographs().getDim()[:2]]
    working = found.outputCoordinates.getMicrographs().getDim()[:2]
    before = np.array([[item.getX() * covered[0] / working[0], item.getY() * covered[1] / working[1]]
                       for item in found.outputCoordinates.iterItems()])
    assert np.abs(picks[["x", "y"]].to_numpy() - before).max() <= 0.5 * REAL_PIXEL_SIZE + 1e-6
