# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that the tour shows and the demo does not have: evaluations, an export, and a pose estimator and its poses.

The tour has no picker and no refinement. Picks are made from the true coordinates: some are left out, some moved, and
false ones are added. Refined poses are made from the true poses: each is rotated a little at random, and all together
by one rotation, because a refined map may be rotated, too.
"""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from cryogem_scipion.demo import PROJECT
from cryogem_scipion.workflow import open_project, run

__all__ = ["add_runs"]

MISSED_SHARE, FALSE_SHARE = 0.15, 0.2
"""Missed and false picks, as shares of the true particles."""
POSITION_ERROR_PX, POSE_ERROR_DEGREES = 1.5, 4.0
"""Standard deviations of the errors of position and pose."""
POSE_STEPS = 200
"""Training steps of the pose estimator."""
MAP_ROTATION = (0.3, 1.2, -0.4)
"""Rotation of the refined map with respect to the true map, as a rotation vector in radians."""


def add_runs(demo: Path) -> None:
    """Add evaluations and an export to the demo's project."""
    project = open_project(demo, PROJECT)
    runs = {protocol.getClassName(): protocol for protocol in project.getRuns()}
    dataset = runs["ProtCryogemGenerate"]
    picked = runs.get("ProtImportCoordinates") or _finished(
        project, "ProtImportCoordinates", "picks", _define_picks(dataset))
    refined = runs.get("ProtImportParticles") or _finished(
        project, "ProtImportParticles", "refined", _define_poses(dataset))
    for kind, inputs in {
            "ProtCryogemEvaluate": {"inputGenerated": (dataset, "outputMicrographs"),
                                    "inputMicrographs": (runs["ProtCryogemTrain"], "outputMicrographs")},
            "ProtCryogemEvaluatePicks": {"inputCoordinates": (picked, "outputCoordinates"),
                                         "inputTruth": (dataset, "outputCoordinates")},
            "ProtCryogemEvaluatePoses": {"inputParticles": (refined, "outputParticles"),
                                         "inputTruth": (dataset, "outputParticles")},
            "ProtCryogemExport": {"inputSet": (dataset, "outputMicrographs")},
            "ProtCryogemTrainPoses": {"inputParticles": (dataset, "outputParticles"), "steps": POSE_STEPS}}.items():
        if kind not in runs:
            runs[kind] = run(project, kind, **inputs)
    if "ProtCryogemAssignPoses" not in runs:
        run(project, "ProtCryogemAssignPoses", inputModel=(runs["ProtCryogemTrainPoses"], "outputModel"),
            inputParticles=(dataset, "outputParticles"))


def _finished(project: Any, kind: str, label: str, define: Callable[[Any], None]) -> Any:
    """A protocol with the outputs that ``define`` creates, marked as finished without a run."""
    protocol = project.newProtocol(project.getDomain().getProtocols()[kind])
    protocol.setObjLabel(f"{label} (from the truth)")
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    define(protocol)
    protocol.setFinished()
    project._storeProtocol(protocol)
    return protocol


def _define_picks(dataset: Any) -> Callable[[Any], None]:
    """A function that defines coordinates like those of a good picker, with scores like Topaz's."""
    from pwem.objects import Coordinate
    from pyworkflow.object import Float, Pointer
    random = np.random.default_rng(1)
    width, height, _ = dataset.outputMicrographs.getDim()

    def define(protocol: Any) -> None:
        picks = protocol._createSetOfCoordinates(Pointer(dataset, extended="outputMicrographs"))
        picks.setBoxSize(dataset.outputCoordinates.getBoxSize())
        micrographs = {item.getObjId(): item.clone() for item in dataset.outputMicrographs.iterItems()}
        truth = [(item.getMicId(), item.getX(), item.getY()) for item in dataset.outputCoordinates.iterItems()]
        coordinates = [(mic, *np.rint(random.normal((x, y), POSITION_ERROR_PX)), random.normal(2, 1))
                       for mic, x, y in truth if random.random() > MISSED_SHARE]
        coordinates += [(mic, *random.integers((0, 0), (width, height)), random.normal(0, 1))
                        for mic, _, _ in truth if random.random() < FALSE_SHARE]
        for mic, x, y, score in coordinates:
            pick = Coordinate(x=int(x), y=int(y))
            pick.setMicrograph(micrographs[mic])
            pick._topazScore = Float(score)
            picks.append(pick)
        protocol._defineOutputs(outputCoordinates=picks)
    return define


def _define_poses(dataset: Any) -> Callable[[Any], None]:
    """A function that defines particles with poses like those of a refinement."""
    from pwem.constants import ALIGN_PROJ
    from pwem.objects import Transform
    random = np.random.default_rng(2)
    map_rotation = Rotation.from_rotvec(MAP_ROTATION).as_matrix()

    def define(protocol: Any) -> None:
        particles = protocol._createSetOfParticles()
        particles.copyInfo(dataset.outputParticles)
        particles.setAlignment(ALIGN_PROJ)
        for item in dataset.outputParticles.iterItems():
            # The inverse of Scipion's matrix is RELION's matrix A with the shift.
            forward = np.linalg.inv(item.getTransform().getMatrix())
            error = Rotation.from_rotvec(np.radians(random.normal(0, POSE_ERROR_DEGREES, 3))).as_matrix()
            forward[:3, :3] = error @ forward[:3, :3] @ map_rotation.T
            forward[:2, 3] += random.normal(0, 0.5, 2)
            item.setTransform(Transform(np.linalg.inv(forward)))
            particles.append(item)
        protocol._defineOutputs(outputParticles=particles)
    return define
