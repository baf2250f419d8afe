# SPDX-License-Identifier: GPL-3.0-or-later
"""Two small datasets to export, with functions that read their images and labels."""
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cryogem_scipion.engine.io.dataset import read_table
from cryogem_scipion.engine.io.mrc import read_mrc, read_stack
from cryogem_scipion.engine.settings import ExportSettings, GenerateSettings, PhantomSettings, SimulateSettings, parse
from cryogem_scipion.engine.stages import export, generate, phantom, simulate
from tests.scipion.conventions import rotation

PIXEL_SIZE, BOX, SHAPE, COUNT = 6.0, 32, (190, 230), 3
ANGLES, PLACE, ORIGIN = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), ("rlnCoordinateX", "rlnCoordinateY"), (
    "rlnOriginXAngst", "rlnOriginYAngst")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift")


@pytest.fixture(scope="package")
def world(tmp_path_factory):
    """``sim``: clean micrographs without stacks; ``gen``: the same specimens under a little noise, with stacks."""
    folder = tmp_path_factory.mktemp("world")
    phantom.run(PhantomSettings(out=folder / "map", box=32, pixel_size=5.0, diameter_angstrom=110))
    simulate.run(SimulateSettings(
        out=folder / "sim", volume=(folder / "map/phantom.mrc",), pixel_size=PIXEL_SIZE, micrographs=COUNT,
        micrograph_size=SHAPE, particles_mean=12, particles_sigma=2, box_size=BOX, voltage_kv=200, cs_mm=1.4,
        amplitude_contrast=0.08, phase_shift_degrees=30, astigmatism_angstrom=2000, ice_thickness_angstrom=300))
    generate.run(GenerateSettings(out=folder / "gen", simulation=folder / "sim", noise="gaussian", snr=5, reuse=True))
    return folder


@pytest.fixture
def tmp_path(tmp_path):
    """A folder whose path RELION's files can hold, even if the system's temporary folder is different."""
    if not set(str(tmp_path)) & set(" \t\"'#"):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def exported(world, tmp_path):
    """Function that exports ``gen`` and returns the folder of the export."""
    def run(to, **changes):
        out = changes.pop("out", tmp_path / f"out {to}" if to in ("cryodrgn", "topaz") else tmp_path / to)
        export.run(parse(ExportSettings, {"dataset": world / "gen", "to": to, "out": out, **changes}))
        return out
    return run


@pytest.fixture
def labels(world):
    """The rows of the whole particles, as ``generate`` wrote them."""
    return read_table(world / "gen/extracted.star", "particles")[1]


def matrices(rows):
    return np.stack([rotation(*angles) for angles in rows[list(ANGLES)].to_numpy()])


def centres(rows):
    return rows[list(PLACE)].to_numpy(float) - rows[list(ORIGIN)].to_numpy(float) / PIXEL_SIZE


def images(folder, rows, names="rlnImageName"):
    """Images with the names in the rows, relative to a folder or absolute."""
    parts = [name.partition("@") for name in rows[names]]
    stacks = {path: read_stack(folder / path) for path in {path for _, _, path in parts}}
    return np.stack([stacks[path][int(number) - 1] for number, _, path in parts])


def by_hand(folder, rows, box):
    """Particles extracted at the coordinates: bright, background with mean 0 and standard deviation 1."""
    axis = np.arange(box) - box // 2
    ring = np.hypot(axis, axis[:, None]) > box // 2
    result = []
    for row in rows.to_dict("records"):
        image, _ = read_mrc(folder / row["rlnMicrographName"], 2)
        x, y = (int(row[name]) - box // 2 for name in PLACE)
        patch = -image[y:y + box, x:x + box].astype(float)
        result.append((patch - patch[ring].mean()) / patch[ring].std(ddof=1))
    return np.stack(result)
