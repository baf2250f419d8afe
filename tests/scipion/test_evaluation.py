# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocols evaluate picks and evaluate poses, on sets like those of pickers and refinements."""
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pwem.constants import ALIGN_PROJ
from pwem.objects import Coordinate, Transform
from pyworkflow.object import Float, Pointer
from scipy.spatial.transform import Rotation

from cryogem_scipion.engine.io.dataset import PARTICLES, read_table
from cryogem_scipion.workflow import WorkflowError, run
from tests.scipion.conftest import PIXEL_SIZE, finished

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def simulation(scipion, project):
    volume = run(project, "ProtImportVolumes", "map", filesPath=scipion / "map.mrc", samplingRate=6.0)
    return run(project, "ProtCryogemSimulate", "evaluated", inputVolume=(volume, "outputVolume"), pixelSize=PIXEL_SIZE,
               micrographs=3, micrographSize="200 240", particlesMean=9.0, particlesSigma=0.0, particleDistance=150.0,
               extract=True, seed=5, numberOfThreads=2)


def picks(simulation):
    """Picks with scores like Topaz's: all true coordinates but the first, 2 px off; a false one; the cut particles."""
    def define(protocol):
        coordinates = protocol._createSetOfCoordinates(Pointer(simulation, extended="outputMicrographs"))
        coordinates.setBoxSize(20)
        _, rows = read_table(simulation.outFolder() / PARTICLES, "particles")
        cut = rows[rows["cryogemWhole"] == 0]
        micrographs = [item.clone() for item in simulation.outputMicrographs.iterItems()]
        places = [(item.getMicId(), item.getX() + 2, item.getY(), 2.0)
                  for item in simulation.outputCoordinates.iterItems()][1:]
        places += [(micrograph.getObjId(), int(x), int(y), 9.0) for micrograph in micrographs for x, y in
                   cut.loc[cut["rlnMicrographName"].str.endswith(Path(micrograph.getFileName()).name),
                           ["rlnCoordinateX", "rlnCoordinateY"]].to_numpy()]
        places.append((micrographs[0].getObjId(), *free_place(rows, micrographs[0]), 1.0))
        for number, x, y, score in places:
            pick = Coordinate()
            pick.setPosition(x, y)
            pick.setMicrograph(micrographs[number - 1])
            pick._topazScore = Float(score)
            coordinates.append(pick)
        protocol._defineOutputs(outputCoordinates=coordinates)
    return define


def free_place(rows, micrograph):
    """A position far from all particles of a micrograph."""
    here = rows.loc[rows["rlnMicrographName"].str.endswith(Path(micrograph.getFileName()).name), ["rlnCoordinateX",
                                                                                      "rlnCoordinateY"]].to_numpy()
    grid = np.stack(np.meshgrid(np.arange(5, 235), np.arange(5, 195)), -1).reshape(-1, 2)
    nearest = np.linalg.norm(grid[:, None] - here, axis=2).min(1)
    assert nearest.max() * PIXEL_SIZE > 60
    return tuple(map(int, grid[nearest.argmax()]))


