# SPDX-License-Identifier: GPL-3.0-or-later
"""RELION's protocols on our sets: they extract particles, read our tables, and reconstruct the map."""
import shutil

import mrcfile
import numpy as np
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pyworkflow.object import Pointer
from scipy import ndimage

from cryogem_scipion.engine.io.dataset import EXTRACTED
from cryogem_scipion.engine.settings import PhantomSettings
from cryogem_scipion.workflow import rerun, run
from tests.fsc import shell_correlation
from tests.scipion.conftest import PIXEL_SIZE as WORKING_PIXEL_SIZE
from tests.scipion.conftest import POINT_WIDTH, POINTS, REAL_COUNT, REAL_PIXEL_SIZE
from tests.scipion.test_return import centre, dark_points, picks

pytestmark = [pytest.mark.optional,
              pytest.mark.skipif(not shutil.which("relion_reconstruct"), reason="RELION is not installed")]
pytest.importorskip("relion", reason="scipion-em-relion is not installed (pip install '.[optional]')")

BOX, PIXEL_SIZE = 40, 6.0
# Shells down to 34 Å, to which 180 noisy particles resolve the map: measured 0.946 and more.
GOOD = slice(1, 8)


@pytest.fixture(scope="module")
def density(scipion):
    from cryogem_scipion.engine.stages import phantom
    phantom.run(PhantomSettings(out=scipion / "phantom", box=BOX, pixel_size=PIXEL_SIZE, diameter_angstrom=150))
    return np.array(mrcfile.read(scipion / "phantom/phantom.mrc"))


@pytest.fixture(scope="module")
def generated(scipion, project, density):
    """About 180 whole particles at a signal-to-noise ratio of 0.5."""
    volume = run(project, "ProtImportVolumes", "phantom", filesPath=scipion / "phantom/phantom.mrc",
                 samplingRate=PIXEL_SIZE)
    simulated = run(project, "ProtCryogemSimulate", inputVolume=(volume, "outputVolume"), micrographs=8,
                    micrographSize="400 420", particlesMean=28.0, particlesSigma=2.0, boxSize=BOX, numberOfThreads=2,
                    astigmatismAngstrom=1500.0)
    return generate(project, simulated, seed=0)


def generate(project, simulated, seed):
    return run(project, "ProtCryogemGenerate", inputSimulation=(simulated, "outputMicrographs"), noise="gaussian",
               snr=0.5, seed=seed, numberOfThreads=2)


def reconstruction(project, protocol, name="outputParticles"):
    reconstruction = run(project, "ProtRelionReconstruct", inputParticles=(protocol, name), doCTF=True)
    return np.array(mrcfile.read(reconstruction.outputVolume.getFileName().removesuffix(":mrc")))


def images(particles):
    """Particles of a set, by position on the micrographs."""
    found = {}
    for particle in particles.iterItems():
        index, name = particle.getLocation()
        stack = np.atleast_3d(mrcfile.read(name)).reshape(-1, BOX, BOX)
        coordinate = particle.getCoordinate()
        found[(coordinate.getMicId(), *coordinate.getPosition())] = stack[index - 1].astype(float)
    return found


def test_the_map_comes_back(project, generated, density):
    found = reconstruction(project, generated)
    assert shell_correlation(found, density)[GOOD].min() > 0.9
    mirrored = np.roll(density[:, :, ::-1], 1, axis=2)
    assert shell_correlation(found, mirrored)[GOOD].min() < 0.5


