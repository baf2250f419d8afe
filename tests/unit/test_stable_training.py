# SPDX-License-Identifier: GPL-3.0-or-later
"""A training on a real micrograph, which starts with its measured noise, does not drift away from it."""
import csv
from pathlib import Path

import pytest

import cryogem_scipion
from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
from cryogem_scipion.engine.settings import PhantomSettings, SimulateSettings, TrainSettings, parse
from cryogem_scipion.engine.stages import phantom, simulate, train
from cryogem_scipion.engine.translator.state_choice import LARGEST_GROWTH
from cryogem_scipion.engine.translator.training import REALISM

KRIOS = Path(cryogem_scipion.__file__).parent / "data/krios_micrograph_3.4A.mrc"


@pytest.fixture(scope="module")
def quarters(tmp_path_factory):
    """The four quarters of the micrograph that the package contains, and a simulation with its pixel size."""
    folder = tmp_path_factory.mktemp("quarters")
    image, pixel_size = read_mrc(KRIOS, 2)
    for index in range(4):
        top, left = 460 * (index // 2), 476 * (index % 2)
        write_mrc(folder / f"quarter_{index}.mrc", image[top:top + 460, left:left + 476].copy(), pixel_size)
    phantom.run(PhantomSettings(out=folder / "map", box=48, pixel_size=pixel_size, diameter_angstrom=120))
    simulate.run(SimulateSettings(out=folder / "sim", volume=(folder / "map/phantom.mrc",), pixel_size=pixel_size,
                                  micrographs=4, micrograph_size=(448, 448), particles_mean=12, particles_sigma=2,
                                  particle_distance=130.0))
    return folder


@pytest.mark.slow
def test_no_state_of_a_training_is_much_farther_than_its_start(quarters, tmp_path):
    train.run(parse(TrainSettings, {
        "real": [str(quarters / "quarter_*.mrc")], "simulation": quarters / "sim", "out": tmp_path / "run",
        "seed": 1, "steps": 300, "crop": 64, "judge_every": 100, "patience": 0, "preview_every": 1000,
        "checkpoint_every": 1000, "generator_width": 16, "discriminator_width": 16, "precision": "float32",
        "averaging": 0.98}))
    distances = [float(row["realism"]) for row in csv.DictReader((tmp_path / "run" / REALISM).open())]
    assert len(distances) == 4
    assert max(distances) <= LARGEST_GROWTH * distances[0]
