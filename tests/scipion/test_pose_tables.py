# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of particles on their way to the pose estimator and back, without a run of the engine."""
import mrcfile
import numpy as np
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pwem.constants import ALIGN_NONE, ALIGN_PROJ
from pwem.objects import Acquisition, Coordinate, CTFModel, Particle, SetOfParticles, Transform
from pyworkflow.object import Float, Pointer

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import read_table, write_table
from cryogem_scipion.protocols.outputs import pose
from cryogem_scipion.protocols.particle_checks import contrast_warnings, particle_image_errors
from cryogem_scipion.protocols.particle_tables import (
    posed_particles,
    read_named_images,
    spread_image_names,
    write_particles,
)
from tests.scipion.conventions import relion_pose, rotation

PIXEL_SIZE, BOX = 2.5, 12


def particles(folder, count=5, ctf=True, poses=False, disabled=()):
    """Particles of a program that knows voltage, CTF and coordinates, in one stack; ids 11, 12, …"""
    folder.mkdir(exist_ok=True)
    stack = folder / "a stack.mrcs"
    with mrcfile.new(stack, overwrite=True) as file:
        file.set_data(np.random.default_rng(1).normal(0, 1, (count, BOX, BOX)).astype(np.float32))
    output = SetOfParticles(filename=str(folder / "particles.sqlite"))
    output.setSamplingRate(PIXEL_SIZE)
    output.setAcquisition(Acquisition(magnification=50000, voltage=200.0, sphericalAberration=1.4,
                                      amplitudeContrast=0.07))
    output.setHasCTF(ctf)
    output.setAlignment(ALIGN_PROJ if poses else ALIGN_NONE)
    for number in range(count):
        particle = Particle()
        particle.setObjId(11 + number)
        particle.setLocation(number + 1, str(stack))
        coordinate = Coordinate(x=100 + number, y=200)
        coordinate.setMicId(7)
        coordinate.setMicName("mic 7.mrc")
        particle.setCoordinate(coordinate)
        particle.setMicId(7)
        particle.setClassId(3)  # of a 2D classification
        particle._score = Float(number / 10)
        if ctf:
            model = CTFModel()
            model.setStandardDefocus(15000 + number, 14000, 35)
            particle.setCTF(model)
        if poses:
            row = {"rlnAngleRot": 10.0 * number, "rlnAngleTilt": 40.0, "rlnAnglePsi": -70.0,
                   "rlnOriginXAngst": 3.0, "rlnOriginYAngst": -1.5}
            particle.setTransform(Transform(pose(row, PIXEL_SIZE)))
        particle.setEnabled(number not in disabled)
        output.append(particle)
    output.write()
    return output


class Sets:
    """Stands for a protocol, as far as an output set needs it."""

    def __init__(self, folder):
        self.folder = folder

    def _createSetOfParticles(self):
        return SetOfParticles(filename=str(self.folder / "posed.sqlite"))