def test_joined_sets_reconstruct_as_one(project, generated, density):
    """Two datasets of one simulation have stacks and micrographs with the same names in different folders."""
    other = generate(project, generated.inputSimulation.getObjValue(), seed=5)
    join = project.newProtocol(project.getDomain().getProtocols()["ProtUnionSet"])
    for protocol in (generated, other):
        join.inputSets.append(Pointer(protocol, extended="outputParticles"))
    join = rerun(project, join)
    union = join.outputSet
    assert union.getSize() == generated.outputParticles.getSize() + other.outputParticles.getSize()
    micrographs = {particle.getCoordinate().getMicName() for particle in union.iterItems()}
    assert len(micrographs) == 16  # RELION's groups
    single = [shell_correlation(reconstruction(project, one), density) for one in (generated, other)]
    both = shell_correlation(reconstruction(project, join, "outputSet"), density)
    assert both[GOOD].min() > 0.9
    # Twice the particles make a better map at higher resolution: measured 0.77 against 0.64 and 0.65.
    fine = slice(GOOD.stop, GOOD.stop + 6)
    assert both[fine].mean() > max(one[fine].mean() for one in single) + 0.06


def test_relion_cuts_the_boxes_that_we_cut(project, generated):
    cut = run(project, "ProtRelionExtractParticles", inputCoordinates=(generated, "outputCoordinates"),
              ctfRelations=(generated, "outputCTF"), boxSize=BOX, doInvert=True, backDiameter=BOX, saveFloat16=False,
              numberOfMpi=1).outputParticles
    assert cut.getSize() == generated.outputParticles.getSize()
    assert cut.hasCTF()
    ours, theirs = images(generated.outputParticles), images(cut)
    assert ours.keys() == theirs.keys()
    for place, image in ours.items():
        # RELION's normalisation also removes a slope: measured 0.996 and more. One pixel off gives no correlation.
        assert np.corrcoef(image.ravel(), theirs[place].ravel())[0, 1] > 0.98
    ctfs = {ctf.getObjId(): ctf.getDefocus() for ctf in generated.outputCTF.iterItems()}
    for particle in cut.iterItems():
        assert particle.getCTF().getDefocus() == pytest.approx(ctfs[particle.getMicId()])


def test_our_table_is_imported_with_its_labels(project, generated, density):
    path = project.getPath(str(generated.outFolder() / EXTRACTED))
    imported = run(project, "ProtImportParticles", importFrom=3, starFile=path, samplingRate=PIXEL_SIZE, voltage=300.0,
                   sphericalAberration=2.7, amplitudeContrast=0.1)
    assert imported.outputParticles.getSize() == generated.outputParticles.getSize()
    assert imported.outputMicrographs.getSize() == generated.outputMicrographs.getSize()
    assert imported.outputParticles.hasAlignmentProj()
    assert shell_correlation(reconstruction(project, imported), density)[GOOD].min() > 0.9


def test_returned_picks_are_cut_from_the_original_micrographs(project, training, inputs):
    """Picks at 8 Å are returned and extracted by RELION at 5 Å: the particle is in the middle of its box."""
    picked = picks(project, training, dark_points)
    back = run(project, "ProtCryogemReturnCoordinates", inputCoordinates=(picked, "outputCoordinates"),
               inputMicrographs=inputs["real"])
    edge = 32
    cut = run(project, "ProtRelionExtractParticles", inputCoordinates=(back, "outputCoordinates"), boxSize=edge,
              doInvert=True, backDiameter=edge, saveFloat16=False, numberOfMpi=1).outputParticles
    assert cut.getSamplingRate() == REAL_PIXEL_SIZE
    offsets = []
    for particle in cut.iterItems():
        index, name = particle.getLocation()
        image = ndimage.gaussian_filter(mrcfile.read(name)[index - 1].astype(float), POINT_WIDTH)  # bright now
        offsets.append(np.subtract(centre(image, edge // 2, edge // 2), edge // 2))
    assert len(offsets) == REAL_COUNT * len(POINTS)
    # Half a pixel of the picker (8 Å), half a pixel of the original (5 Å), a tenth for locating a point in the noise.
    half = 0.5 * WORKING_PIXEL_SIZE / REAL_PIXEL_SIZE
    assert np.abs(offsets).max() < half + 0.5 + 0.1
    assert np.sqrt(np.mean(np.square(offsets))) < half  # measured 0.45 of 0.8
