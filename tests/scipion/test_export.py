# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol export dataset: a Scipion set, or a subset, for other programs."""
import os
from pathlib import Path

import matplotlib
import numpy as np
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pwem.objects import SetOfMicrographs, SetOfParticles

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import EXTRACTED, MICROGRAPHS, read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_stack
from cryogem_scipion.protocols.inputs import dataset_folder, write_micrograph_subset, write_particle_subset
from cryogem_scipion.workflow import WorkflowError, run
from tests.scipion.conftest import MICROGRAPH_COUNT

DATA_SET = "generated or simulated particle", "dataset", "generate dataset"


def part(kind, whole, wanted, path):
    """A subset, like that of Scipion's subset protocols."""
    result = kind(filename=str(path))
    result.copyInfo(whole)
    for item in [item.clone() for item in whole.iterItems()]:
        if item.getObjId() in wanted:
            result.append(item)
    result.write()
    return result


def test_parts_of_sets_find_their_rows(simulation, tmp_path):
    folder = dataset_folder(simulation.outputParticles, *DATA_SET)
    assert folder == Path(os.path.abspath(simulation.outFolder()))
    particles = part(SetOfParticles, simulation.outputParticles, {2, 5}, tmp_path / "particles.sqlite")
    assert dataset_folder(particles, *DATA_SET) == folder
    assert write_particle_subset(particles, folder, tmp_path / "some.star")
    _, every = read_table(folder / EXTRACTED, "particles")
    _, some = read_table(tmp_path / "some.star", "particles")
    assert list(some["rlnImageName"]) == list(every["rlnImageName"].iloc[[1, 4]])
    assert not write_particle_subset(simulation.outputParticles, folder, tmp_path / "some.star")
    assert not (tmp_path / "some.star").exists()  # the whole
    micrographs = part(SetOfMicrographs, simulation.outputMicrographs, {3}, tmp_path / "micrographs.sqlite")
    assert write_micrograph_subset(micrographs, folder, tmp_path / "one.star")
    _, one = read_table(tmp_path / "one.star", "micrographs")
    assert list(one["rlnMicrographName"]) == [read_table(folder / MICROGRAPHS, "micrographs")[1]
                                              ["rlnMicrographName"].iloc[2]]


def test_joined_and_foreign_sets_are_refused(simulation, inputs, tmp_path):
    joined = part(SetOfParticles, simulation.outputParticles, {1}, tmp_path / "joined.sqlite")
    other = simulation.outputParticles.getFirstItem().clone()
    other.setObjId(99)
    other._cryogemManifest.set("Runs/another/manifest.json")
    joined.append(other)
    joined.write()
    with pytest.raises(DataError, match="come from 2 datasets"):
        dataset_folder(joined, *DATA_SET)
    moved = part(SetOfParticles, simulation.outputParticles, set(), tmp_path / "moved.sqlite")
    with pytest.raises(DataError, match="is empty"):
        dataset_folder(moved, *DATA_SET)
    copy = simulation.outputParticles.getFirstItem().clone()
    copy.setLocation(1, "elsewhere/particles.mrcs")
    moved.append(copy)
    with pytest.raises(DataError, match=r"has no row for .*elsewhere/particles\.mrcs; choose the particles themselves"):
        write_particle_subset(moved, dataset_folder(moved, *DATA_SET), tmp_path / "none.star")
    with pytest.raises(DataError, match=r"real_0\.mrc is not a generated or simulated micrograph"):
        dataset_folder(inputs["real"][0].outputMicrographs, DATA_SET[0].replace("particle", "micrograph"),
                       *DATA_SET[1:])


@pytest.mark.slow
def test_the_box_writes_an_export_and_says_what_is_next(project, simulation, tmp_path):
    folder = tmp_path / "für topaz"
    # A box size and shifts of an earlier choice, which the form no longer shows, are ignored.
    protocol = run(project, "ProtCryogemExport", inputSet=(simulation, "outputMicrographs"), to="topaz", randomShift=3,
              extract=False, exportFolder=folder, numberOfThreads=1)
    assert read_manifest(folder).micrographs == MICROGRAPH_COUNT
    text = "\n".join(protocol.summary())
    assert f"{MICROGRAPH_COUNT} micrographs with" in text
    assert "exported to Topaz" in text
    assert f"topaz train --train-images '{folder}/images.txt'" in text
    matplotlib.use("Agg")
    viewer = project.getDomain().findViewers(protocol, "tkinter")[0](project=project, protocol=protocol)
    (view,) = viewer._visualize(protocol)
    view.savefig(tmp_path / "view.png")
    view.close()


@pytest.mark.slow
def test_a_subset_of_particles_becomes_an_export(project, simulation, tmp_path):
    subset = run(project, "ProtSubSet", "particles", inputFullSet=(simulation, "outputParticles"), selectIds=True,
                 range="2-4")
    protocol = run(project, "ProtCryogemExport", inputSet=(subset, "outputParticles"), to="cryodrgn", randomShift=2,
              boxSize=20, binning=4)
    stack = read_stack(protocol.outFolder() / "particles.mrcs")
    assert stack.shape == (3, 20, 20)
    assert np.isfinite(stack).all()
    viewer = project.getDomain().findViewers(protocol, "tkinter")[0](project=project, protocol=protocol)
    (view,) = viewer._visualize(protocol)
    view.savefig(tmp_path / "view.png")
    view.close()


@pytest.mark.slow
def test_copies_with_paths_of_a_relion_project(project, simulation, tmp_path):
    relion = tmp_path / "mon projet"
    relion.mkdir()
    protocol = run(project, "ProtCryogemExport", inputSet=(simulation, "outputMicrographs"), to="relion", files="copy",
              relativeTo=relion, exportFolder=relion / "Import/é")
    _, rows = read_table(relion / "Import/é/particles.star", "particles")
    assert len(rows) == simulation.outputParticles.getSize()
    stacks = {relion / name.partition("@")[2] for name in rows["rlnImageName"]}
    images = stacks | {relion / name for name in rows["rlnMicrographName"]}
    assert all(path.is_file() and not path.is_symlink() for path in images)
    assert "relion_reconstruct --i Import/é/particles.star --o map.mrc --ctf" in "\n".join(protocol.summary())


def test_wrong_inputs_are_refused_before_anything_runs(project, inputs, simulation):
    with pytest.raises(WorkflowError, match=r"real_0\.mrc is not a generated or simulated micrograph"):
        run(project, "ProtCryogemExport", inputSet=inputs["real"])
    with pytest.raises(WorkflowError, match="even box sizes only; give box_size 22"):
        run(project, "ProtCryogemExport", inputSet=(simulation, "outputParticles"), to="cryodrgn", boxSize=21)
