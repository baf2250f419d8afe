# SPDX-License-Identifier: GPL-3.0-or-later
"""Data of the wizards: previews that the engine computes, and particle numbers of picked micrographs."""
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
from cryogem_scipion.protocols.particle_tables import read_named_images, spread_image_names

__all__ = ["MicrographFields", "ParticleImages", "ParticleNumbers", "ParticleViews", "micrograph_fields",
           "particle_images", "particle_numbers", "particle_views"]

# Particles of a set that are shown, and that are averaged.
SHOWN_PARTICLES, AVERAGED_PARTICLES = 3, 200
# Largest number of maps of a set that are shown.
MAX_MAPS = 3
# Working pixel sizes (Å) to choose from.
PIXEL_SIZES = (0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0)
# Standard deviation of a normal distribution truncated at two standard deviations, as in the simulation.
TRUNCATED_DEVIATION = 0.8796
PREVIEW_SETTINGS = ("volume", "volume_pixel_size", "pixel_size", "resolution_angstrom")


@dataclass(frozen=True)
class ParticleViews:
    """Random views of the particles at the working pixel size."""

    views: NDArray[np.float32]
    """(n, y, x), protein bright."""
    peaks: NDArray[np.float64]
    """(n): the mask has the pixels where the view exceeds this value times the mask threshold."""
    pixel_size: float
    diameter_angstrom: float
    box_size: int
    """Default of the simulation (px)."""


@dataclass(frozen=True)
class MicrographFields:
    """The middle of a real micrograph at several pixel sizes."""

    pixel_sizes: tuple[float, ...]
    shapes: tuple[tuple[int, int], ...]
    """Size (y, x; px) of the whole micrograph at each pixel size."""
    images: tuple[NDArray[np.float32], ...]
    diameter_angstrom: float | None
    """Of the particle; ``None`` without a map."""


@dataclass(frozen=True)
class ParticleImages:
    """Some particles of a set, and the average of more of them."""

    images: tuple[NDArray[np.float32], ...]
    average: NDArray[np.float64]
    """(y, x), in standard deviations of the average's outermost pixels."""
    averaged: int
    """Number of particles in the average."""
    pixel_size: float
    box_angstrom: float


@dataclass(frozen=True)
class ParticleNumbers:
    """Particles per picked micrograph, and the mean and deviation for simulated micrographs of another area."""

    per_micrograph: NDArray[np.int64]
    """(n): particles of each real micrograph that has any."""
    area_ratio: float
    """Area of a simulated micrograph over the area of a real one."""
    mean: float
    deviation: float
    """Value for the setting of the simulation, which truncates the distribution at two standard deviations."""


def particle_views(protocol: Any) -> ParticleViews:
    """Return views of the particle that is chosen in the form of a simulation."""
    arrays, manifest = _run_preview(_particle_settings(protocol))
    return ParticleViews(arrays["views"], arrays["peaks"], manifest.pixel_size,
                         manifest.particle_diameter_angstrom or 0.0, manifest.box_size or 0)


def micrograph_fields(protocol: Any) -> MicrographFields:
    """Return the middle of a form's first real micrograph at all pixel sizes to choose from.

    Raises
    ------
    DataError
        There is no real micrograph, or it cannot be read.
    """
    real = protocol.inputMicrographs.get()
    first = real.getFirstItem() if real is not None else None
    if first is None:
        label = protocol.getParam("inputMicrographs").getLabel()
        raise DataError(f"there is no real micrograph to show; first choose real micrographs as '{label}'")
    real_size = real.getSamplingRate()
    choices = {real_size, *(size for size in PIXEL_SIZES if real_size < size <= 12 * real_size),
               protocol.pixelSize.get() or real_size}
    values = {"real": str(Path(first.getFileName()).absolute()), "real_pixel_size": real_size,
              "pixel_sizes": sorted(choices)}
    values |= _map_settings(protocol.settingsValues() if protocol.inputsReady() else {})
    arrays, manifest = _run_preview(values)
    sizes = tuple(map(float, arrays["pixel_sizes"]))
    return MicrographFields(sizes, tuple((int(y), int(x)) for y, x in arrays["shapes"]),
                            tuple(arrays[f"field_{index}"] for index in range(len(sizes))),
                            manifest.particle_diameter_angstrom)


