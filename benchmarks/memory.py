# SPDX-License-Identifier: GPL-3.0-or-later
"""Peak memory of the stages on few and on many micrographs: it must not grow with their number.

    python benchmarks/memory.py [--few 10] [--many 1000] [--real 500] [--threads 2]

Each run is a separate process, and its peak memory is the one that the operating system counts. The real micrographs of
4096 x 4096 pixels are links to one file, which saves disk space. The program reads and crops each of them separately.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from markdown_table import MarkdownTable

from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.simulation.phantom import phantom

PIXEL_SIZE, REAL_PIXEL_SIZE, EDGE = 5.0, 1.0, 4096
SMALL = ["--crop", "64", "--generator-width", "8", "--discriminator-width", "8", "--steps", "100"]


def run_stage(stage, *arguments):
    """Peak memory (MB), wall time (s) and processor time (s) of one stage of the program."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "cryogem_scipion", stage, *map(str, arguments)],
                               stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{stage} ended with {process.returncode}")
    return usage.ru_maxrss / 1024, time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def compare(table, title, few, many, run):
    """Add a row to the table: peak memory of a stage on few and on many micrographs."""
    (small, *_), (large, seconds, _) = run(few), run(many)
    table.row(title, str(few), f"{small:.0f}", str(many), f"{large:.0f}", f"{100 * (large / small - 1):+.1f} %",
              f"{seconds:.0f}")


def main():
    """Make the inputs and compare the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=10, help="micrographs of the small run")
    parser.add_argument("--many", type=int, default=1000, help="micrographs of the large simulation or generation")
    parser.add_argument("--real", type=int, default=500, help="real micrographs of the large training")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mrc(folder / "map.mrc", phantom(64, PIXEL_SIZE, 200.0).density.numpy(), PIXEL_SIZE)
        noise = np.random.default_rng(1).normal(400, 80, (EDGE, EDGE)).astype(np.float32)
        write_mrc(folder / "real.mrc", noise, REAL_PIXEL_SIZE)
        number = iter(range(100))

        def out():
            return ["--threads", arguments.threads, "--device", "cpu", "--out", folder / f"out{next(number)}"]

        def real_micrographs(count):
            links = folder / f"real{count}"
            if not links.is_dir():
                links.mkdir()
                for link in range(count):
                    (links / f"{link:05d}.mrc").symlink_to(folder / "real.mrc")
            return ["--real", links / "*.mrc"]

        scene = ["--volume", folder / "map.mrc", "--micrograph-size", 512, 512, "--particles-mean", 20]
        run_stage("simulate", *scene, "--micrographs", 10, "--out", folder / "sim", "--threads", arguments.threads)
        simulation = ["--simulation", folder / "sim"]
        table = MarkdownTable("stage", "few micrographs", "peak (MB)", "many micrographs", "peak (MB)", "change",
                              "time of many (s)")
        compare(table, "simulate, 512 x 512", arguments.few, arguments.many,
                lambda count: run_stage("simulate", *scene, "--micrographs", count, *out()))
        compare(table, "generate with white noise, 512 x 512", arguments.few, arguments.many,
                lambda count: run_stage("generate", *simulation, "--noise", "gaussian", "--micrographs", count,
                                        *out()))
        compare(table, f"train on real micrographs, {EDGE} x {EDGE}", arguments.few, arguments.real,
                lambda count: run_stage("train", *simulation, *real_micrographs(count), *SMALL, *out()))
        model = next(folder.glob("out*/model.safetensors"))
        compare(table, "generate with the model, 512 x 512", arguments.few, arguments.many,
                lambda count: run_stage("generate", *simulation, "--model", model, "--micrographs", count, *out()))


if __name__ == "__main__":
    main()
