# SPDX-License-Identifier: GPL-3.0-or-later
"""The same bytes for any number of threads, and the same labels on any processor.

Each run is a process of its own, in which environment variables make the libraries take the processor for another.
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
from tests.reproducible_outputs import SETTINGS

IMAGES = {".mrc", ".mrcs"}
CLOSE = 2e-4
"""Largest difference of a pixel between two processors, in standard deviations of the image; README says so."""


@pytest.fixture(scope="module")
def good(world):
    """The world, with a model that was trained a little."""
    train.run(parse(TrainSettings, {"real": [str(world / "real/*.mrc")], "simulation": world / "sim",
                                    "out": world / "run", "steps": 3, "crop": 64, "generator_width": 8,
                                    "discriminator_width": 8}))
    return world


def made(good, out, wanted):
    """Run ``tests.reproducible_outputs`` for each (name of the settings, threads), two at a time; their folders by these."""
    folders = {one: out / f"{one[0]} {one[1]}" for one in wanted}
    for pair in [wanted[start:start + 2] for start in range(0, len(wanted), 2)]:
        running = [subprocess.Popen(
            [sys.executable, "-m", "tests.reproducible_outputs", str(good), str(folders[name, threads])],
            cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads), **SETTINGS[name]})
            for name, threads in pair]
        for process in running:
            said = process.communicate()[0]
            assert process.returncode == 0, said[-3000:].decode()
    return folders


def contents(folder):
    """The bytes of all whose bytes are promised, by the name in the folder; of a model what was measured."""
    found = {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*"))
             if path.suffix in {*IMAGES, ".star", ".pkl", ".txt"} and path.is_file() and "README" not in path.name}
    for name, tensor in sorted(load_file(folder / "measured/model.safetensors").items()):
        if not name.startswith("generator."):
            found[Path(name)] = tensor.numpy().tobytes()
    # Absolute names differ with the folder.
    return {name: value.replace(str(folder).encode(), b"") for name, value in found.items()}


def is_image(name):
    """Whether it may differ in the last bits between processors: pixels, and numbers measured of them."""
    return name.suffix in IMAGES or not name.suffix or name.parts[0] in {"noise.power", "noise.curve", "noise.share"} \
        or name.name.startswith(("ice.", "contaminants."))


def compare(folders):
    """Labels and masks of two processors are the same; returns the largest difference of pixels, in deviations."""
    one, other = (contents(folder) for folder in folders)
    assert one.keys() == other.keys()
    furthest = 0.0
    for name, value in one.items():
        if name.suffix not in IMAGES:
            assert is_image(name) or value == other[name], f"{name} differs between processors"
            continue
        images = [mrcfile.read(folder / name).astype(np.float64) for folder in folders]
        if "masks" in name.parts and "heights" not in name.parts:
            differing = float((images[0] != images[1]).mean())
            assert differing < 1e-3, f"{name}: {differing} of the pixels differ"  # on the threshold to a last bit
        else:
            furthest = max(furthest, float(np.abs(images[0] - images[1]).max() / max(images[0].std(), 1e-12)))
    return furthest


def check(folders):
    """Same bytes for every number of threads; between settings same labels and nearly the same pixels."""
    by_settings = {}
    for (name, _), folder in folders.items():
        by_settings.setdefault(name, []).append(folder)
    for name, same in by_settings.items():
        first = contents(same[0])
        assert len(first) > 40
        for other in same[1:]:
            found = contents(other)
            assert first.keys() == found.keys()
            differing = [str(file) for file in first if first[file] != found[file]]
            assert not differing, f"{name}: the number of threads changed {differing}"
    found = {pair: compare([by_settings[name][0] for name in pair]) for pair in combinations(by_settings, 2)}
    for pair, furthest in found.items():
        print(f"{pair[0]} and {pair[1]}: pixels differ by at most {furthest:.1e} standard deviations")
        assert furthest < CLOSE
    return found


def test_threads_change_no_byte_and_a_processor_without_vectors_no_label(good, tmp_path):
    found = check(made(good, tmp_path, [("no vector instructions", 1), ("this processor", 3)]))
    # The settings are obeyed: else nothing was compared.
    assert max(found.values()) > 0


@pytest.mark.slow
def test_threads_change_no_byte_and_processors_no_label(good, tmp_path):
    wanted = [(name, threads) for name in SETTINGS for threads in (1, 2, 3, 4)]
    assert max(check(made(good, tmp_path, wanted)).values()) > 0