def test_the_engine_gets_images_ctfs_poses_and_ids(tmp_path):
    found = particles(tmp_path, poses=True, disabled=(1,))
    write_particles(found, tmp_path / "table.star", with_poses=True)
    optics, rows = read_table(tmp_path / "table.star", "particles")
    assert list(rows["rlnImageId"]) == [11, 13, 14, 15]  # the disabled one is left out
    assert optics.loc[0, ["rlnImagePixelSize", "rlnImageSize", "rlnVoltage", "rlnSphericalAberration",
                          "rlnAmplitudeContrast"]].to_list() == [PIXEL_SIZE, BOX, 200.0, 1.4, 0.07]
    assert rows["rlnDefocusU"].to_list() == [15000, 15002, 15003, 15004]
    assert rows["rlnAngleRot"].to_numpy() == pytest.approx([0, 20, 30, 40])
    assert rows[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy() == pytest.approx(np.array([[3.0, -1.5]] * 4))
    assert set(rows["rlnMicrographName"]) == {"000007/mic 7.mrc"}
    # The number of a 2D class is not that of a map.
    assert "rlnClassNumber" not in rows
    with mrcfile.open(tmp_path / "a stack.mrcs") as file:
        for image, number in zip(read_named_images(list(rows["rlnImageName"])), (0, 2, 3, 4), strict=True):
            assert (image == file.data[number]).all()
    write_particles(particles(tmp_path / "other", ctf=False), tmp_path / "table.star", with_poses=False)
    _, rows = read_table(tmp_path / "table.star", "particles")
    assert not {"rlnDefocusU", "rlnAngleRot"} & set(rows)


def test_phase_flipped_particles_are_said_to_be_so(tmp_path):
    flipped = particles(tmp_path)
    flipped.setIsPhaseFlipped(True)
    write_particles(flipped, tmp_path / "table.star", with_poses=False)
    assert read_table(tmp_path / "table.star", "particles")[0]["rlnCtfDataArePhaseFlipped"].to_list() == [1]


def test_different_microscopes_become_optics_groups(tmp_path):
    found = particles(tmp_path)
    other = SetOfParticles(filename=str(tmp_path / "two.sqlite"))
    other.copyInfo(found)
    for number, item in enumerate(found.iterItems()):
        acquisition = item.getAcquisition().clone()
        acquisition.setVoltage(300.0 if number == 3 else 200.0)
        item.setAcquisition(acquisition)
        other.append(item)
    write_particles(other, tmp_path / "table.star", with_poses=False)
    optics, rows = read_table(tmp_path / "table.star", "particles")
    assert optics["rlnVoltage"].to_list() == [200.0, 300.0]
    assert rows["rlnOpticsGroup"].to_list() == [1, 1, 1, 2, 1]


@pytest.fixture
def assigned(tmp_path):
    """Particles with other poses, and the engine's table for them, in another order and with its own numbers."""
    found = particles(tmp_path, poses=True, disabled=(1,))
    write_particles(found, tmp_path / "table.star", with_poses=False)
    optics, rows = read_table(tmp_path / "table.star", "particles")
    rows = rows.assign(rlnAngleRot=np.arange(4) * 25.0, rlnAngleTilt=100.0, rlnAnglePsi=15.0, rlnOriginXAngst=-4.0,
                       rlnOriginYAngst=5.0, rlnMaxValueProbDistribution=[0.1, 0.9, 0.5, 0.25], rlnClassNumber=2,
                       cryogemScore=[1.0, 2.0, 3.0, 4.0])
    write_table(tmp_path / "out.star", "particles", optics, rows.iloc[::-1])
    return found, tmp_path / "out.star"


@pytest.mark.parametrize("classes", [False, True])
def test_poses_come_back_to_the_same_particles(tmp_path, assigned, classes):
    found, table = assigned
    posed = posed_particles(Sets(tmp_path), Pointer(found), table, classes)
    assert posed.getAlignment() == ALIGN_PROJ
    assert posed.getSamplingRate() == PIXEL_SIZE
    assert posed.hasCTF()
    expected = {11: (0.0, 0.1), 13: (25.0, 0.9), 14: (50.0, 0.5), 15: (75.0, 0.25)}
    items = {item.getObjId(): item.clone() for item in posed.iterItems()}
    assert items.keys() == expected.keys()
    for number, (rot, confidence) in expected.items():
        item = items[number]
        angles, shifts = relion_pose(item.getTransform().getMatrix())
        assert rotation(*angles) == pytest.approx(rotation(rot, 100.0, 15.0), abs=1e-6)
        assert shifts * PIXEL_SIZE == pytest.approx([-4.0, 5.0])
        assert item._rlnMaxValueProbDistribution.get() == confidence
        assert item._cryogemScore.get() == list(expected).index(number) + 1
        assert item._score.get() == pytest.approx((number - 11) / 10)
        assert item.getCoordinate().getPosition() == (89 + number, 200)
        assert (item.getMicId(), item.getLocation()[0], item.getClassId()) == (7, number - 10, 2 if classes else 3)
        assert item.getCTF().getDefocusU() == 15000 + number - 11


def test_some_images_are_spread_over_the_set(tmp_path):
    found = particles(tmp_path, count=7)
    assert [name[:6] for name in spread_image_names(found, 3)] == ["000001", "000003", "000005"]
    assert len(spread_image_names(found, 100)) == 7


def test_what_does_not_fit_is_refused(tmp_path, assigned):
    found, table = assigned
    for item in list(found.iterItems(iterate=False)):
        item.setEnabled(True)
        found.update(item)
    with pytest.raises(DataError, match=r"out\.star has no row for particle 12; restart"):
        posed_particles(Sets(tmp_path), Pointer(found), table, False)
    with pytest.raises(DataError, match="have no projection angles; choose"):
        write_particles(particles(tmp_path / "other"), tmp_path / "table.star", with_poses=True)
    with pytest.raises(DataError, match="are empty; choose another set"):
        write_particles(particles(tmp_path / "few", count=2, disabled=(0, 1)), tmp_path / "t.star", with_poses=False)
    with pytest.raises(DataError, match="has 5 images, but image 9 is asked for"):
        read_named_images([f"000009@{tmp_path / 'a stack.mrcs'}"])


def test_images_that_cannot_be_read_are_named_before_the_run(tmp_path):
    found = particles(tmp_path)
    assert particle_image_errors("Particles", found) == []
    (tmp_path / "a stack.mrcs").write_bytes(b"0" * 2000)
    assert "*Particles*: " in particle_image_errors("Particles", found)[0]
    empty = SetOfParticles(filename=str(tmp_path / "empty.sqlite"))
    assert particle_image_errors("Particles", empty) == ["*Particles*: the set is empty; choose another."]
    item = found.getFirstItem().clone()
    item.setLocation(1, str(tmp_path / "particles.stk"))
    found.update(item)
    found.write()
    assert "particles.stk is not an MRC stack; convert" in particle_image_errors("Particles", found)[0]


@pytest.mark.parametrize("hollow", [False, True])
@pytest.mark.parametrize(("strength", "bright", "words"), [
    (0.5, True, None), (-0.5, True, "protein seems to be dark in these images, but the form says bright"),
    (-0.5, False, None), (0.5, False, "protein seems to be bright"), (0.0, True, None)])
def test_the_wrong_contrast_is_seen_in_noisy_images(tmp_path, strength, bright, words, hollow):
    """Particles with a fringe of the opposite contrast, and with such a middle where they are hollow."""
    found = particles(tmp_path, count=80)
    radius = np.hypot(*(np.mgrid[:BOX, :BOX] - BOX // 2))
    particle = 1.0 * (radius < 3) - 0.5 * ((radius >= 3) & (radius < 4.5))
    if hollow:
        particle[radius < 1] = -0.5
    noise = np.random.default_rng(8).normal(0, 1, (80, BOX, BOX))
    with mrcfile.open(tmp_path / "a stack.mrcs", mode="r+") as file:
        file.data[:] = noise + strength * particle
    warnings = contrast_warnings("Particles", found, bright)
    assert len(warnings) == (words is not None)
    assert words is None or words in warnings[0]
