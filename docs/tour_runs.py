# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that the tour shows and the demo leaves out: evaluations, and an export.

What a picker and a refinement would bring is made of the truth: some coordinates are missed, others moved, and some
stand where nothing is; poses are turned a little, each by itself, and all together as a refined map may be.
"""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from cryogem_scipion.demo import PROJECT
from cryogem_scipion.workflow import open_project, run

__all__ = ["complete"]

MISSED, FALSE = 0.15, 0.2
"""Shares of the true particles that are missed, and that are added where nothing is."""
OFF_PX, OFF_DEGREES = 1.5, 4.0
"""Deviations of position and pose."""
TURN = (0.3, 1.2, -0.4)
"""Of the refined map against the true one, as a rotation vector in radians."""


def complete(demo: Path) -> None:
    """Run in the demo's project what the demo leaves out."""
    project = open_project(demo, PROJECT)
    runs = {found.getClassName(): found for found in project.getRuns()}
    dataset = runs["ProtCryogemGenerate"]
    picked = runs.get("ProtImportCoordinates") or _made(project, "ProtImportCoordinates", "picks", _picks(dataset))
    refined = runs.get("ProtImportParticles") or _made(project, "ProtImportParticles", "refined", _poses(dataset))
    for kind, inputs in {
            "ProtCryogemEvaluate": {"inputGenerated": (dataset, "outputMicrographs"),
                                    "inputMicrographs": (runs["ProtCryogemTrain"], "outputMicrographs")},
            "ProtCryogemEvaluatePicks": {"inputCoordinates": (picked, "outputCoordinates"),
                                         "inputTruth": (dataset, "outputCoordinates")},
            "ProtCryogemEvaluatePoses": {"inputParticles": (refined, "outputParticles"),
                                         "inputTruth": (dataset, "outputParticles")},
            "ProtCryogemExport": {"inputSet": (dataset, "outputMicrographs")}}.items():
        if kind not in runs:
            run(project, kind, **inputs)


def _made(project: Any, kind: str, label: str, define: Callable[[Any], None]) -> Any:
    """A finished box with the outputs that ``define`` makes for it."""
    protocol = project.newProtocol(project.getDomain().getProtocols()[kind])
    protocol.setObjLabel(f"{label} (the truth, disturbed)")
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    define(protocol)
    protocol.setFinished()
    project._storeProtocol(protocol)
    return protocol


def _picks(dataset: Any) -> Callable[[Any], None]:
    """Coordinates as of a picker that is good, and not perfect; with scores as Topaz's."""
    from pwem.objects import Coordinate
    from pyworkflow.object import Float, Pointer
    random = np.random.default_rng(1)
    width, height, _ = dataset.outputMicrographs.getDim()

    def define(protocol: Any) -> None:
        picks = protocol._createSetOfCoordinates(Pointer(dataset, extended="outputMicrographs"))
        picks.setBoxSize(dataset.outputCoordinates.getBoxSize())
        micrographs = {item.getObjId(): item.clone() for item in dataset.outputMicrographs.iterItems()}
        places = [(item.getMicId(), item.getX(), item.getY()) for item in dataset.outputCoordinates.iterItems()]
        found = [(mic, *np.rint(random.normal((x, y), OFF_PX)), random.normal(2, 1)) for mic, x, y in places
                 if random.random() > MISSED]
        found += [(mic, *random.integers((0, 0), (width, height)), random.normal(0, 1)) for mic, _, _ in places
                  if random.random() < FALSE]
        for mic, x, y, score in found:
            pick = Coordinate(x=int(x), y=int(y))
            pick.setMicrograph(micrographs[mic])
            pick._topazScore = Float(score)
            picks.append(pick)
        protocol._defineOutputs(outputCoordinates=picks)
    return define


def _poses(dataset: Any) -> Callable[[Any], None]:
    """Particles with poses as of a refinement."""
    from pwem.constants import ALIGN_PROJ
    from pwem.objects import Transform
    random = np.random.default_rng(2)
    turn = Rotation.from_rotvec(TURN).as_matrix()

    def define(protocol: Any) -> None:
        particles = protocol._createSetOfParticles()
        particles.copyInfo(dataset.outputParticles)
        particles.setAlignment(ALIGN_PROJ)
        for item in dataset.outputParticles.iterItems():
            # The inverse of Scipion's matrix holds RELION's A, and the shift.
            forward = np.linalg.inv(item.getTransform().getMatrix())
            off = Rotation.from_rotvec(np.radians(random.normal(0, OFF_DEGREES, 3))).as_matrix()
            forward[:3, :3] = off @ forward[:3, :3] @ turn.T
            forward[:2, 3] += random.normal(0, 0.5, 2)
            item.setTransform(Transform(np.linalg.inv(forward)))
            particles.append(item)
        protocol._defineOutputs(outputParticles=particles)
    return define
