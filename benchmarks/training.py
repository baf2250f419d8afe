# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of a training step and of the translation of a micrograph, against a simple way with the same weights.

    python benchmarks/training.py [--crop 256] [--width 64] [--discriminator-width 128] [--size 1024] [--repeats 5]

The simple step runs the whole published generator three times (translation, features of the input, features of the
result), and torch's default Adam, in float32. The step of the engine takes the features of the input from the
translation, runs only the encoder for the other features, and uses the fused Adam. Both must give the same losses
before anything is timed.

Both run in turn. The table gives the medians of the ratios of wall time and of processor time. Other programs on the
machine change processor time less. bf16 is timed on a GPU, and on processors that have instructions for it
(avx512_bf16, amx_bf16). On other processors it is many times slower than float32.
"""
import argparse
import copy
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from markdown_table import MarkdownTable
from torch import nn

from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise
from cryogem_scipion.engine.settings import TrainSettings
from cryogem_scipion.engine.translator.crops import RealImages, SimulatedImages
from cryogem_scipion.engine.translator.model import to_bf16
from cryogem_scipion.engine.translator.training_state import ModelProperties, TrainingState


class WithoutEncoder(nn.Module):
    """A generator that runs all of its layers to get the features of an image."""

    latent_channels = 0

    def __init__(self, network):
        super().__init__()
        self.network = network

    def encode(self, image):
        """Features of an image, by all layers."""
        return self.network(image)[1]

    def forward(self, image, latent=None):
        """The translated image and the features of the input, each by all layers."""
        return self.network(image)[0], self.encode(image)


def example_images(size):
    """A real micrograph of noise and a simulated one of discs; speed does not depend on the content."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] % 64 - 32
    mask = (y**2 + x**2 < 400).astype(np.uint8)
    real = RealImages([random.normal(500, 25, (size, size)).astype(np.float32)], [500.0], [25.0])
    return real, SimulatedImages([(1 - 0.03 * mask).astype(np.float32)], [mask])


def training_state(arguments, device, **changes):
    """A training of the published networks before its first step."""
    settings = TrainSettings(
        real=("-",), simulation="-", out="-", steps=10_000, crop=arguments.crop, generator="published",
        discriminator="patch", generator_width=arguments.width, discriminator_width=arguments.discriminator_width,
        gradient_penalty=0, averaging=0, **changes)
    properties = ModelProperties(PhysicalNoise(0.05), GreyScale(500.0, 25.0), 5.0, 0.1, 1.0, {})
    return TrainingState(settings, properties, device)


def seconds(work, device):
    """Wall time and processor time of one call (s)."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - processor


def compare_times(ours, theirs, repeats, device):
    """Median wall time of ours (s), and its cells of the table: how many times faster it is, and its time."""
    ours(), theirs()
    pairs = [(seconds(ours, device), seconds(theirs, device)) for _ in range(repeats)]
    wall, processor = ([slow[clock] / fast[clock] for fast, slow in pairs] for clock in (0, 1))
    median = statistics.median(fast[0] for fast, _ in pairs)
    return median, (f"{statistics.median(wall):.2f} ({min(wall):.2f}–{max(wall):.2f})",
                    f"{statistics.median(processor):.2f}", f"{median:.3g}")


def compare_steps(arguments, device, bf16):
    """Print the table of the training steps in float32, and in bf16 if asked; return it for more rows."""
    data = example_images(2 * arguments.crop)
    simple = training_state(arguments, device)
    simple.generator = WithoutEncoder(simple.generator)
    for name in ("generator_optimiser", "discriminator_optimiser"):
        [group] = getattr(simple, name).param_groups
        setattr(simple, name, torch.optim.Adam(group["params"], group["lr"], group["betas"]))
    ours = training_state(arguments, device)
    losses = [training.train_step(*data) for training in (ours, simple)]
    difference = max(abs(losses[0][name] - losses[1][name]) for name in losses[0])
    print(f"The losses of the first step agree to {difference:.1e}.\n")
    if difference > 1e-4:
        raise SystemExit("the two steps give different losses")
    table = MarkdownTable("work", "times faster, wall time", "CPU time", "time (s)", "steps a second",
                          "10,000 steps (h)", "GPU memory (GiB)")
    for precision in ("float32", "bf16") if bf16 else ("float32",):
        training = ours if precision == "float32" else training_state(arguments, device, precision=precision)
        step, cells = compare_times(lambda training=training: training.train_step(*data),
                                    lambda: simple.train_step(*data), arguments.repeats, device)
        memory = "–"
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            training.train_step(*data)
            memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f}"
        table.row(f"training step, {precision}", *cells, f"{1 / step:.3g}", f"{step * 10_000 / 3600:.2g}", memory)
    return table


def compare_translation(arguments, device, table):
    """Add a row: translation of one micrograph in bf16 against a float32 pass of the network."""
    values = argparse.Namespace(**{**vars(arguments), "crop": arguments.size})
    model = training_state(values, device).model()
    in_bf16_model = to_bf16(copy.deepcopy(model))
    image = torch.randn(arguments.size, arguments.size, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def simple():
        model.network(image[None, None].to(device))

    @torch.no_grad()
    def ours():
        with torch.autocast(device.type, torch.bfloat16):
            channels_last = image[None, None].to(device).contiguous(memory_format=torch.channels_last)
            in_bf16_model.network(channels_last)

    _, cells = compare_times(ours, simple, arguments.repeats, device)
    table.row(f"translation of {arguments.size}², bf16", *cells, "–", "–", "–")


def main():
    """Print the table, a row for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop", type=int, default=256, help="edge of the training images (px)")
    parser.add_argument("--width", type=int, default=64, help="channels of the generator's first layer")
    parser.add_argument("--discriminator-width", type=int, default=128,
                        help="channels of the discriminator's first layer")
    parser.add_argument("--size", type=int, default=1024, help="edge of the translated micrograph (px)")
    parser.add_argument("--repeats", type=int, default=5, help="timed pairs")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=0, help="0: the default of torch")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    bf16_instructions = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    print(f"torch {torch.__version__} on {device}, threads: {torch.get_num_threads()}, bf16 instructions: "
          f"{', '.join(bf16_instructions) or 'none'}.")
    bf16 = bool(bf16_instructions) or device.type != "cpu"
    table = compare_steps(arguments, device, bf16)
    if bf16:
        compare_translation(arguments, device, table)


if __name__ == "__main__":
    main()