def particle_images(particles: Any) -> ParticleImages:
    """Return particles of a SetOfParticles, evenly spread over the set.

    Raises
    ------
    DataError
        No particles are chosen, or an image cannot be read.
    """
    if particles is None or not particles.getSize():
        raise DataError("there is no particle to show; first choose particles")
    images = read_named_images(spread_image_names(particles, AVERAGED_PARTICLES))
    average = np.mean(images, axis=0, dtype=np.float64)
    edges = np.concatenate([average[[0, -1]].ravel(), average[:, [0, -1]].ravel()])
    average = (average - edges.mean()) / max(edges.std(), 1e-12)
    pixel_size = particles.getSamplingRate()
    return ParticleImages(tuple(images[:SHOWN_PARTICLES]), average, len(images), pixel_size,
                          pixel_size * min(average.shape))


def particle_numbers(coordinates: Any, shape: tuple[int, int], pixel_size: float) -> ParticleNumbers:
    """Return the particle numbers that give simulated micrographs the particle density of picked ones.

    The mean grows with the area. The variance of independent positions equals the mean, so it grows with the area,
    too. The rest of the variance comes from differences between micrographs and grows with the square of the area.

    Parameters
    ----------
    coordinates
        SetOfCoordinates. Micrographs without coordinates count as not picked.
    shape
        Size (y, x) of a simulated micrograph in pixels.
    pixel_size
        Pixel size of a simulated micrograph, Å.
    """
    if not coordinates.getSize():
        raise DataError("the set of coordinates is empty; choose another")
    rows = coordinates.aggregate(["COUNT"], "_micId", ["_micId"])
    per_micrograph = np.array([row["COUNT"] for row in rows], dtype=np.int64)
    micrographs = coordinates.getMicrographs()
    dimensions = micrographs.getDim() if micrographs is not None else None
    if not dimensions:
        raise DataError("the micrographs of these coordinates cannot be read; choose other coordinates")
    coordinate_micrographs(coordinates)
    ratio = math.prod(shape) * pixel_size**2 / (math.prod(dimensions[:2]) * micrographs.getSamplingRate() ** 2)
    mean = float(per_micrograph.mean())
    variance = float(per_micrograph.var(ddof=1)) if per_micrograph.size > 1 else mean
    scaled_variance = ratio * min(variance, mean) + ratio**2 * max(0.0, variance - mean)
    return ParticleNumbers(per_micrograph, ratio, ratio * mean, scaled_variance**0.5 / TRUNCATED_DEVIATION)


def _particle_settings(protocol: Any) -> dict[str, Any]:
    """Settings of ``cryogem preview`` for the particle in the form of a simulation."""
    if protocol._isCryodrgn() or not protocol.inputsReady():
        raise DataError("there is no particle to show; first choose a map or an atomic model (a cryoDRGN folder has no "
                        "quick preview)")
    return _preview_settings(protocol.settingsValues())


def _map_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Settings of ``cryogem preview`` for a density map, whose pixel size is known; without one, none."""
    has_map = values.get("volume") and values.get("volume_pixel_size") is not None
    return _preview_settings(values) if has_map else {}


def _preview_settings(values: dict[str, Any]) -> dict[str, Any]:
    preview = {name: values[name] for name in PREVIEW_SETTINGS if values.get(name) is not None}
    volume = preview["volume"]
    return {**preview, "volume": [volume] if isinstance(volume, str) else volume[:MAX_MAPS]}


def _run_preview(values: dict[str, Any]) -> tuple[dict[str, NDArray[Any]], Any]:
    """Run ``cryogem preview`` in the engine's environment, and return its arrays and manifest."""
    problems = Plugin.environmentErrors()
    if problems:
        raise DataError(" ".join(problems))
    with tempfile.TemporaryDirectory(prefix="cryogem-") as name:
        out, config = Path(name) / "preview", Path(name) / "preview.json"
        config.write_text(json.dumps({**values, "out": str(out)}), "utf-8")
        command = f"{Plugin.getProgram()} preview --config {shlex.quote(str(config))} --device cpu"
        process = subprocess.run(command, shell=True, env=Plugin.getEnviron(), capture_output=True, text=True,
                                 errors="replace")
        if process.returncode:
            last_line = process.stderr.strip().splitlines()[-1:] or [f"status {process.returncode}"]
            raise DataError(last_line[0].removeprefix("cryogem: "))
        with np.load(out / "preview.npz") as arrays:
            return dict(arrays), read_manifest(out)