def report(protocol, name):
    return json.loads((protocol.outFolder() / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def scored(project, simulation):
    picked = finished(project, "picker", picks(simulation))
    return run(project, "ProtCryogemEvaluatePicks", "picks", inputCoordinates=(picked, "outputCoordinates"),
               inputTruth=(simulation, "outputCoordinates"))


def test_picks_are_judged_by_all_labels(simulation, scored):
    found = report(scored, "picks")
    over_all, count = found["overall"], simulation.outputCoordinates.getSize()
    _, rows = read_table(simulation.outFolder() / PARTICLES, "particles")
    assert over_all["particles"] == count
    assert (over_all["hits"], over_all["missed"], over_all["false_picks"]) == (count - 1, 1, 1)
    # The cut particles were picked with the highest score, but do not count.
    assert over_all["dropped_picks"] == (rows["cryogemWhole"] == 0).sum() > 0
    assert over_all["auprc"] == pytest.approx((count - 1) / count)
    # Picks are 2 px to the right of coordinates that were rounded down: 1.5 px from the exact centres on average.
    assert over_all["position_error_angstrom"]["offset_x"] == pytest.approx(1.5 * PIXEL_SIZE, abs=0.25 * PIXEL_SIZE)
    assert len(found["micrographs"]) == 3
    # 0.265 times the diameter in the simulation's manifest.
    assert 20 < found["radius_angstrom"] < 60
    words = " ".join(scored.summary())
    assert f"Of {count} particles on 3 micrographs {count - 1} were found" in words
    assert "AUPRC 0.9" in words


def test_what_cannot_be_judged_is_refused(project, scored, simulation):
    picked = scored.inputCoordinates.getObjValue()
    with pytest.raises(WorkflowError, match="the picks have no attribute '_score' \\(found: _topazScore\\)"):
        run(project, "ProtCryogemEvaluatePicks", inputCoordinates=(picked, "outputCoordinates"),
            inputTruth=(simulation, "outputCoordinates"), scoreAttribute="_score")


def refined(simulation):
    """The true particles, all rotated by one rotation, and each by 3° in its plane."""
    turn = Rotation.from_rotvec([0.3, 1.2, -0.4]).as_matrix()
    spin = Rotation.from_rotvec([0, 0, np.radians(3)]).as_matrix()

    def define(protocol):
        particles = protocol._createSetOfParticles()
        particles.copyInfo(simulation.outputParticles)
        particles.setAlignment(ALIGN_PROJ)
        for item in simulation.outputParticles.iterItems():
            # The inverse of Scipion's matrix holds RELION's A and minus the origin; see conventions.relion_pose.
            forward = np.linalg.inv(item.getTransform().getMatrix())
            forward[:3, :3] = spin @ forward[:3, :3] @ turn.T
            item.setTransform(Transform(np.linalg.inv(forward)))
            particles.append(item)
        protocol._defineOutputs(outputParticles=particles)
    return define


@pytest.fixture(scope="module")
def posed(project, simulation):
    refinement = finished(project, "refinement", refined(simulation))
    return run(project, "ProtCryogemEvaluatePoses", "poses", inputParticles=(refinement, "outputParticles"),
               inputTruth=(simulation, "outputParticles"))


def test_poses_are_judged_after_the_maps_turn(simulation, posed):
    found = report(posed, "poses")
    assert found["particles"] == simulation.outputParticles.getSize()
    assert found["paired_by"] == "coordinates"
    # With 20 particles, the estimated rotation of the map removes a part of the common error.
    assert 2.0 < found["angular_error_degrees"]["median"] < 3.2
    assert 1.5 < found["in_plane_error_degrees"]["median"] < 3.2
    assert found["view_error_degrees"]["median"] < 2.0
    assert found["map"]["turn_degrees"] == pytest.approx(np.degrees(np.linalg.norm([0.3, 1.2, -0.4])), abs=3.5)
    assert not found["map"]["mirrored"]
    assert found["shift_error_angstrom"]["median"] < 1e-3
    assert found["defocus_error_angstrom"]["median"] == 0
    assert "particles were compared with the true particles" in " ".join(posed.summary())


@pytest.mark.parametrize("which", ["scored", "posed"])
def test_every_button_draws_a_figure(which, request, project, tmp_path):
    matplotlib.use("Agg")
    protocol = request.getfixturevalue(which)
    viewer = project.getDomain().findViewers(protocol, "tkinter")[0](project=project, protocol=protocol)
    viewer.setProtocol(protocol)
    for name, button in viewer._getVisualizeDict().items():
        for view in button(name):
            path = Path(tmp_path / f"{name}.png")
            view.savefig(path)
            view.close()
            assert path.stat().st_size > 20_000
