# SPDX-License-Identifier: GPL-3.0-or-later
"""What large sets cost: processor time, GPU time and disk of one micrograph, measured, times 10,000 and a million.

The program runs on few and on more micrographs (or steps), so that start-up and measuring the real micrographs drop
out of the difference. Processor time is what all threads took together, which other programs on the machine disturb
less than wall time. Where torch finds a GPU, seconds on it are measured as well; where not, what it would have to
compute is counted, and nothing is claimed of its time. Micrographs of 1024 x 1024 pixels at 5 Å, 100 particles, boxes
of 60 pixels extracted, networks of the defaults.

    python benchmarks/scale.py [--threads 1]
"""
import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from memory import spent
from torch.utils.flop_counter import FlopCounterMode

from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.simulation.phantom import phantom
from cryogem_scipion.engine.translator.model import load_model

PIXEL_SIZE, SIZE, LARGE = 5.0, 1024, (10_000, 1_000_000)
SCENE = ["--micrograph-size", SIZE, SIZE, "--particles-mean", 100, "--particle-distance", 220, "--box-size", 60]


class Costs:
    """Runs of the program in a folder, and what each added unit of their output costs."""

    def __init__(self, folder, threads):
        self.folder, self.threads, self.count = folder, threads, 0

    def run(self, stage, *arguments, device="cpu"):
        """Processor seconds, wall seconds and bytes of one run."""
        self.count += 1
        out = self.folder / f"out{self.count}"
        _, wall, core = spent(stage, *arguments, "--threads", self.threads, "--device", device, "--out", out)
        return np.array([core, wall, sum(path.stat().st_size for path in out.rglob("*") if path.is_file())])

    def of_one(self, option, few, many, stage, *arguments, device="cpu"):
        """The same of one more micrograph, or step."""
        less, more = (self.run(stage, *arguments, option, count, device=device) for count in (few, many))
        return (more - less) / (many - few)


def line(what, core, size, gpu=None):
    """Print the cost of one and of many."""
    cells = [f"{what:34s}{core:8.2f} s{size / 1e6:9.2f} MB"]
    for count in LARGE:
        cells.append(f"{count:>10,}: {core * count / 3600:8.1f} core-h {size * count / 1e12:6.2f} TB"
                     + (f" {gpu * count / 3600:7.1f} GPU-h" if gpu else ""))
    print("  ".join(cells), flush=True)


def main():
    """Print a line for each stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mrc(folder / "map.mrc", phantom(64, PIXEL_SIZE, 200.0).density.numpy(), PIXEL_SIZE)
        random = np.random.default_rng(1)
        for number in range(3):
            write_mrc(folder / f"real{number}.mrc", random.normal(400, 20, (SIZE, SIZE)).astype("f4"), PIXEL_SIZE)
        costs = Costs(folder, arguments.threads)
        scene, real = ["--volume", folder / "map.mrc", *SCENE], ["--real", folder / "real*.mrc"]
        core, _, size = costs.of_one("--micrographs", 4, 16, "simulate", *scene, "--extract")
        line("simulate", core, size)
        given = ["--simulation", folder / "out2"]
        spectrum = ["generate", *given, *real, "--noise", "spectrum", "--extract"]
        core, _, size = costs.of_one("--micrographs", 4, 16, *spectrum)
        line("generate --noise spectrum", core, size)
        training = ["train", *given, *real, "--judge-every", 1000, "--preview-every", 1000]
        core = costs.of_one("--steps", 2, 10, *training)[0]
        model = folder / f"out{costs.count}/model.safetensors"
        made = ["generate", *given, "--model", model, "--extract"]
        translated, _, size = costs.of_one("--micrographs", 1, 5, *made)
        gpu = None
        if torch.cuda.is_available():
            gpu = costs.of_one("--micrographs", 20, 120, *made, device="cuda")[1]
        line("generate with a model", translated, size, gpu)
        print(f"train: {core:.2f} core-s a step, {core * 4000 / 3600:.1f} core-hours for 4000 steps, once for all "
              "micrographs")
        if torch.cuda.is_available():
            step = costs.of_one("--steps", 50, 250, *training, device="cuda")[1]
            print(f"{torch.cuda.get_device_name()}: {gpu:.3f} s a micrograph, {step:.3f} s a step")
        else:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                load_model(model, torch.device("cpu")).network(torch.zeros(1, 1, SIZE, SIZE))
            print(f"no GPU here: its time was not measured; the network takes {counter.get_total_flops() / 1e12:.2f} "
                  "TFLOP a micrograph")


if __name__ == "__main__":
    main()
