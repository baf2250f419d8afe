# SPDX-License-Identifier: GPL-3.0-or-later
"""Exports read by the programs that they are for: each reconstructs the map, or learns to pick."""
import itertools
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import starfile

from cryogem_scipion.engine.io.mrc import read_mrc, read_stack
from tests.optional.environments import ROOT, Program
from tests.optional.test_relion import (
    BOX,
    CTFS,
    PIXEL_SIZE,
    SIMULATION,
    correlations,
    cryogem,
    relion,
    shell_correlation,
    up_to,
)

cryodrgn, topaz = Program("cryodrgn"), Program("topaz")
PLUGIN = Path(os.environ.get("CRYOSPARC2_PLUGIN") or ROOT / ".venv-cryosparc2")
pytestmark = pytest.mark.optional
with_relion = pytest.mark.skipif(not shutil.which("relion_reconstruct"), reason="RELION is not installed")


def with_program(program):
    return lambda test: [test := mark(test) for mark in program.marks][-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with a map and 320 particles of it: little noise, strong astigmatism, no neighbour inside a box."""
    folder = tmp_path_factory.mktemp("export")
    cryogem(folder, "phantom", "--out", "p", "--box", BOX, "--pixel-size", PIXEL_SIZE, "--diameter-angstrom", 140)
    starfile.write({"optics": CTFS.iloc[:1, :0].assign(rlnOpticsGroup=1), "micrographs": CTFS}, folder / "ctfs.star")
    cryogem(folder, "simulate", "--volume", "p/phantom.mrc", *SIMULATION, "--out", "sim")
    cryogem(folder, "generate", "--reuse", "--noise", "gaussian", "--snr", 50, "--simulation", "sim", "--out", "gen")
    return folder


@pytest.fixture(scope="module")
def density(folder):
    return read_mrc(folder / "p/phantom.mrc", 3)[0]


def agreement(volume, density):
    """Lowest Fourier shell correlation of a volume with the true map, up to 0.4 of Nyquist."""
    return shell_correlation(volume, density)[up_to(0.4)].min()


def reconstructed(where, star):
    """The map that RELION, started in the folder ``where``, reconstructs from a STAR file."""
    relion(where, "reconstruct", "--i", star, "--o", "map.mrc", "--ctf")
    return read_mrc(where / "map.mrc", 3)[0]


@pytest.fixture
def elsewhere(tmp_path):
    """A working folder outside the export."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


@with_relion
def test_relion_reads_absolute_paths_from_anywhere(folder, density, elsewhere):
    cryogem(folder, "export", "--dataset", "gen", "--to", "relion", "--out", "relion")
    stars = folder / "relion/micrographs.star", folder / "relion/particles.star"
    assert agreement(reconstructed(elsewhere, stars[1]), density) > 0.95  # measured 0.992
    relion(elsewhere, "preprocess", "--i", stars[0], "--reextract_data_star", stars[1], "--part_dir", "Extract/",
           "--part_star", "Extract/particles.star", "--extract", "--extract_size", BOX, "--norm", "--bg_radius",
           BOX // 2, "--invert_contrast")
    cut = starfile.read(elsewhere / "Extract/particles.star")["particles"]["rlnImageName"]
    own = starfile.read(stars[1])["particles"]["rlnImageName"]
    # RELION also subtracts a ramp; measured 0.9998.
    assert correlations(images(elsewhere, cut), images(elsewhere, own)).min() > 0.999
    assert agreement(reconstructed(elsewhere, "Extract/particles.star"), density) > 0.95


def images(where, names):
    return np.stack([read_stack(where / path)[int(number) - 1]
                     for number, _, path in (name.partition("@") for name in names)])


@with_relion
def test_relion_project_with_shifted_boxes_of_another_size(folder, density):
    project = folder / "a project"
    project.mkdir()
    cryogem(folder, "export", "--dataset", "gen", "--to", "relion", "--out", project / "Import/été", "--relative-to",
            project, "--box-size", BOX - 8, "--random-shift", 5, "--files", "copy")
    edge = slice(4, -4)
    star = "Import/été/particles.star"
    assert agreement_of_size(reconstructed(project, star), density[edge, edge, edge]) > 0.95
    tables = starfile.read(project / star)
    rows = tables["particles"]
    for name in ("rlnOriginXAngst", "rlnOriginYAngst"):
        assert rows[name].abs().max() > 3 * PIXEL_SIZE
        rows[name] = 0.0
    starfile.write(tables, project / "centred.star")
    assert agreement_of_size(reconstructed(project, "centred.star"), density[edge, edge, edge]) < 0.8


def agreement_of_size(volume, density):
    """As ``agreement``, for a smaller box; both maps are padded to the common box."""
    before = (BOX - len(volume)) // 2
    return agreement(np.pad(volume, before), np.pad(density, before))


@with_relion
def test_stacks_for_cryosparc_reconstruct_the_map(folder, density):
    cryogem(folder, "export", "--dataset", "gen", "--to", "cryosparc", "--out", "for cryosparc")
    assert agreement(reconstructed(folder / "for cryosparc", "particles.star"), density) > 0.95


@with_relion
@pytest.mark.skipif(not (PLUGIN / "cryosparc2").is_dir(), reason="scipion-em-cryosparc2 is not in CRYOSPARC2_PLUGIN or "
                    ".venv-cryosparc2 (.ci/cryosparc2-plugin.sh puts it there)")
def test_particles_written_by_scipions_cryosparc_plugin_reconstruct_the_map(folder, density, elsewhere):
    """The particles that the plugin writes for cryoSPARC reconstruct as well as those of our own STAR file."""
    pytest.importorskip("pwem", reason="Scipion's packages are not installed")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(PLUGIN)]), "SCIPION_DOMAIN": "pwem",
                                "SCIPION_HOME": str(elsewhere), "SCIPION_USER_DATA": str(elsewhere)}
    process = subprocess.run([sys.executable, "-c", WRITE_PARTICLES, str(folder / "gen")], cwd=elsewhere,
                             env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    plugin_agreement = agreement(reconstructed(elsewhere, "particles.star"), density)
    relion(folder / "gen", "reconstruct", "--i", "extracted.star", "--o", elsewhere / "own.mrc", "--ctf")
    assert plugin_agreement == pytest.approx(agreement(read_mrc(elsewhere / "own.mrc", 3)[0], density), abs=0.002)
    assert plugin_agreement > 0.95  # measured 0.992


WRITE_PARTICLES = """
import os, sys
from pathlib import Path
from cryosparc2.convert import writeSetOfParticles
from cryogem_scipion.engine.io.dataset import read_manifest
from cryogem_scipion.protocols import ProtCryogemGenerate
from cryogem_scipion.protocols.outputs import micrographs_output, particles_output

folder, box = Path(sys.argv[1]), ProtCryogemGenerate(workingDir="box")
os.makedirs("box")
os.makedirs("extra")
manifest = read_manifest(folder)
particles = particles_output(box, folder, manifest, micrographs_output(box, folder, manifest))
writeSetOfParticles(particles, "particles.star", "extra")
"""


@with_program(cryodrgn)
def test_cryodrgn_reads_stack_and_cs_file(folder, density):
    """cryoDRGN's parsers of STAR and .cs files give the values in our files; its back-projection gives the map."""
    cryogem(folder, "export", "--dataset", "gen", "--to", "cryodrgn", "--random-shift", 4, "--out", "cryodrgn")
    out = folder / "cryodrgn"
    cryodrgn(out, "backproject_voxel", "particles.mrcs", "--ctf", "ctf.pkl", "--poses", "pose.pkl", "-o", "back",
             "--no-half-maps")
    reconstruction, _ = read_mrc(out / "back/backproject.mrc", 3)
    assert agreement(reconstruction, density) > 0.95  # measured 0.982
    cryodrgn(out, "parse_star", "particles.star", "--ctf", "star_ctf.pkl", "--poses", "star_pose.pkl")
    assert_same_pickles(out, "star_")
    # The same particles as a .cs file, shifted in the same way.
    cryogem(folder, "export", "--dataset", "gen", "--to", "cryosparc", "--random-shift", 4, "--out", "shifted")
    cryodrgn(folder / "shifted", "parse_ctf_csparc", "particles.cs", "-o", out / "cs_ctf.pkl")
    cryodrgn(folder / "shifted", "parse_pose_csparc", "particles.cs", "-o", out / "cs_pose.pkl")
    assert_same_pickles(out, "cs_")


@with_program(cryodrgn)
def test_cryodrgn_trains_on_the_export(folder, density):
    """The command in README.txt works; after one epoch the decoder shows the particle, and not its mirror image."""
    cryogem(folder, "export", "--dataset", "gen", "--to", "cryodrgn", "--out", "vae data")
    out = folder / "vae data"
    line = next(line for line in (out / "README.txt").read_text("utf-8").splitlines() if "train_vae" in line).split()
    assert line[0] == "cryodrgn"
    shorter = {"--zdim": 1, "-n": 1, "-o": "vae"}
    arguments = [shorter.get(before, word) for before, word in itertools.pairwise(line)]
    cryodrgn(out, *arguments, "--enc-dim", 64, "--enc-layers", 1, "--dec-dim", 64, "--dec-layers", 2, "--batch-size", 8,
             "--lr", 2e-3, "--seed", 1, "--no-amp", "--no-analysis")
    cryodrgn(out, "eval_vol", "vae/weights.pkl", "-c", "vae/config.yaml", "-z", 0, "-o", "map.mrc")
    decoded, _ = read_mrc(out / "map.mrc", 3)
    right, *wrong = (np.corrcoef(volume.ravel(), density.ravel())[0, 1] for volume in
                     (decoded, np.roll(decoded[:, :, ::-1], 1, axis=2), decoded.transpose(2, 1, 0), -decoded))
    assert right > 0.5  # measured 0.63, and 0.91 after three epochs
    assert max(wrong) < right - 0.1  # measured 0.45


def assert_same_pickles(folder, theirs):
    """Labels within 1e-4: box, Å, degrees; rotations; shifts in pixels."""
    ours, other = ([pickle.loads((folder / f"{before}{name}.pkl").read_bytes()) for name in ("ctf", "pose")]
                   for before in ("", theirs))
    np.testing.assert_allclose(other[0], ours[0], rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(other[1][0], ours[1][0], atol=1e-4)
    np.testing.assert_allclose(other[1][1] * BOX, ours[1][1] * BOX, atol=1e-4)


@with_program(topaz)
def test_topaz_trains_on_the_exported_tables(folder):
    cryogem(folder, "export", "--dataset", "gen", "--to", "topaz", "--binning", 4, "--out", "for topaz")
    out = folder / "for topaz"
    line = next(line for line in (out / "README.txt").read_text("utf-8").splitlines() if "topaz train" in line)
    lists = re.findall(r"'([^']+\.txt)'", line)
    expected = re.search(r"-n (\d+)", line)[1]
    topaz(out, "train", "--train-images", lists[0], "--train-targets", lists[1], "-n", expected, "--test-images",
          lists[0], "--test-targets", lists[1], "--num-epochs", 2, "--epoch-size", 50, "--num-workers", 0, "--device",
          -1, "-m", "conv31", "--units", 16, "--save-prefix", "model", "-o", "log.txt",
          TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    assert (out / "model_epoch2.sav").is_file()
    last = (out / "log.txt").read_text().splitlines()[-1].split("\t")
    # Area under the precision-recall curve of pixels, measured 0.96; guessing gives the share of positives, 0.04.
    assert float(last[-1]) > 0.8
