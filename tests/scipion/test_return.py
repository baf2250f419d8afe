# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol return coordinates: picks at the working pixel size, moved to the original micrographs."""
import mrcfile
import numpy as np
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pwem.objects import Coordinate, CTFModel, Micrograph, SetOfCoordinates, SetOfMicrographs
from pwem.protocols import ProtImportCoordinates
from pyworkflow.object import Float, Pointer
from scipy import ndimage

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.protocols.protocol_return_coordinates import ProtCryogemReturnCoordinates, original_micrographs
from cryogem_scipion.viewers import CryogemReturnViewer
from cryogem_scipion.workflow import WorkflowError, run
from tests.scipion.conftest import PIXEL_SIZE, POINT_WIDTH, POINTS, REAL_COUNT, REAL_PIXEL_SIZE


def dark_points(path):
    """Centres (y, x) of the dark points of an image, in their order in ``POINTS``: matched filter and parabola."""
    image = np.array(mrcfile.read(path))
    smooth = ndimage.gaussian_filter(np.median(image) - image, POINT_WIDTH * REAL_PIXEL_SIZE / PIXEL_SIZE)
    return [centre(smooth, y, x) for y, x in np.rint(POINTS * REAL_PIXEL_SIZE / PIXEL_SIZE).astype(int)]


def centre(smooth, y, x):
    """The highest original (y, x) within four pixels of one, by a parabola through its neighbours."""
    peak = np.unravel_index(smooth[y - 4:y + 5, x - 4:x + 5].argmax(), (9, 9)) + np.array([y - 4, x - 4])
    lines = smooth[peak[0] - 1:peak[0] + 2, peak[1]], smooth[peak[0], peak[1] - 1:peak[1] + 2]
    return [original + (after - before) / (4 * middle - 2 * (before + after))
            for original, (before, middle, after) in zip(peak, lines, strict=True)]


def picks(project, training, positions):
    """A protocol whose output is what a picker would have found: whole pixels, and a score."""
    protocol = project.newProtocol(ProtImportCoordinates)
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    output = protocol._createSetOfCoordinates(Pointer(training, extended="outputMicrographs"))
    output.setBoxSize(21)
    for micrograph in [item.clone() for item in training.outputMicrographs.iterItems()]:
        for number, (y, x) in enumerate(positions(micrograph.getFileName())):
            coordinate = Coordinate(x=round(x), y=round(y))
            coordinate.setMicrograph(micrograph)
            coordinate._score = Float(number / 10)
            output.append(coordinate)
    protocol._defineOutputs(outputCoordinates=output)
    project.saveProtocol(protocol)
    return protocol


@pytest.fixture(scope="module")
def picked(project, training):
    return picks(project, training, dark_points)


def test_known_positions_come_back(project, training, inputs, picked, tmp_path):
    original = inputs["real"][0].outputMicrographs
    back = run(project, "ProtCryogemReturnCoordinates", "back", inputCoordinates=(picked, "outputCoordinates"),
               inputMicrographs=inputs["real"])
    found = back.outputCoordinates
    assert found.getMicrographs().getFileName() == original.getFileName()
    assert found.getSize() == picked.outputCoordinates.getSize() == REAL_COUNT * len(POINTS)
    assert found.getBoxSize() == 34  # the even number nearest to 21 x 8 / 5
    for micrograph in [item.clone() for item in training.outputMicrographs.iterItems()]:
        seen = np.array(dark_points(micrograph.getFileName()))
        here = [item.clone() for item in found.iterCoordinates(micrograph)]
        positions = np.array([(item.getY(), item.getX()) for item in here])
        assert [item._score.get() for item in here] == pytest.approx([0, 0.1, 0.2, 0.3])
        # A pick is a whole pixel; what that loses is the picker's affair.
        lost = (np.rint(seen) - seen) * PIXEL_SIZE / REAL_PIXEL_SIZE
        # Half an original pixel for its own whole numbers, and a tenth for finding a point under the noise.
        assert np.abs(positions - lost - POINTS).max() < 0.5 + 0.1
        # So all in all they are right to half a working pixel, on average over the found_originals within a pixel.
        assert np.sqrt(np.mean((positions - POINTS) ** 2)) < 0.5 * PIXEL_SIZE / REAL_PIXEL_SIZE
        assert {item.getMicName() for item in here} == {original[micrograph.getObjId()].getMicName()}
    viewer = CryogemReturnViewer(project=project, protocol=back)
    [view] = viewer._getVisualizeDict()["displayCoordinates"]()
    view.savefig(tmp_path / "coordinates.png")
    view.close()
    assert (tmp_path / "coordinates.png").stat().st_size > 5000


def micrographs(folder, name, names, pixel_size, shape, exact=None):
    """A SetOfMicrographs with the names by id; ``exact`` pixel sizes (x, y) as train noise translator writes them."""
    output = SetOfMicrographs(filename=str(folder / f"{name}.sqlite"))
    output.setSamplingRate(pixel_size)
    path = folder / f"{name}.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.zeros(shape, np.float32))
    for number, mic_name in names.items():
        micrograph = Micrograph(location=str(path))
        micrograph.setObjId(number)
        micrograph.setMicName(mic_name)
        if exact:
            micrograph._cryogemPixelSizeX, micrograph._cryogemPixelSizeY = map(Float, exact)
        output.append(micrograph)
    output.write()
    return output


def coordinates(folder, on, positions):
    output = SetOfCoordinates(filename=str(folder / "coordinates.sqlite"))
    output.setMicrographs(on)
    for number, x, y in positions:
        coordinate = Coordinate(x=x, y=y)
        coordinate.setMicId(number)
        output.append(coordinate)
    output.write()
    return output


