# SPDX-License-Identifier: GPL-3.0-or-later
"""The real micrographs of a training run: cropped once, kept on disk at the working pixel size, and measured."""
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

from cryogem_scipion.engine.compute.parallel import in_order, workers
from cryogem_scipion.engine.io.dataset import plain_name, replacing
from cryogem_scipion.engine.io.mrc import read_header, write_mrc
from cryogem_scipion.engine.noise.real_micrograph import read_real
from cryogem_scipion.engine.runs.progress import tracked

BYTES = 32
"""Memory for each pixel of a real micrograph while it is brought to the working pixel size, roughly."""

__all__ = ["MeasuredReal", "StoredImage", "mapped", "measure_real"]


@dataclass(frozen=True)
class MeasuredReal:
    """What is known of a real micrograph; its pixels stay on disk."""

    original: str
    name: str
    """Relative to the run's folder, at the working pixel size."""
    pixel_size: float
    shape: tuple[int, int]
    crop: tuple[int, int]
    """(y, x) pixels of the original that it covers, from the first pixel."""
    median: float
    deviation: float
    background_deviation: float | None
    ice_grid: list[list[float]] | None

    @property
    def pixel_sizes(self) -> tuple[float, float]:
        """(y, x) Å per pixel along each axis; ``pixel_size`` is their geometric mean."""
        y, x = (kept / edge for kept, edge in zip(self.crop, self.shape, strict=True))
        original = self.pixel_size / (y * x) ** 0.5
        return original * y, original * x

    @property
    def ice(self) -> Float[Tensor, "gy gx"] | None:
        """The ice map, if grey values are transmission."""
        return None if self.ice_grid is None else torch.tensor(self.ice_grid)


class StoredImage:
    """An image that this program wrote, of which pieces are read: no memory and no open file stays with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape = read_header(path, 2)[0]

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[Any]:
        return np.array(mapped(self.path)[window])


def measure_real(out: Path, images: str, files: Sequence[Path], working_pixel_size: float,
                 pixel_size: float | None, inverted: bool = False) -> list[MeasuredReal]:
    """Bring every real micrograph to the working pixel size, a few in memory at a time.

    What an interrupted run has done is not done again.

    Parameters
    ----------
    out
        The run's folder; what is measured is kept in its ``source/real``.
    images
        Folder in ``out`` for the micrographs at the working pixel size.
    inverted
        Particles are bright in them.
    """
    (out / images).mkdir(parents=True, exist_ok=True)
    (out / "source/real").mkdir(parents=True, exist_ok=True)

    def measure(file: tuple[Path, str]) -> MeasuredReal:
        path, stem = file
        return _measure(out, f"{images}/{stem}.mrc", path, stem, working_pixel_size, pixel_size, inverted)

    pixels = max(math.prod(read_header(path, 2)[0]) for path in files)
    threads = workers(torch.device("cpu"), len(files), BYTES * pixels)
    measured = in_order(measure, zip(files, _stems(files), strict=True), threads)
    return list(tracked(measured, len(files), "reading real micrograph", folder=out))


def mapped(path: Path) -> NDArray[Any]:
    """An image that this program wrote, as a read-only array that stays on disk."""
    with mrcfile.mmap(path, mode="r") as file:
        data: NDArray[Any] = file.data
    return data


def _measure(out: Path, name: str, path: Path, stem: str, working_pixel_size: float, pixel_size: float | None,
             inverted: bool) -> MeasuredReal:
    record = out / "source/real" / f"{stem}.json"
    if record.is_file():
        values = json.loads(record.read_text("utf-8"))
        return MeasuredReal(**{**values, "shape": tuple(values["shape"]), "crop": tuple(values["crop"])})
    real = read_real(path, working_pixel_size, pixel_size, inverted)
    with replacing(out / name) as temporary:
        write_mrc(temporary, real.image.numpy(), real.pixel_size)
    y, x = real.image.shape
    measured = MeasuredReal(
        original=str(path.resolve()), name=name, pixel_size=real.pixel_size, shape=(y, x), crop=real.crop,
        median=real.median, deviation=real.deviation,
        background_deviation=real.background_deviation, ice_grid=None if real.ice is None else real.ice.tolist())
    with replacing(record) as temporary:
        temporary.write_text(json.dumps(vars(measured)) + "\n", "utf-8")
    return measured


def _stems(files: Sequence[Path]) -> list[str]:
    """A name for each file: its own, in letters that every reader of STAR tables takes, and no other's."""
    stems: dict[str, None] = {}
    for path in files:
        plain = plain_name(path.stem)
        stem, number = plain, 1
        while stem in stems:
            number += 1
            stem = f"{plain}_{number}"
        stems[stem] = None
    return list(stems)
