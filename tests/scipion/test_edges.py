# SPDX-License-Identifier: GPL-3.0-or-later
"""Unusual inputs of the protocols: file names with blanks and accents, a name twice, joined sets, empty sets."""
import os
import shutil

import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from cryogem_scipion.workflow import WorkflowError, open_project, run

SMALL = {"steps": 1, "crop": 64, "generatorWidth": 4, "discriminatorWidth": 4, "numberOfThreads": 1}
SIZE = {"micrographSize": "160 201", "pixelSize": 8.0, "numberOfThreads": 1}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here(scipion, project):
    """A project of its own, in a workspace with blanks and accents in its name."""
    before = os.getcwd()
    yield open_project(scipion / "dossier é, ñ", "Mon projet")
    project.load()
    os.chdir(before)


@pytest.fixture(scope="module")
def real(scipion, here):
    """Two micrographs of the same name from two folders, as one import, and as two joined imports."""
    folder = scipion / "réel, deux fois"
    for number, name in enumerate(("a b", "ç")):
        (folder / name).mkdir(parents=True)
        shutil.copy(scipion / f"real/real_{number}.mrc", folder / name / "mic é.mrc")
    one = run(here, "ProtImportMicrographs", "one", filesPath=folder, filesPattern="*/*.mrc", samplingRate=5.0)
    parts = [run(here, "ProtImportMicrographs", name, filesPath=folder / name, filesPattern="*.mrc", samplingRate=5.0)
             for name in ("a b", "ç")]
    union = joined(here, *[(part, "outputMicrographs") for part in parts])
    return {"one import": (one, "outputMicrographs"), "joined imports": (union, "outputSet"),
            "one micrograph": (parts[1], "outputMicrographs")}


def joined(project, *sets):
    from pwem.protocols import ProtUnionSet
    from pyworkflow.object import Pointer

    from cryogem_scipion.workflow import rerun
    protocol = project.newProtocol(ProtUnionSet, objLabel="joined")
    for source, name in sets:
        protocol.inputSets.append(Pointer(source, extended=name))
    return rerun(project, protocol)


@pytest.fixture(scope="module")
def protocols(scipion, here):
    """A simulation with particles, and a simulation of one micrograph without particles."""
    shutil.copy(scipion / "map.mrc", scipion / "carte é.mrc")
    volume = run(here, "ProtImportVolumes", filesPath=scipion / "carte é.mrc", samplingRate=6.0)
    settings = {"inputVolume": (volume, "outputVolume"), **SIZE}
    return {"full": run(here, "ProtCryogemSimulate", micrographs=2, particlesMean=6.0, particlesSigma=0.0, extract=True,
                        **settings),
            "empty": run(here, "ProtCryogemSimulate", micrographs=1, particlesMean=0.0, particlesSigma=0.0,
                         extract=True, **settings)}


@pytest.mark.parametrize("which", ["one import", "joined imports", "one micrograph"])
def test_real_micrographs_keep_ids_and_names(here, real, protocols, which):
    protocol, name = real[which]
    originals = getattr(protocol, name)
    trained = run(here, "ProtCryogemTrain", inputMicrographs=real[which],
                  inputSimulation=(protocols["full"], "outputMicrographs"), **SMALL)
    found = trained.outputMicrographs
    assert found.getSize() == originals.getSize() == (1 if which == "one micrograph" else 2)
    # In a joined set both have the same name, and only their ids differ.
    names = {item.getObjId(): item.getMicName() for item in originals.iterItems()}
    assert {item.getObjId(): item.getMicName() for item in found.iterItems()} == names
    files = {item.getObjId(): os.path.realpath(item.getFileName()) for item in originals.iterItems()}
    assert {item.getObjId(): os.path.realpath(item._cryogemOriginal.get()) for item in found.iterItems()} == files
    assert len({item.getFileName() for item in found.iterItems()}) == found.getSize()
    assert all(" " not in item.getFileName() for item in found.iterItems())


def test_micrographs_without_particles_go_through(here, protocols):
    assert protocols["empty"].outputMicrographs.getSize() == 1
    generated = run(here, "ProtCryogemGenerate", inputSimulation=(protocols["empty"], "outputMicrographs"),
                    noise="gaussian", numberOfThreads=1)
    for protocol in (protocols["empty"], generated):
        assert protocol.outputCTF.getSize() == 1
        assert not hasattr(protocol, "outputCoordinates")  # Scipion has no empty sets
        assert "0 particles" in " ".join(protocol.summary())


def test_joined_sets_work_or_are_refused(here, protocols):
    """Particles of two sets can be joined. Simulated micrographs of two runs cannot, because their settings differ."""
    generated = run(here, "ProtCryogemGenerate", inputSimulation=(protocols["full"], "outputMicrographs"),
                    noise="gaussian", seed=1, numberOfThreads=1)
    join = joined(here, (protocols["full"], "outputParticles"), (generated, "outputParticles"))
    union = join.outputSet
    assert union.getSize() == protocols["full"].outputParticles.getSize() + generated.outputParticles.getSize()
    assert union.hasAlignmentProj()
    assert len({item.getLocation() for item in union.iterItems()}) == union.getSize()
    with pytest.raises(WorkflowError, match=r"come from 2 datasets .* choose one dataset, or a subset of one"):
        run(here, "ProtCryogemExport", inputSet=(join, "outputSet"), to="relion")
    both = joined(here, (protocols["full"], "outputMicrographs"), (protocols["empty"], "outputMicrographs"))
    with pytest.raises(WorkflowError, match=r"come from 2 simulations .* choose one simulation, or a subset of one"):
        run(here, "ProtCryogemGenerate", inputSimulation=(both, "outputSet"), noise="gaussian")
    # Scipion's pickers and extraction tell micrographs apart by name.
    assert len({item.getMicName() for item in both.outputSet.iterItems()}) == both.outputSet.getSize() == 3
    doubled = joined(here, (generated, "outputMicrographs"), (generated, "outputMicrographs"))
    with pytest.raises(WorkflowError, match=r"holds generated micrographs, not simulated ones"):
        run(here, "ProtCryogemGenerate", inputSimulation=(doubled, "outputSet"), noise="gaussian")


def test_joined_coordinates_are_refused(here, protocols):
    """Scipion's 'join sets' puts the coordinates of the second set on micrographs of the first."""
    other = run(here, "ProtCryogemGenerate", inputSimulation=(protocols["full"], "outputMicrographs"), noise="gaussian",
                seed=2, extract=False, numberOfThreads=1)
    union = joined(here, (protocols["full"], "outputCoordinates"), (other, "outputCoordinates"))
    assert union.outputSet.getMicrographs().getSize() == 2
    refused = (r"some coordinates belong to micrographs \(first: id 1\) that are not in the set of coordinates\. "
               "Scipion's 'join sets' makes such sets")
    for picks, truth in (((union, "outputSet"), (other, "outputCoordinates")),
                         ((other, "outputCoordinates"), (union, "outputSet"))):
        with pytest.raises(WorkflowError, match=refused):
            run(here, "ProtCryogemEvaluatePicks", inputCoordinates=picks, inputTruth=truth)
    # Picks of one set are not matched with the truth of another set, although their files have the same names.
    with pytest.raises(WorkflowError, match=r"none of the 2 micrographs of the true coordinates .* was picked"):
        run(here, "ProtCryogemEvaluatePicks", inputCoordinates=(other, "outputCoordinates"),
            inputTruth=(protocols["full"], "outputCoordinates"))
