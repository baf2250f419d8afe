# SPDX-License-Identifier: GPL-3.0-or-later
"""Training in two processes: the same steps as one process with twice the batch size."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cryogem_scipion.engine.io.dataset import read_manifest
from cryogem_scipion.engine.translator.model import load_model
from tests.damaged_inputs import make_valid_inputs
from tests.distributed_training import PROPERTIES, TrainingState, TrainSettings, training_images
from tests.distributed_training import main as train_in_float64

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_an_image_piece_depends_only_on_its_number_in_the_batch():
    """It does not depend on the batch size, so the processes can share a batch."""
    micrographs = training_images()
    batches = {}
    for batch in (1, 2, 3):
        settings = TrainSettings(real=("a.mrc",), simulation="sim", out="out", crop=32, batch=batch,
                                 generator_width=4, discriminator_width=4)
        state = TrainingState(settings, PROPERTIES, torch.device("cpu"))
        batches[batch] = state._draw_batch(*micrographs)[1:]
    differ = 0
    for one, two, three in zip(*(batches[batch] for batch in (1, 2, 3)), strict=True):
        for few, many in ((one, two), (two, three)):
            for a, b in zip(few, many, strict=True) if isinstance(few, list) else [(few, many)]:
                assert torch.equal(a, b[:len(a)])
                differ += not torch.equal(b[0], b[1])
    assert differ >= 4  # two crops without particles have equal masks


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one_with_twice_the_batch_size(tmp_path):
    script = ROOT / "tests/distributed_training.py"
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script,
                    tmp_path / "two.pt", "1"], check=True, env=ENVIRONMENT, capture_output=True)
    train_in_float64(tmp_path / "one.pt", 2)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert (one["count"], two["count"]) == (1, 2)
    assert len(one["losses"]) == 20
    for step, (a, b) in enumerate(zip(one["losses"], two["losses"], strict=True)):
        for name, value in a.items():
            assert b[name] == pytest.approx(value, abs=1e-6), (step, name)
    for name, weight in one["weights"].items():
        assert weight.dtype == torch.float64
        assert torch.allclose(two["weights"][name], weight, rtol=0, atol=1e-6), name
    # The networks have learned something, so the comparison is not of the first weights.
    assert abs(one["losses"][-1]["discriminator"] - one["losses"][0]["discriminator"]) > 1e-3


@pytest.mark.slow
def test_the_program_trains_in_two_processes_and_continues(tmp_path):
    make_valid_inputs(tmp_path)

    def train(*more):
        return subprocess.run([sys.executable, "-m", "cryogem_scipion", "train", "--real", tmp_path / "real/*.mrc",
                               "--simulation", tmp_path / "sim", "--out", tmp_path / "two", "--crop", "32",
                               "--generator-width", "4", "--discriminator-width", "4", "--checkpoint-every", "2",
                               "--processes", "2", "--threads", "2", "--device", "cpu", *more],
                              env=ENVIRONMENT, capture_output=True, text=True, cwd=tmp_path)

    refused = train("--steps", "4", "--real-pixel-size", "9")
    assert refused.returncode == 2
    assert "coarser than the working pixel size" in refused.stderr.splitlines()[-1]
    assert not (tmp_path / "two").exists()
    finished = train("--steps", "4")
    assert finished.returncode == 0, finished.stderr
    assert read_manifest(tmp_path / "two").settings["processes"] == 2
    assert load_model(tmp_path / "two/model.safetensors").details["steps"] == 4
    before = (tmp_path / "two/model.safetensors").read_bytes()
    (tmp_path / "two/model.safetensors").unlink()
    assert train("--steps", "4").returncode == 0
    assert (tmp_path / "two/model.safetensors").read_bytes() == before
