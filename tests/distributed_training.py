# SPDX-License-Identifier: GPL-3.0-or-later
"""A small training in float64, in one process or in several that torchrun starts. The first process saves the result.

    python tests/distributed_training.py OUT.pt BATCH                                    one process
    torchrun --nproc-per-node 2 tests/distributed_training.py OUT.pt BATCH               two processes
"""
import sys

import numpy as np
import torch

from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise
from cryogem_scipion.engine.settings import TrainSettings
from cryogem_scipion.engine.translator.crops import RealImages, SimulatedImages
from cryogem_scipion.engine.translator.distributed import join_process_group
from cryogem_scipion.engine.translator.training_state import ModelProperties, TrainingState

STEPS = 20
PROPERTIES = ModelProperties(PhysicalNoise(0.05), GreyScale(500.0, 25.0), 5.0, 0.1, 0.002, {})


def training_images():
    """Return two real micrographs of noise, and a clean image with two particles."""
    rng = np.random.default_rng(4)
    mask = np.zeros((80, 72), np.uint8)
    mask[20:36, 30:50] = mask[50:70, 5:20] = 1
    images = [rng.normal(500, 25, (80, 72)).astype(np.float32) for _ in range(2)]
    simulated = SimulatedImages([(1 - 0.02 * mask).astype("f4")], [mask])
    return RealImages(images, [500.0] * 2, [25.0] * 2), simulated


def main(out, batch):
    """Train, and write losses and weights to ``out``."""
    processes, device = join_process_group(torch.device("cpu"))
    settings = TrainSettings(real=("a.mrc",), simulation="sim", out="out", steps=2 * STEPS, crop=32, batch=batch,
                             generator_width=4, discriminator_width=4, precision="float64", learning_rate=1e-3,
                             adaptive_rate=False)
    state = TrainingState(settings, PROPERTIES, device, processes)
    micrographs = training_images()
    losses = [state.train_step(*micrographs) for _ in range(STEPS)]
    if processes.is_rank_zero:
        weights = {**state.generator.state_dict(), **{f"d.{name}": value for name, value in
                                                      state.discriminator.state_dict().items()}}
        torch.save({"losses": losses, "weights": weights, "count": processes.world_size}, out)


if __name__ == "__main__":
    torch.set_num_threads(1)  # as in the tests
    main(sys.argv[1], int(sys.argv[2]))
