# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulations, models and data sets that version 0.1.0 made can still be used.

tests/data/version_0.1.0 was made by version 0.1.0, before the engine became a subpackage: ``cryogem phantom``,
``simulate``, ``train`` (2 steps) and ``generate --extract``, all with seed 0.
"""
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryogem_scipion.engine.settings import ExportSettings, GenerateSettings, SimulateSettings, parse
from cryogem_scipion.engine.stages import export, generate, simulate
from tests.unit.test_reproducible_outputs import CLOSE

OLD = Path(__file__).parents[1] / "data/version_0.1.0"


@pytest.fixture
def old(tmp_path):
    """A copy of the old folders: a run may not write into the tests' own."""
    shutil.copytree(OLD, tmp_path / "old")
    return tmp_path / "old"


def assert_same_image(new, old):
    """Equal but for the last bits, in which processors differ."""
    new, old = (mrcfile.read(path).astype(np.float64) for path in (new, old))
    assert new.shape == old.shape
    assert np.abs(new - old).max() < CLOSE * old.std()


def test_an_old_model_and_an_old_simulation_give_the_same_data_set(old, tmp_path):
    out = tmp_path / "generated"
    generate.run(parse(GenerateSettings, {"model": old / "run/model.safetensors", "simulation": old / "simulation",
                                          "micrographs": 1, "extract": True, "precision": "float32", "out": out}))
    for table in ("micrographs.star", "particles.star", "extracted.star"):
        assert (out / table).read_text() == (old / "generated" / table).read_text()
    for image in ("micrographs/mic_000000.mrc", "particles/mic_000000.mrcs"):
        assert_same_image(out / image, old / "generated" / image)


def test_an_old_map_is_simulated_as_before(old, tmp_path):
    out, volume = tmp_path / "simulation", tmp_path / "phantom.mrc"
    shutil.copy(old / "simulation/source/00_phantom.mrc", volume)
    simulate.run(parse(SimulateSettings, {
        "volume": (volume,), "pixel_size": 8.0, "micrographs": 1,
        "micrograph_size": (128, 144), "particles_mean": 4, "particles_sigma": 0, "out": out}))
    for table in ("micrographs.star", "particles.star"):
        assert (out / table).read_text() == (old / "simulation" / table).read_text()
    # Since then the contrast is measured on more particles, so the signal has another factor.
    signals = [1 - mrcfile.read(folder / "micrographs/mic_000000.mrc").astype(np.float64)
               for folder in (out, old / "simulation")]
    factor = (signals[0] * signals[1]).sum() / (signals[1] ** 2).sum()
    assert 0.5 < factor < 2
    assert np.abs(signals[0] - factor * signals[1]).max() < CLOSE * signals[0].std()


def test_an_old_data_set_is_exported(old, tmp_path):
    export.run(parse(ExportSettings, {"dataset": old / "generated", "to": "relion", "out": tmp_path / "relion"}))
    stack = mrcfile.read(next((tmp_path / "relion").rglob("*.mrcs")))
    assert np.array_equal(stack, mrcfile.read(old / "generated/particles/mic_000000.mrcs"))
