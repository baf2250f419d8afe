# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles that are made visible are found by matched filters, which are their own clean images."""
import numpy as np
import pytest
from scipy.stats import norm

from cryogem_scipion.engine.io.dataset import PARTICLES, read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.noise.visibility import needed_deviations
from cryogem_scipion.engine.settings import GenerateSettings, PhantomSettings, SimulateSettings
from cryogem_scipion.engine.stages import generate, phantom, simulate

EDGE, BOX, MICROGRAPHS = 384, 48, 12


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    """Few particles, far from each other, at one defocus."""
    folder = tmp_path_factory.mktemp("visible")
    phantom.run(PhantomSettings(out=folder / "map", box=48, pixel_size=5.0, diameter_angstrom=150))
    simulate.run(SimulateSettings(out=folder / "sim", volume=(folder / "map/phantom.mrc",), micrographs=MICROGRAPHS,
                                  micrograph_size=(EDGE, EDGE), particles_mean=12, particles_sigma=0, box_size=BOX,
                                  particle_distance=330, border="inside", defocus_min=15000, defocus_max=16000,
                                  snr=0.001))
    return folder / "sim"


def made(simulation, out, **changes):
    """The generated set, and by how many deviations each of its particles stands out of the noise."""
    generate.run(GenerateSettings(out=out, simulation=simulation, noise="gaussian", extract=False, keep=("optical",),
                                  visible_particles=True, **changes))
    results = []
    for name, rows in read_table(out / PARTICLES, "particles")[1].groupby("rlnMicrographName"):
        noisy = np.array(read_mrc(out / name, 2)[0], float)
        clean = np.array(read_mrc(out / name.replace("micrographs/", "optical/"), 2)[0], float) - 1
        noise = (noisy - noisy.mean()) - (clean - clean.mean())
        for x, y in rows[["rlnCoordinateX", "rlnCoordinateY"]].to_numpy():
            part = np.s_[int(y) - BOX // 2:int(y) + BOX // 2, int(x) - BOX // 2:int(x) + BOX // 2]
            template = clean[part] - clean[part].mean()
            results.append((noisy[part] * template).sum() / (noise.std() * np.sqrt((template**2).sum())))
    return read_manifest(out), np.array(results)


def test_hidden_particles_are_made_visible(simulation, tmp_path):
    manifest, found = made(simulation, tmp_path / "gen")
    assert manifest.contrast.snr == pytest.approx(manifest.figures["visible_snr"])
    assert manifest.contrast.snr > 0.001
    # 144 particles at most; views differ in strength, and the box cuts off some rings.
    assert found.mean() == pytest.approx(needed_deviations(EDGE**2), rel=0.1)
    assert 0.85 < (found > norm.isf(1 / EDGE**2)).mean() <= 1


def test_visible_particles_are_not_changed(simulation, tmp_path):
    manifest, found = made(simulation, tmp_path / "gen", snr=0.3, micrographs=2)
    assert manifest.contrast.snr == 0.3
    assert manifest.figures["visible_snr"] < 0.3
    assert found.min() > needed_deviations(EDGE**2)


def test_a_set_without_particles_needs_no_ratio(simulation, tmp_path):
    simulate.run(SimulateSettings(out=tmp_path / "sim", volume=(simulation.parent / "map/phantom.mrc",), micrographs=1,
                                  micrograph_size=(EDGE, EDGE), particles_mean=0, particles_sigma=0, snr=0.05))
    generate.run(GenerateSettings(out=tmp_path / "gen", simulation=tmp_path / "sim", noise="gaussian",
                                  visible_particles=True))
    assert read_manifest(tmp_path / "gen").figures["visible_snr"] == 0
