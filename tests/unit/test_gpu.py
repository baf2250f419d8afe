# SPDX-License-Identifier: GPL-3.0-or-later
"""Training and generation on a GPU give the same results as on a CPU."""
import csv

import numpy as np
import pytest
import torch

from cryogem_scipion import __main__ as command_line
from cryogem_scipion.engine.errors import CryogemError
from cryogem_scipion.engine.io.dataset import read_manifest
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.settings import GenerateSettings, TrainSettings, parse
from cryogem_scipion.engine.stages import generate, train
from tests.unit.conftest import killed_after_three_steps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def train_settings(world, out, **changes):
    return parse(TrainSettings, {
        "real": [str(world / "real/*.mrc")], "simulation": world / "sim", "out": out, "steps": 4, "crop": 64,
        "generator_width": 8, "discriminator_width": 8, "preview_every": 2, "checkpoint_every": 2, "device": "cuda",
        **changes})


def trained(world, out, **changes):
    """Train, and return the rows of losses.csv."""
    train.run(train_settings(world, out, **changes))
    with (out / "losses.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("generator", ["residual", "published"])
def test_the_first_step_has_the_same_losses_on_gpu_and_cpu(world, tmp_path, generator):
    on_gpu = trained(world, tmp_path / "gpu", generator=generator, steps=1)[0]
    on_cpu = trained(world, tmp_path / "cpu", generator=generator, steps=1, device="cpu")[0]
    for name in ("adversarial", "contrastive", "discriminator", "contrast_drift"):
        assert float(on_gpu[name]) == pytest.approx(float(on_cpu[name]), rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("generator", ["residual", "published"])
def test_a_model_generates_the_same_micrographs_on_gpu_and_cpu(world, tmp_path, generator):
    trained(world, tmp_path / "run", generator=generator)
    for device in ("cuda", "cpu"):
        generate.run(parse(GenerateSettings, {
            "simulation": world / "sim", "out": tmp_path / device, "micrographs": 2, "device": device,
            "model": tmp_path / "run/model.safetensors"}))
    for path in sorted((tmp_path / "cpu/micrographs").iterdir()):
        expected, image = read_mrc(path, 2)[0], read_mrc(tmp_path / "cuda/micrographs" / path.name, 2)[0]
        assert np.abs(image - expected).max() < 1e-4 * expected.std()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_stopped_training_continues(world, tmp_path, precision):
    killed_after_three_steps(lambda: trained(world, tmp_path / "run", precision=precision))
    rows = trained(world, tmp_path / "run", precision=precision)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert read_manifest(tmp_path / "run").model == "model.safetensors"


def test_too_little_memory_gives_a_message_with_what_to_lower(world, tmp_path):
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2e7 / total)
    try:
        with pytest.raises(CryogemError, match="lower batch, crop"):
            command_line.run("train", train_settings(world, tmp_path / "run", generator_width=64,
                                                     discriminator_width=128))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
