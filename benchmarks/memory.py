# SPDX-License-Identifier: GPL-3.0-or-later
"""Peak memory of the stages on few and on many micrographs: it must not grow with their number.

Each run is a process of its own; its peak is what the system counted. Real micrographs of 4096 x 4096 pixels are one
file under many names (links), so that the disk holds them; each is read, cropped and measured for itself.

    python benchmarks/memory.py [--few 10] [--many 1000] [--real 500] [--threads 2]
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.simulation.phantom import phantom

PIXEL_SIZE, REAL_PIXEL_SIZE, EDGE = 5.0, 1.0, 4096
SMALL = ["--crop", "64", "--generator-width", "8", "--discriminator-width", "8", "--steps", "100"]


def spent(stage, *arguments):
    """Peak memory (MB), seconds of wall time and of processor time of one stage of the program."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "cryogem_scipion", stage, *map(str, arguments)],
                               stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{stage} ended with {process.returncode}")
    return usage.ru_maxrss / 1024, time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def compared(what, few, many, run):
    """Print the peaks of a stage on few and on many."""
    (small, *_), (large, seconds, _) = run(few), run(many)
    print(f"{what:44s}{few:6d}:{small:6.0f} MB{many:8d}:{large:6.0f} MB  {100 * (large / small - 1):+5.1f} %  "
          f"{seconds:5.0f} s", flush=True)


def main():
    """Make the inputs and compare the stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=10)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--real", type=int, default=500)
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

        def reals(count):
            links = folder / f"real{count}"
            if not links.is_dir():
                links.mkdir()
                for link in range(count):
                    (links / f"{link:05d}.mrc").symlink_to(folder / "real.mrc")
            return ["--real", links / "*.mrc"]

        scene = ["--volume", folder / "map.mrc", "--micrograph-size", 512, 512, "--particles-mean", 20]
        spent("simulate", *scene, "--micrographs", 10, "--out", folder / "sim", "--threads", arguments.threads)
        given = ["--simulation", folder / "sim"]
        compared("simulate, 512 x 512", arguments.few, arguments.many,
                 lambda count: spent("simulate", *scene, "--micrographs", count, *out()))
        compared("generate with white noise, 512 x 512", arguments.few, arguments.many,
                 lambda count: spent("generate", *given, "--noise", "gaussian", "--micrographs", count, *out()))
        compared(f"train on real ones of {EDGE} x {EDGE}", arguments.few, arguments.real,
                 lambda count: spent("train", *given, *reals(count), *SMALL, *out()))
        model = next(folder.glob("out*/model.safetensors"))
        compared("generate with the model, 512 x 512", arguments.few, arguments.many,
                 lambda count: spent("generate", *given, "--model", model, "--micrographs", count, *out()))


if __name__ == "__main__":
    main()
