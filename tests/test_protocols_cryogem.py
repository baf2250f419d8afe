# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: PT009 (Scipion's runner uses unittest)
"""Tests of all protocols for Scipion's own test runner: ``scipion3 tests cryogem_scipion.tests``.

They need no data but the real micrograph in the package. pytest runs them in tests/scipion/test_scipion_runner.py.
"""
import shlex
import subprocess
from pathlib import Path

from pwem.objects import Coordinate
from pwem.protocols import ProtImportCoordinates, ProtImportMicrographs, ProtImportVolumes
from pyworkflow.object import Pointer
from pyworkflow.tests import SMALL, BaseTest, setupTestProject

from cryogem_scipion import demo
from cryogem_scipion.plugin import Plugin
from cryogem_scipion.protocols import (
    ProtCryogemAssignPoses,
    ProtCryogemEvaluate,
    ProtCryogemEvaluatePicks,
    ProtCryogemEvaluatePoses,
    ProtCryogemExport,
    ProtCryogemGenerate,
    ProtCryogemReturnCoordinates,
    ProtCryogemSimulate,
    ProtCryogemTrain,
    ProtCryogemTrainPoses,
)

REAL_MICROGRAPH, REAL_PIXEL_SIZE = Path(demo.__file__).parent / "data/krios_micrograph_3.4A.mrc", 3.42
ACQUISITION = {"voltage": 300.0, "sphericalAberration": 2.7, "amplitudeContrast": 0.1}
MAP_PIXEL_SIZE, PIXEL_SIZE = 4.0, 10.26
MICROGRAPHS = 2


class TestCryogem(BaseTest):
    """Simulate, train and generate; then evaluate, export and return coordinates."""

    _labels = [SMALL]

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.volume = cls._run(ProtImportVolumes, filesPath=str(cls._phantom()), samplingRate=MAP_PIXEL_SIZE)
        cls.real = cls._run(ProtImportMicrographs, filesPath=str(REAL_MICROGRAPH), samplingRate=REAL_PIXEL_SIZE,
                            **ACQUISITION)
        cls.simulation = cls._run(
            ProtCryogemSimulate, inputVolume=cls.volume.outputVolume, inputMicrographs=cls.real.outputMicrographs,
            pixelSize=PIXEL_SIZE, micrographs=MICROGRAPHS, micrographSize="200 200", particlesMean=12.0,
            particlesSigma=0.0, measureMicrographs=False, numberOfThreads=1)
        cls.training = cls._run(
            ProtCryogemTrain, inputMicrographs=cls.real.outputMicrographs,
            inputSimulation=cls.simulation.outputMicrographs, steps=2, crop=64, generatorWidth=4,
            discriminatorWidth=4, numberOfThreads=1)
        cls.dataset = cls._run(
            ProtCryogemGenerate, inputModel=cls.training.outputModel,
            inputSimulation=cls.simulation.outputMicrographs, micrographs=MICROGRAPHS, numberOfThreads=1)

    @classmethod
    def _run(cls, kind, **parameters):
        """Run a protocol; ``BaseTest`` raises an exception if it fails."""
        return cls.launchProtocol(cls.newProtocol(kind, **parameters))

    @classmethod
    def _phantom(cls):
        """Path of the phantom's map, which the engine computes."""
        folder = Path(cls.proj.getTmpPath("phantom")).absolute()
        command = (f"{Plugin.getProgram()} phantom --box 48 --pixel-size {MAP_PIXEL_SIZE} --diameter-angstrom 150 "
                   f"--out {shlex.quote(str(folder))}")
        subprocess.run(command, shell=True, env=Plugin.getEnviron(), check=True)
        return folder / "phantom.mrc"

    def testSimulate(self):
        self.assertSetSize(self.simulation.outputMicrographs, MICROGRAPHS)
        self.assertSetSize(self.simulation.outputCTF, MICROGRAPHS)
        self.assertSetSize(self.simulation.outputCoordinates)
        self.assertAlmostEqual(self.simulation.outputMicrographs.getSamplingRate(), PIXEL_SIZE, delta=0.01)

    def testTrain(self):
        model = self.training.outputModel
        self.assertTrue(Path(model.getFileName()).is_file())
        self.assertEqual(model.getSteps(), 2)
        self.assertSetSize(self.training.outputMicrographs, 1)

    def testGenerate(self):
        self.assertSetSize(self.dataset.outputMicrographs, MICROGRAPHS)
        self.assertSetSize(self.dataset.outputCTF, MICROGRAPHS)
        self.assertSetSize(self.dataset.outputParticles, self.dataset.outputCoordinates.getSize())
        self.assertTrue(self.dataset.outputParticles.hasAlignmentProj())
        self.assertTrue(self.dataset.outputParticles.hasCTF())

    def testEvaluateDataset(self):
        evaluation = self._run(ProtCryogemEvaluate, inputGenerated=self.dataset.outputMicrographs,
                               inputMicrographs=self.training.outputMicrographs, numberOfThreads=1)
        self.assertIn("2 generated micrographs were compared with 1 real micrographs", evaluation.summary()[0])

    def testEvaluatePicks(self):
        evaluation = self._run(ProtCryogemEvaluatePicks, inputCoordinates=self.dataset.outputCoordinates,
                               inputTruth=self.dataset.outputCoordinates)
        self.assertIn("recall 1.000", " ".join(evaluation.summary()))

    def testEvaluatePoses(self):
        evaluation = self._run(ProtCryogemEvaluatePoses, inputParticles=self.dataset.outputParticles,
                               inputTruth=self.dataset.outputParticles)
        self.assertIn("particles were compared with the true particles", evaluation.summary()[0])

    def testTrainAndAssignPoses(self):
        training = self._run(ProtCryogemTrainPoses, inputParticles=self.dataset.outputParticles, steps=2,
                             numberOfThreads=1)
        self.assertEqual(training.outputModel.getSteps(), 2)
        assigned = self._run(ProtCryogemAssignPoses, inputModel=training.outputModel,
                             inputParticles=self.dataset.outputParticles, numberOfThreads=1)
        self.assertSetSize(assigned.outputParticles, self.dataset.outputParticles.getSize())
        self.assertTrue(assigned.outputParticles.hasAlignmentProj())

    def testExport(self):
        export = self._run(ProtCryogemExport, inputSet=self.dataset.outputMicrographs, to=0, numberOfThreads=1)
        self.assertTrue((export.outFolder() / "particles.star").is_file())

    def testReturnCoordinates(self):
        picks = self.newProtocol(ProtImportCoordinates, objLabel="picks")
        self.saveProtocol(picks)
        picks.makePathsAndClean()
        coordinates = picks._createSetOfCoordinates(Pointer(self.training, extended="outputMicrographs"))
        coordinates.setBoxSize(20)
        pick = Coordinate(x=30, y=60)
        pick.setMicrograph(self.training.outputMicrographs.getFirstItem())
        coordinates.append(pick)
        picks._defineOutputs(outputCoordinates=coordinates)
        picks.setFinished()
        self.proj._storeProtocol(picks)
        returned = self._run(ProtCryogemReturnCoordinates, inputCoordinates=picks.outputCoordinates,
                             inputMicrographs=self.real.outputMicrographs)
        self.assertSetSize(returned.outputCoordinates, 1)
        self.assertEqual(returned.outputCoordinates.getFirstItem().getPosition(), (90, 180))
