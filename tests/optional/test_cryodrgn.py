# SPDX-License-Identifier: GPL-3.0-or-later
"""cryoDRGN trains on generated particles, and its conformations are simulated again.

The training takes seconds: 240 particles of 32 pixels, five epochs, networks of 64 units. This is too little to
separate the two conformations, but enough to recognise the particle and its hand.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cryogem_scipion.engine.io.dataset import read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
from cryogem_scipion.engine.simulation.conformations import CRYODRGN_ENV_ACTIVATION
from tests.optional.environments import Program

cryodrgn = Program("cryodrgn")
pytestmark = cryodrgn.marks

BOX = 32
PIXEL_SIZE = 5.0
CONFORMATIONS = 5
NETWORK = "--zdim 1 --enc-dim 64 --enc-layers 1 --dec-dim 64 --dec-layers 2".split()
TRAINING = "--num-epochs 5 --batch-size 8 --lr 2e-3 --seed 1 --no-amp --no-analysis --num-workers 0".split()


def cryogem(folder, *arguments):
    environment = os.environ | {CRYODRGN_ENV_ACTIVATION: cryodrgn.activation}
    process = subprocess.run([sys.executable, "-m", "cryogem_scipion", *map(str, arguments)], cwd=folder,
                             env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stderr


def density(arm):
    """A body of three balls without symmetry, with an arm at one end."""
    z, y, x = (np.mgrid[:BOX, :BOX, :BOX] - BOX // 2) * PIXEL_SIZE
    return sum(weight * np.exp(-((z - c) ** 2 + (y - b) ** 2 + (x - a) ** 2) / (2 * width**2))
               for (a, b, c), width, weight in [((0, 0, 0), 14, 1.0), ((0, -15, 20), 9, 1.2), ((10, 20, -10), 9, 1.0),
                                                ((arm, 0, 0), 9, 1.5)]).astype(np.float32)


TRUTH = [density(38.0), density(-38.0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with particles of two conformations, and with a cryoDRGN training on them."""
    folder = tmp_path_factory.mktemp("cryodrgn run")
    for name, volume in zip(("a.mrc", "b.mrc"), TRUTH, strict=True):
        write_mrc(folder / name, volume, PIXEL_SIZE)
    cryogem(folder, "simulate", "--volume", "a.mrc", "b.mrc", "--micrographs", 5, "--micrograph-size", 512, 512,
            "--particles-mean", 48, "--particles-sigma", 0, "--border", "inside", "--box-size", BOX,
            "--particle-distance", 90, "--out", "sim")
    cryogem(folder, "generate", "--reuse", "--noise", "gaussian", "--snr", 2, "--simulation", "sim", "--extract",
            "--out", "gen")
    cryodrgn(folder, "parse_star", "gen/extracted.star", "--ctf", "ctf.pkl", "--poses", "poses.pkl")
    cryodrgn(folder, "train_vae", "gen/extracted.star", "--datadir", "gen", "--ctf", "ctf.pkl", "--poses", "poses.pkl",
             *NETWORK, *TRAINING, "-o", "vae")
    return folder


@pytest.fixture(scope="module")
def decoded(folder):
    """Folder of a simulation of these conformations, and the messages of that run."""
    messages = cryogem(folder, "simulate", "--cryodrgn-folder", "vae", "--cryodrgn-conformations", CONFORMATIONS,
                       "--micrographs", 2, "--micrograph-size", 512, 512, "--particles-mean", 30, "--out", "decoded")
    return folder / "decoded", messages


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def test_decoded_conformations_look_like_the_particle(decoded):
    out, messages = decoded
    assert "reading them can run code" in messages
    maps = [read_mrc(out / name, 3) for name in read_manifest(out).simulation["volume"]]
    assert len(maps) == CONFORMATIONS
    for volume, pixel_size in maps:
        assert pixel_size == pytest.approx(PIXEL_SIZE)  # from cryoDRGN's own CTF file
        # Measured 0.93; protein is bright. A wrong hand, sign or pose falls far below.
        right = max(correlation(volume, truth) for truth in TRUTH)
        assert right > 0.85
        for wrong in (np.roll(volume[::-1], 1, axis=0), volume.transpose(2, 1, 0), -volume):
            assert max(correlation(wrong, truth) for truth in TRUTH) < right - 0.1


def test_the_labels_give_the_conformation_of_each_particle(decoded):
    out, _ = decoded
    manifest = read_manifest(out)
    _, rows = read_table(out / "particles.star", "particles", ("rlnClassNumber", "cryogemSource"))
    names = [Path(name).name for name in manifest.simulation["volume"]]
    assert [names[number - 1] for number in rows["rlnClassNumber"]] == list(rows["cryogemSource"])
    assert rows["cryogemSource"].nunique() == CONFORMATIONS
    record = json.loads((out / manifest.sources[-1].path).read_text())
    assert len(set(map(tuple, record["latents"]))) == CONFORMATIONS
    assert 0 <= min(record["particles"]) <= max(record["particles"]) < 240


def test_the_dataset_folder_can_be_used_without_cryodrgn(decoded, tmp_path):
    out, _ = decoded
    process = subprocess.run([sys.executable, "-m", "cryogem_scipion", "generate", "--simulation", str(out), "--noise",
                             "gaussian", "--micrographs", "1", "--out", str(tmp_path / "gen")], capture_output=True,
                             text=True, env={**os.environ, CRYODRGN_ENV_ACTIVATION: "false"})
    assert process.returncode == 0, process.stderr
    assert read_manifest(tmp_path / "gen").particles > 0
