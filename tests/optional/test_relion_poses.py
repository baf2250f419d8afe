# SPDX-License-Identifier: GPL-3.0-or-later
"""Poses that RELION finds by a global search with the true map agree with the labels."""
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import starfile

from cryogem_scipion.__main__ import run
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.settings import PosesSettings

pytestmark = [pytest.mark.optional,
              pytest.mark.skipif(not shutil.which("relion_refine"), reason="RELION is not installed")]

BOX, PIXEL_SIZE = 32, 6.0


def density():
    """Five balls without symmetry."""
    z, y, x = (np.mgrid[:BOX, :BOX, :BOX] - BOX // 2) * PIXEL_SIZE
    return sum(weight * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * 9.0**2))
               for a, b, c, weight in [(0, 0, 0, 1.0), (38, 0, 10, 1.2), (-25, 30, 0, 1.0), (0, -30, 30, 1.5),
                                       (-10, 20, -40, 1.0)]).astype(np.float32)


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    """Folder with particles, and with the poses that RELION estimated without knowing the true ones."""
    folder = tmp_path_factory.mktemp("refined")
    write_mrc(folder / "map.mrc", density(), PIXEL_SIZE)

    def cryogem(*arguments):
        subprocess.run([sys.executable, "-m", "cryogem_scipion", *map(str, arguments)], cwd=folder, check=True,
                       capture_output=True)
    cryogem("simulate", "--volume", "map.mrc", "--micrographs", 2, "--micrograph-size", 360, 360, "--particles-mean",
            30, "--particles-sigma", 0, "--border", "inside", "--box-size", BOX, "--particle-distance", 190,
            "--out", "sim")
    cryogem("generate", "--noise", "gaussian", "--snr", 4, "--simulation", "sim", "--seed", 1, "--out", "gen")
    tables = starfile.read(folder / "gen/extracted.star")
    pose = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"]
    starfile.write(tables | {"particles": tables["particles"].drop(columns=pose)}, folder / "gen/unknown.star")
    # One pass over views 15° apart, with a finer search around the best ones, and shifts of up to three pixels.
    process = subprocess.run(
        ["relion_refine", "--i", "unknown.star", "--ref", "../map.mrc", "--o", "./found", "--iter", "1", "--ctf",
         "--firstiter_cc", "--healpix_order", "2", "--oversampling", "1", "--offset_range", "3", "--offset_step", "2",
         "--particle_diameter", "170", "--tau2_fudge", "4", "--K", "1", "--sym", "C1", "--pad", "1", "--norm",
         "--scale", "--dont_combine_weights_via_disc", "--random_seed", "1", "--j", "1"],
        cwd=folder / "gen", capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return folder


@pytest.mark.parametrize("alignment", ["none", "full"])
def test_relion_finds_the_labels(refined, alignment):
    run("poses", PosesSettings(particles=refined / "gen/found_it001_data.star", truth=refined / "gen/particles.star",
                               alignment=alignment, out=refined / alignment))
    scores = json.loads((refined / alignment / "poses.json").read_text())
    assert scores["paired_by"] == "coordinates"
    assert scores["unknown_particles"] == 0
    assert not scores["map"]["mirrored"]
    # RELION's finest grid is 7.5°, and the images are noisy: measured 7°. A wrong convention gives far larger errors.
    assert scores["angular_error_degrees"]["median"] < 10
    assert scores["shift_error_angstrom"]["median"] < PIXEL_SIZE
    assert scores["defocus_error_angstrom"]["median"] < 0.01
    assert scores["map"]["turn_degrees"] < 5