def test_each_axis_has_its_own_exact_scale(tmp_path):
    picked = micrographs(tmp_path, "picked", {1: "a.mrc"}, 5.0, (696, 979), exact=(5.001, 4.9974))
    originals = micrographs(tmp_path, "originals", {1: "a.mrc"}, 0.85, (4092, 5760))
    original = original_micrographs(coordinates(tmp_path, picked, [(1, 970, 690)]), originals)[1]
    assert (original.scale_x, original.scale_y) == pytest.approx((5.001 / 0.85, 4.9974 / 0.85))
    plain = micrographs(tmp_path, "plain", {1: "a.mrc"}, 5.0, (696, 979))
    (tmp_path / "coordinates.sqlite").unlink()
    original = original_micrographs(coordinates(tmp_path, plain, [(1, 970, 690)]), originals)[1]
    assert (original.scale_x, original.scale_y) == pytest.approx((5 / 0.85, 5 / 0.85))


def test_micrographs_of_one_name_are_told_by_their_ids(tmp_path):
    """As after joining two imports."""
    names = {1: "mic.mrc", 2: "mic.mrc", 3: "other.mrc"}
    picked = micrographs(tmp_path, "picked", names, 5.0, (50, 60))
    originals = micrographs(tmp_path, "originals", names, 2.5, (100, 120))
    found_originals = original_micrographs(coordinates(tmp_path, picked, [(2, 5, 5), (3, 6, 6)]), originals)
    assert {number: original.micrograph.getObjId() for number, original in found_originals.items()} == {2: 2, 3: 3}
    # A name that is unique matches whatever the id.
    moved = micrographs(tmp_path, "moved", {7: "mic.mrc", 9: "other.mrc"}, 2.5, (100, 120))
    (tmp_path / "coordinates.sqlite").unlink()
    found_originals = original_micrographs(coordinates(tmp_path, picked, [(3, 6, 6)]), moved)
    assert found_originals[3].micrograph.getObjId() == 9


@pytest.mark.parametrize(("on", "names", "shape", "pixel_size", "message"), [
    (1, {1: "b.mrc"}, (100, 120), 2.5, r"1 of 1 picked micrographs \(first: a\.mrc\) are not among the original ones"),
    (5, {1: "a.mrc"}, (100, 120), 2.5, r"\(first: id 5\) that are not in the set of coordinates\. "
     "Scipion's 'join sets' makes such sets; choose"),
    (1, {1: "a.mrc"}, (100, 120), 1.25, r"a\.mrc covers 2 of the width and 2 of the height of its "
     "original; choose the"),
    (1, {1: "a.mrc"}, (400, 120), 2.5, r"covers 1 of the width and 0\.25 of the height of its original"),
    (1, {2: "a.mrc", 3: "a.mrc"}, (100, 120), 2.5, "are not among the original ones"),
])
def test_originals_of_another_field_are_refused(tmp_path, on, names, shape, pixel_size, message):
    picked = micrographs(tmp_path, "picked", {1: "a.mrc"}, 5.0, (50, 60))
    originals = micrographs(tmp_path, "originals", names, pixel_size, shape)
    with pytest.raises(DataError, match=message):
        original_micrographs(coordinates(tmp_path, picked, [(on, 5, 5)]), originals)


def test_the_form_refuses_other_micrographs(project, training, simulation, picked):
    with pytest.raises(WorkflowError, match=r"return coordinates: 3 of 3 picked micrographs .*are not among the orig"):
        run(project, "ProtCryogemReturnCoordinates", inputCoordinates=(picked, "outputCoordinates"),
            inputMicrographs=(simulation, "outputMicrographs"))
    protocol = project.newProtocol(ProtCryogemReturnCoordinates)
    protocol.inputCoordinates.set(simulation.outputCoordinates)
    assert "were not picked on micrographs of train noise translator" in protocol.warnings()[0]


def ctfs(project, inputs, chosen):
    """A protocol with CTFs of some of the real micrographs."""
    protocol = project.newProtocol(ProtImportCoordinates)
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    output = protocol._createSetOfCTF()
    output.setMicrographs(Pointer(inputs["real"][0], extended="outputMicrographs"))
    for micrograph in chosen:
        ctf = CTFModel(defocusU=15000.0, defocusV=15000.0, defocusAngle=0.0)
        ctf.setMicrograph(micrograph)
        ctf.setObjId(micrograph.getObjId())
        output.append(ctf)
    protocol._defineOutputs(outputCTF=output)
    project.saveProtocol(protocol)
    return protocol


def test_picks_on_micrographs_without_a_ctf_are_left_out(project, inputs, picked):
    """Scipion's extraction with CTFs waits without end for those of all micrographs that have picks."""
    originals = [item.clone() for item in inputs["real"][0].outputMicrographs.iterItems()]
    given = {"inputCoordinates": (picked, "outputCoordinates"), "inputMicrographs": inputs["real"]}
    back = run(project, "ProtCryogemReturnCoordinates", **given,
               inputCtfs=(ctfs(project, inputs, originals[1:]), "outputCTF"))
    assert {item.getMicName() for item in back.outputCoordinates.iterItems()} == {
        original.getMicName() for original in originals[1:]}
    assert back.outputCoordinates.getSize() == (REAL_COUNT - 1) * len(POINTS)
    assert back.summary()[1] == f"{len(POINTS)} coordinates were left out, because their micrographs have no CTF."
    other = originals[0].clone()
    other.setMicName("other.mrc")
    with pytest.raises(WorkflowError, match="none of the picked micrographs has one"):
        run(project, "ProtCryogemReturnCoordinates", **given,
            inputCtfs=(ctfs(project, inputs, [other]), "outputCTF"))
