# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of real micrographs: resampled once to the working pixel size, stored on disk, and measured."""
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.compute.parallel import map_in_order, worker_count
from cryogem_scipion.engine.io.dataset import plain_name, replacing
from cryogem_scipion.engine.io.mrc import read_header, write_mrc
from cryogem_scipion.engine.noise.real_micrograph import read_real_micrograph
from cryogem_scipion.engine.runs.progress import track_progress

BYTES = 32
"""Memory that reading and measuring takes for each pixel of a real micrograph, roughly."""

__all__ = ["MeasuredMicrograph", "StoredImage", "measure_real_set", "memory_mapped"]


@dataclass(frozen=True)
class MeasuredMicrograph:
    """Measured properties of a real micrograph; its pixels stay on disk."""

    original: str
    name: str
    """File at the working pixel size, relative to the run's folder."""
    pixel_size: float
    shape: tuple[int, int]
    crop: tuple[int, int]
    """Size (y, x) in pixels of the part of the original that it covers, from the first pixel on."""
    median: float
    deviation: float
    background_deviation: float | None
    ice_grid: list[list[float]] | None

    @property
    def pixel_sizes(self) -> tuple[float, float]:
        """Å per pixel along (y, x); ``pixel_size`` is their geometric mean."""
        y, x = (kept / edge for kept, edge in zip(self.crop, self.shape, strict=True))
        original = self.pixel_size / (y * x) ** 0.5
        return original * y, original * x

    @property
    def ice(self) -> Float[Tensor, "gy gx"] | None:
        """The ice map; None if grey values are no transmission."""
        return None if self.ice_grid is None else torch.tensor(self.ice_grid)


class StoredImage:
    """An image file that this program wrote, read in pieces; it keeps no memory and no open file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape = read_header(path, 2)[0]

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[Any]:
        return np.array(memory_mapped(self.path)[window])


def measure_real_set(out: Path, images: str, files: Sequence[Path], working_pixel_size: float,
                 pixel_size: float | None, inverted: bool = False) -> list[MeasuredMicrograph]:
    """Resample every real micrograph to the working pixel size and measure it, a few in memory at a time.

    Micrographs that an interrupted run has finished are not measured again.

    Parameters
    ----------
    out
        The run's folder; the measured properties go into its ``source/real``.
    images
        Folder in ``out`` for the micrographs at the working pixel size.
    inverted
        Whether particles are bright in the micrographs.
    """
    (out / images).mkdir(parents=True, exist_ok=True)
    (out / "source/real").mkdir(parents=True, exist_ok=True)

    def measure(file: tuple[Path, str]) -> MeasuredMicrograph:
        path, stem = file
        return _measure(out, f"{images}/{stem}.mrc", path, stem, working_pixel_size, pixel_size, inverted)

    pixels = max(math.prod(read_header(path, 2)[0]) for path in files)
    threads = worker_count(torch.device("cpu"), len(files), BYTES * pixels)
    measured = map_in_order(measure, zip(files, _stems(files), strict=True), threads)
    return list(track_progress(measured, len(files), "reading real micrograph", folder=out))


def memory_mapped(path: Path) -> NDArray[Any]:
    """Return an image that this program wrote as a read-only, memory-mapped array."""
    with mrcfile.mmap(path, mode="r") as file:
        data: NDArray[Any] = file.data
    return data


def _measure(out: Path, name: str, path: Path, stem: str, working_pixel_size: float, pixel_size: float | None,
             inverted: bool) -> MeasuredMicrograph:
    record = out / "source/real" / f"{stem}.json"
    if record.is_file():
        values = json.loads(record.read_text("utf-8"))
        return MeasuredMicrograph(**{**values, "shape": tuple(values["shape"]), "crop": tuple(values["crop"])})
    real = read_real_micrograph(path, working_pixel_size, pixel_size, inverted)
    with replacing(out / name) as temporary:
        write_mrc(temporary, real.image.numpy(), real.pixel_size)
    y, x = real.image.shape
    measured = MeasuredMicrograph(
        original=str(path.resolve()), name=name, pixel_size=real.pixel_size, shape=(y, x), crop=real.crop,
        median=real.median, deviation=real.deviation,
        background_deviation=real.background_deviation, ice_grid=None if real.ice is None else real.ice.tolist())
    with replacing(record) as temporary:
        temporary.write_text(json.dumps(vars(measured)) + "\n", "utf-8")
    return measured


def _stems(files: Sequence[Path]) -> list[str]:
    """A unique name for each file, in characters that every reader of STAR tables accepts."""
    stems: dict[str, None] = {}
    for path in files:
        plain = plain_name(path.stem)
        stem, number = plain, 1
        while stem in stems:
            number += 1
            stem = f"{plain}_{number}"
        stems[stem] = None
    return list(stems)
