# SPDX-License-Identifier: GPL-3.0-or-later
"""A training step and the translation of a micrograph, each paired with a straightforward way on the same weights.

    python benchmarks/training.py [--crop 256] [--width 64] [--discriminator-width 128] [--size 1024] [--repeats 5]

The straightforward step runs the whole published generator for each of its three passes (translation, features of the
input, features of the result), and torch's Adam as it comes, in float32. Ours takes the features of the input from the
translation, runs the encoder alone for the others, and Adam fused: the same mathematics, and before anything is timed
both have to give the same losses.
Both take turns; the medians of the ratios are printed, of wall time and of processor time, which other programs on the
machine disturb less. bf16 is timed where the processor has instructions for it (avx512_bf16, amx_bf16), or on a GPU;
elsewhere it is many times slower than float32.
"""
import argparse
import copy
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise
from cryogem_scipion.engine.settings import TrainSettings
from cryogem_scipion.engine.translator.crops import RealMicrographs, SimulatedMicrographs
from cryogem_scipion.engine.translator.model import to_bf16
from cryogem_scipion.engine.translator.training_state import ModelProperties, TrainingState


class FullPasses(nn.Module):
    """A generator that knows no encoder of its own: features come from whole passes."""

    latent_channels = 0

    def __init__(self, network):
        super().__init__()
        self.network = network

    def encode(self, image):
        """Features of an image, by a whole pass."""
        return self.network(image)[1]

    def forward(self, image, latent=None):
        """The translated image by one whole pass, and the features of the image by another."""
        return self.network(image)[0], self.encode(image)


def scene(size):
    """Noise for micrographs, and a simulated one of discs; speed does not depend on what is in them."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] % 64 - 32
    mask = (y**2 + x**2 < 400).astype(np.uint8)
    real = RealMicrographs([random.normal(500, 25, (size, size)).astype(np.float32)], [500.0], [25.0])
    return real, SimulatedMicrographs([(1 - 0.03 * mask).astype(np.float32)], [mask])


def state(arguments, device, **changes):
    """A training of the published networks before its first step."""
    settings = TrainSettings(
        real=("-",), simulation="-", out="-", steps=10_000, crop=arguments.crop, generator="published",
        discriminator="patch", generator_width=arguments.width, discriminator_width=arguments.discriminator_width,
        gradient_penalty=0, averaging=0, **changes)
    properties = ModelProperties(PhysicalNoise(0.05), GreyScale(500.0, 25.0), 5.0, 0.1, 1.0, {})
    return TrainingState(settings, properties, device)


def timed(work, device):
    """Wall and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - processor


def paired(name, ours, theirs, repeats, device):
    """Print how much faster ours is than theirs, as the median over pairs that take turns; seconds of ours."""
    ours(), theirs()
    pairs = [(timed(ours, device), timed(theirs, device)) for _ in range(repeats)]
    wall, processor = ([b[kind] / a[kind] for a, b in pairs] for kind in (0, 1))
    seconds = statistics.median(a[0] for a, _ in pairs)
    print(f"{name}: {statistics.median(wall):.2f} times as fast ({min(wall):.2f} to {max(wall):.2f}), "
          f"{statistics.median(processor):.2f} in processor time; {seconds:.3g} s", flush=True)
    return seconds


def steps(arguments, device, bf16):
    """Training steps in float32, and in bf16 if it is worth it, against the straightforward one in float32."""
    data = scene(2 * arguments.crop)
    plain = state(arguments, device)
    plain.generator = FullPasses(plain.generator)
    for name in ("generator_optimiser", "discriminator_optimiser"):
        [group] = getattr(plain, name).param_groups
        setattr(plain, name, torch.optim.Adam(group["params"], group["lr"], group["betas"]))
    ours = state(arguments, device)
    losses = [one.train_step(*data) for one in (ours, plain)]
    worst = max(abs(losses[0][name] - losses[1][name]) for name in losses[0])
    print(f"losses of the first step agree to {worst:.1e}")
    if worst > 1e-4:
        raise SystemExit("the two steps are not the same mathematics")
    for precision in ("float32", "bf16") if bf16 else ("float32",):
        one = ours if precision == "float32" else state(arguments, device, precision=precision)
        seconds = paired(f"training step, {precision}", lambda one=one: one.train_step(*data),
                         lambda: plain.train_step(*data), arguments.repeats, device)
        memory = ""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            one.train_step(*data)
            memory = f", at most {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of its memory"
        print(f"    {1 / seconds:.3g} steps a second, {seconds * 10_000 / 3600:.2g} h for 10,000 steps{memory}",
              flush=True)


def generation(arguments, device):
    """Translation of one micrograph in bf16 against a plain pass of the network in float32."""
    values = argparse.Namespace(**{**vars(arguments), "crop": arguments.size})
    model = state(values, device).model()
    fast = to_bf16(copy.deepcopy(model))
    image = torch.randn(arguments.size, arguments.size, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def plain():
        model.network(image[None, None].to(device))

    @torch.no_grad()
    def ours():
        with torch.autocast(device.type, torch.bfloat16):
            shaped = image[None, None].to(device).contiguous(memory_format=torch.channels_last)
            fast.network(shaped)

    paired(f"translation of {arguments.size}², bf16", ours, plain, arguments.repeats, device)


def main():
    """Print a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--discriminator-width", type=int, default=128)
    parser.add_argument("--size", type=int, default=1024, help="of the micrograph that is translated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    known = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    print(f"torch {torch.__version__} on {device}, {torch.get_num_threads()} threads; bf16 instructions: "
          f"{', '.join(known) or 'none'}")
    bf16 = bool(known) or device.type != "cpu"
    steps(arguments, device, bf16)
    if bf16:
        generation(arguments, device)


if __name__ == "__main__":
    main()
