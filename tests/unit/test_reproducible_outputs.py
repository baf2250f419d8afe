# SPDX-License-Identifier: GPL-3.0-or-later
"""The number of threads changes no byte of the outputs, and the processor changes no label.

Each run is a process of its own. Environment variables limit its libraries to the instructions of another processor.
"""
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from safetensors.torch import load_file

from cryogem_scipion.engine.settings import TrainSettings, parse
from cryogem_scipion.engine.stages import train
from tests.reproducible_outputs import ENVIRONMENTS

IMAGES = {".mrc", ".mrcs"}
CLOSE = 2e-4
"""Largest allowed difference of a pixel between two processors, in standard deviations of the image, as in README."""


@pytest.fixture(scope="module")
def good(world):
    """The shared inputs, and a model that was trained for three steps."""
    train.run(parse(TrainSettings, {"real": [str(world / "real/*.mrc")], "simulation": world / "sim",
                                    "out": world / "run", "steps": 3, "crop": 64, "generator_width": 8,
                                    "discriminator_width": 8}))
    return world


def run_all(good, out, runs):
    """Run ``tests.reproducible_outputs`` for each (environment, threads), two at a time; return the output folders."""
    folders = {(name, threads): out / f"{name} {threads}" for name, threads in runs}
    for pair in [runs[start:start + 2] for start in range(0, len(runs), 2)]:
        processes = [subprocess.Popen(
            [sys.executable, "-m", "tests.reproducible_outputs", str(good), str(folders[name, threads])],
            cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads),
                 **ENVIRONMENTS[name]})
            for name, threads in pair]
        for process in processes:
            printed = process.communicate()[0]
            assert process.returncode == 0, printed[-3000:].decode()
    return folders


def contents(folder):
    """Return the bytes of all reproducible outputs by file name, and of the model's measurements by tensor name."""
    outputs = {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*"))
               if path.suffix in {*IMAGES, ".star", ".pkl", ".txt"} and path.is_file() and "README" not in path.name}
    for name, tensor in sorted(load_file(folder / "measured/model.safetensors").items()):
        if not name.startswith("generator."):
            outputs[Path(name)] = tensor.numpy().tobytes()
    # Some files contain the absolute name of the folder.
    return {name: value.replace(str(folder).encode(), b"") for name, value in outputs.items()}


def depends_on_processor(name):
    """Return whether the last bits may differ between processors: pixels, and numbers measured from pixels."""
    measured = {"noise.power", "noise.curve_pixels", "noise.curve_fine", "noise.share"}
    return name.suffix in IMAGES or not name.suffix or name.parts[0] in measured \
        or name.name.startswith(("ice.", "contaminants.", "noise.relative."))


def compare(folders):
    """Check that two processors give the same labels and masks, and return the largest difference of their pixels."""
    first, second = (contents(folder) for folder in folders)
    assert first.keys() == second.keys()
    largest = 0.0
    for name, value in first.items():
        if name.suffix not in IMAGES:
            assert depends_on_processor(name) or value == second[name], f"{name} differs between processors"
            continue
        images = [mrcfile.read(folder / name).astype(np.float64) for folder in folders]
        if "masks" in name.parts and "heights" not in name.parts:
            differing = float((images[0] != images[1]).mean())
            assert differing < 1e-3, f"{name}: {differing} of the pixels differ"  # values at the threshold
        else:
            largest = max(largest, float(np.abs(images[0] - images[1]).max() / max(images[0].std(), 1e-12)))
    return largest


def check(folders):
    """Check that threads change no byte and environments no label, and return the largest differences of pixels."""
    by_environment = {}
    for (name, _), folder in folders.items():
        by_environment.setdefault(name, []).append(folder)
    for name, same in by_environment.items():
        first = contents(same[0])
        assert len(first) > 40
        for other in same[1:]:
            outputs = contents(other)
            assert first.keys() == outputs.keys()
            differing = [str(file) for file in first if first[file] != outputs[file]]
            assert not differing, f"{name}: the number of threads changed {differing}"
    differences = {pair: compare([by_environment[name][0] for name in pair])
                   for pair in combinations(by_environment, 2)}
    for pair, largest in differences.items():
        print(f"{pair[0]} and {pair[1]}: pixels differ by at most {largest:.1e} standard deviations")
        assert largest < CLOSE
    return differences


def test_threads_change_no_byte_and_a_processor_without_vector_instructions_no_label(good, tmp_path):
    differences = check(run_all(good, tmp_path, [("no vector instructions", 1), ("this processor", 3)]))
    # Some pixels differ, so the libraries did use other instructions.
    assert max(differences.values()) > 0


@pytest.mark.slow
def test_threads_change_no_byte_and_processors_no_label(good, tmp_path):
    runs = [(name, threads) for name in ENVIRONMENTS for threads in (1, 2, 4)]
    assert max(check(run_all(good, tmp_path, runs)).values()) > 0
