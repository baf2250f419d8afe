# SPDX-License-Identifier: GPL-3.0-or-later
"""Cost of large datasets: CPU time, GPU time and disk space of one micrograph, times 10,000 and 1,000,000.

    python benchmarks/scale.py [--threads 1]

The micrographs have 1024 x 1024 pixels at 5 Å and 100 particles. Particles are extracted in boxes of 60 pixels. The
networks are the default ones.

The program runs with a small and a larger number of micrographs (or steps). The cost of one more is their difference
divided by the difference of the numbers. This leaves out the start of the program and the measurement of the real
micrographs. Processor time is the sum over all threads. Other programs on the machine change it less than wall time.
GPU time is measured if torch finds a GPU. If not, only the number of floating-point operations is printed.
"""
import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from markdown_table import MarkdownTable
from memory import run_stage
from torch.utils.flop_counter import FlopCounterMode

from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.simulation.phantom import phantom
from cryogem_scipion.engine.translator.model import load_model

PIXEL_SIZE, SIZE, LARGE = 5.0, 1024, (10_000, 1_000_000)
SCENE = ["--micrograph-size", SIZE, SIZE, "--particles-mean", 100, "--particle-distance", 220, "--box-size", 60]


class Program:
    """Runs of the program, each into a new folder, and the cost of one more micrograph or step."""

    def __init__(self, folder, threads):
        self.folder, self.threads, self.count = folder, threads, 0

    def run(self, stage, *arguments, device="cpu"):
        """Processor time (s), wall time (s) and size of the output (bytes) of one run."""
        self.count += 1
        out = self.folder / f"out{self.count}"
        _, wall, core = run_stage(stage, *arguments, "--threads", self.threads, "--device", device, "--out", out)
        return np.array([core, wall, sum(path.stat().st_size for path in out.rglob("*") if path.is_file())])

    def cost_of_one(self, option, few, many, stage, *arguments, device="cpu"):
        """Processor time (s), wall time (s) and bytes of one more micrograph or step."""
        less, more = (self.run(stage, *arguments, option, count, device=device) for count in (few, many))
        return (more - less) / (many - few)


def add_row(table, title, core, size, gpu=None):
    """Add a row to the table: processor seconds, bytes and GPU seconds of one micrograph, and the cost of many."""
    cells = [f"{core:.2f}", f"{size / 1e6:.2f}"]
    for count in LARGE:
        cells += [f"{core * count / 3600:.1f}", f"{gpu * count / 3600:.1f}" if gpu else "–",
                  f"{size * count / 1e12:.2f}"]
    table.row(title, *cells)


def main():
    """Print the table, a row for each stage, and the cost of a training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mrc(folder / "map.mrc", phantom(64, PIXEL_SIZE, 200.0).density.numpy(), PIXEL_SIZE)
        random = np.random.default_rng(1)
        for number in range(3):
            write_mrc(folder / f"real{number}.mrc", random.normal(400, 20, (SIZE, SIZE)).astype("f4"), PIXEL_SIZE)
        program = Program(folder, arguments.threads)
        scene, real = ["--volume", folder / "map.mrc", *SCENE], ["--real", folder / "real*.mrc"]
        table = MarkdownTable("stage", "core-s a micrograph", "MB a micrograph", *(
            f"{count:,}: {unit}" for count in LARGE for unit in ("core-h", "GPU-h", "TB")))
        core, _, size = program.cost_of_one("--micrographs", 4, 16, "simulate", *scene, "--extract")
        add_row(table, "simulate", core, size)
        simulation = ["--simulation", folder / "out2"]
        spectrum = ["generate", *simulation, *real, "--noise", "spectrum", "--extract"]
        core, _, size = program.cost_of_one("--micrographs", 4, 16, *spectrum)
        add_row(table, "generate --noise spectrum", core, size)
        training = ["train", *simulation, *real, "--judge-every", 1000, "--preview-every", 1000]
        core_of_step = program.cost_of_one("--steps", 2, 10, *training)[0]
        model = folder / f"out{program.count}/model.safetensors"
        with_model = ["generate", *simulation, "--model", model, "--extract"]
        core_with_model, _, size = program.cost_of_one("--micrographs", 1, 5, *with_model)
        gpu = None
        if torch.cuda.is_available():
            gpu = program.cost_of_one("--micrographs", 20, 120, *with_model, device="cuda")[1]
        add_row(table, "generate with a model", core_with_model, size, gpu)
        print(f"\nTraining takes {core_of_step:.2f} core-s a step and {core_of_step * 4000 / 3600:.1f} core-hours for "
              "4000 steps, once for all micrographs.")
        if torch.cuda.is_available():
            step = program.cost_of_one("--steps", 50, 250, *training, device="cuda")[1]
            print(f"{torch.cuda.get_device_name()}: {gpu:.3f} s a micrograph, {step:.3f} s a step.")
        else:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                load_model(model, torch.device("cpu")).network(torch.zeros(1, 1, SIZE, SIZE))
            print("The machine has no GPU, so GPU time was not measured. The network takes "
                  f"{counter.get_total_flops() / 1e12:.2f} TFLOP a micrograph.")


if __name__ == "__main__":
    main()
