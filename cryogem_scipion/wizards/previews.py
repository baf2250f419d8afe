# SPDX-License-Identifier: GPL-3.0-or-later
"""What the wands know: previews that the engine makes, and particle numbers of a set of coordinates."""
import json
import math
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import read_manifest
from cryogem_scipion.plugin import Plugin
from cryogem_scipion.protocols.inputs import coordinate_micrographs

__all__ = ["Counts", "Fields", "Particle", "counts", "fields", "particle"]

# Of a set of maps, that many are shown.
MOST = 3
# Working pixel sizes to choose from, Å.
SIZES = (0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0)
# Deviation of a normal distribution that is cut at two deviations, as the simulation cuts it.
CUT = 0.8796
NAMES = ("volume", "volume_pixel_size", "pixel_size", "resolution_angstrom")


@dataclass(frozen=True)
class Particle:
    """Random views of the particles at the working pixel size."""

    views: NDArray[np.float32]
    """(n, y, x), protein bright."""
    peaks: NDArray[np.float64]
    """(n): a pixel is in the mask where the view exceeds the threshold times this."""
    pixel_size: float
    diameter_angstrom: float
    box_size: int
    """What the simulation takes when none is given."""


@dataclass(frozen=True)
class Fields:
    """The middle of a real micrograph at several pixel sizes."""

    pixel_sizes: tuple[float, ...]
    shapes: tuple[tuple[int, int], ...]
    """(y, x) of the whole micrograph at each."""
    images: tuple[NDArray[np.float32], ...]
    diameter_angstrom: float | None
    """Of the particle, where there is a map."""


@dataclass(frozen=True)
class Counts:
    """How many particles the micrographs of a set of coordinates have, brought to a field of another area."""

    found: NDArray[np.int64]
    """(n) of each micrograph that has any, as it is."""
    area_ratio: float
    """Of the simulated field to the real one."""
    mean: float
    deviation: float
    """To be given to the simulation, which cuts it at two deviations."""


def particle(protocol: Any) -> Particle:
    """Return views of the particle that the form of a simulation asks for."""
    arrays, manifest = _run(_particle_values(protocol))
    return Particle(arrays["views"], arrays["peaks"], manifest.pixel_size, manifest.particle_diameter_angstrom or 0.0,
                    manifest.box_size or 0)


def fields(protocol: Any) -> Fields:
    """Return the first real micrograph of a form at all pixel sizes that it allows.

    Raises
    ------
    DataError
        There is no real micrograph, or it cannot be read.
    """
    real = protocol.inputMicrographs.get()
    first = real.getFirstItem() if real is not None else None
    if first is None:
        raise DataError("no real micrograph to look at; choose some as 'Microscope of micrographs' first")
    own = real.getSamplingRate()
    wanted = {own, *(size for size in SIZES if own < size <= 12 * own), protocol.pixelSize.get() or own}
    values = {"real": str(Path(first.getFileName()).absolute()), "real_pixel_size": own, "pixel_sizes": sorted(wanted)}
    if protocol.inputsReady() and protocol._isMap():
        values |= _particle_values(protocol)
    arrays, manifest = _run(values)
    sizes = tuple(map(float, arrays["pixel_sizes"]))
    return Fields(sizes, tuple((int(y), int(x)) for y, x in arrays["shapes"]),
                  tuple(arrays[f"field_{index}"] for index in range(len(sizes))), manifest.particle_diameter_angstrom)


def counts(coordinates: Any, shape: tuple[int, int], pixel_size: float) -> Counts:
    """Return how many particles a simulated field would have if it were as crowded as real micrographs.

    The mean grows with the area. So does the variance up to that of independent places (the mean); what is beyond,
    because micrographs differ, grows with the area squared.

    Parameters
    ----------
    coordinates
        SetOfCoordinates; micrographs without any are taken for not picked.
    shape
        Simulated field (y, x) in pixels.
    pixel_size
        Å per pixel of it.
    """
    if not coordinates.getSize():
        raise DataError("the set of coordinates is empty; choose another")
    rows = coordinates.aggregate(["COUNT"], "_micId", ["_micId"])
    found = np.array([row["COUNT"] for row in rows], dtype=np.int64)
    micrographs = coordinates.getMicrographs()
    dimensions = micrographs.getDim() if micrographs is not None else None
    if not dimensions:
        raise DataError("the micrographs of these coordinates cannot be read; choose other coordinates")
    coordinate_micrographs(coordinates)
    ratio = math.prod(shape) * pixel_size**2 / (math.prod(dimensions[:2]) * micrographs.getSamplingRate() ** 2)
    mean, variance = float(found.mean()), float(found.var(ddof=1)) if found.size > 1 else float(found.mean())
    scaled = ratio * min(variance, mean) + ratio**2 * max(0.0, variance - mean)
    return Counts(found, ratio, ratio * mean, scaled**0.5 / CUT)


def _particle_values(protocol: Any) -> dict[str, Any]:
    if protocol._isDecoded() or not protocol.inputsReady():
        raise DataError("no particle to look at; choose a map or an atomic model first (conformations of a cryoDRGN "
                        "folder have no quick preview)")
    values = protocol.settingsValues()
    found = {name: values[name] for name in NAMES if values.get(name) is not None}
    return {**found, "volume": found["volume"][:MOST]}


def _run(values: dict[str, Any]) -> tuple[dict[str, NDArray[Any]], Any]:
    """Run ``cryogem preview`` in the engine's environment; its arrays and manifest."""
    problems = Plugin.environmentErrors()
    if problems:
        raise DataError(" ".join(problems))
    with tempfile.TemporaryDirectory(prefix="cryogem-") as name:
        out, config = Path(name) / "preview", Path(name) / "preview.json"
        config.write_text(json.dumps({**values, "out": str(out)}), "utf-8")
        command = f"{Plugin.getProgram()} preview --config {shlex.quote(str(config))} --device cpu"
        done = subprocess.run(command, shell=True, env=Plugin.getEnviron(), capture_output=True, text=True,
                              errors="replace")
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
            raise DataError(said[0].removeprefix("cryogem: "))
        with np.load(out / "preview.npz") as arrays:
            return dict(arrays), read_manifest(out)
