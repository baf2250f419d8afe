# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of real micrographs: resampled once to the working pixel size, stored on disk, and measured."""
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cryogem_scipion.engine.compute.parallel import map_in_order, worker_count
from cryogem_scipion.engine.io.dataset import MICROGRAPHS, plain_name, quoted_path, replacing, write_table
from cryogem_scipion.engine.io.mrc import read_header, write_mrc
from cryogem_scipion.engine.noise.models import GreyScale
from cryogem_scipion.engine.noise.real_micrograph import RealMicrograph, read_real_micrograph
from cryogem_scipion.engine.runs.progress import track_progress

__all__ = ["RealSet", "StoredImage", "measure_real_set", "memory_mapped"]

BYTES_PER_PIXEL = 32
"""Memory that reading and measuring takes for each pixel of a real micrograph, roughly."""


class StoredImage:
    """An image file that this program wrote. It is read window by window, and keeps no memory and no open file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape = read_header(path, 2)[0]

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[Any]:
        return np.array(memory_mapped(self.path)[window])


@dataclass(frozen=True)
class RealSet:
    """Real micrographs at the working pixel size with the measured properties of each; the pixels stay on disk."""

    folder: Path
    """Folder of the run; the names of the micrographs are relative to it."""
    micrographs: tuple[RealMicrograph, ...]

    def __len__(self) -> int:
        return len(self.micrographs)

    def image(self, index: int) -> StoredImage:
        """Return the grey values of micrograph ``index``."""
        return StoredImage(self.folder / self.micrographs[index].name)

    @property
    def with_ice_map(self) -> tuple[int, ...]:
        """Indices of the micrographs that have an ice map: those whose grey values are a transmission."""
        return tuple(index for index, real in enumerate(self.micrographs) if real.ice_grid is not None)

    def ice_map_indices(self, indices: Sequence[int]) -> list[int]:
        """Return the indices of the ice maps that belong to some of the micrographs.

        Parameters
        ----------
        indices
            Indices of micrographs. Those without an ice map are left out.
        """
        return [map_index for map_index, index in enumerate(self.with_ice_map) if index in indices]

    @property
    def background_deviation(self) -> float | None:
        """σ_n of the set, the median over its micrographs; None if no grey values are a transmission."""
        deviations = [real.background_deviation for real in self.micrographs if real.background_deviation is not None]
        return statistics.median(deviations) if deviations else None

    @property
    def scales(self) -> list[GreyScale]:
        """The grey scale of each micrograph; all transmissions have the σ_n of the set."""
        deviation = self.background_deviation
        return [GreyScale(real.median, real.deviation if deviation is None or real.background_deviation is None
                          else real.median * deviation) for real in self.micrographs]

    @property
    def scale(self) -> GreyScale:
        """The grey scale of the set: medians over the micrographs."""
        scales = self.scales
        return GreyScale(statistics.median(scale.median for scale in scales),
                         statistics.median(scale.spread for scale in scales))

    @property
    def held_out(self) -> tuple[int, ...]:
        """Indices of the held-out micrographs: every sixth, and at least one of three.

        The networks are never trained on them. The validation metric compares the networks' images with them, with
        their own ice and contaminants. The noise that training starts from is measured on all micrographs.
        """
        total = len(self.micrographs)
        count = max(total // 6, 1) if total >= 3 else 0
        return tuple((2 * index + 1) * total // (2 * count) for index in range(count))

    @property
    def training(self) -> tuple[int, ...]:
        """Indices of the micrographs that are not held out."""
        held_out = self.held_out
        return tuple(index for index in range(len(self.micrographs)) if index not in held_out)

    def write_table(self, optics: pd.DataFrame) -> None:
        """Write micrographs.star: the micrographs, their originals, and which are held out.

        Parameters
        ----------
        optics
            Optics table of the simulation.
        """
        micrographs, held_out = self.micrographs, self.held_out
        optics = optics.assign(rlnMicrographPixelSize=micrographs[0].pixel_size)
        write_table(self.folder / MICROGRAPHS, "micrographs",
                    optics.drop(columns="rlnMicrographOriginalPixelSize", errors="ignore"), pd.DataFrame({
                        "rlnMicrographName": [real.name for real in micrographs], "rlnOpticsGroup": 1,
                        "cryogemPixelSizeX": [real.pixel_sizes[1] for real in micrographs],
                        "cryogemPixelSizeY": [real.pixel_sizes[0] for real in micrographs],
                        "cryogemHeldOut": [int(index in held_out) for index in range(len(micrographs))],
                        "cryogemOriginal": [quoted_path(real.original) for real in micrographs]}))


def measure_real_set(out: Path, images: str, files: Sequence[Path], working_pixel_size: float,
                     pixel_size: float | None, inverted: bool = False) -> RealSet:
    """Resample every real micrograph to the working pixel size and measure it, a few in memory at a time.

    Micrographs that an interrupted run has finished are not measured again.

    Parameters
    ----------
    out
        The run's folder; the measured properties go into its ``source/real``.
    images
        Folder in ``out`` for the micrographs at the working pixel size.
    files
        Original micrographs.
    working_pixel_size
        Pixel size to resample to, Å.
    pixel_size
        Pixel size of the files, Å, if their headers are wrong or empty.
    inverted
        Whether particles are bright in the micrographs.
    """
    (out / images).mkdir(parents=True, exist_ok=True)
    (out / "source/real").mkdir(parents=True, exist_ok=True)

    def measure(file: tuple[Path, str]) -> RealMicrograph:
        path, stem = file
        record = out / "source/real" / f"{stem}.json"
        if record.is_file():
            return _recorded(record)
        image, real = read_real_micrograph(path, working_pixel_size, pixel_size, inverted, f"{images}/{stem}.mrc")
        with replacing(out / real.name) as temporary:
            write_mrc(temporary, image.numpy(), real.pixel_size)
        with replacing(record) as temporary:
            temporary.write_text(json.dumps(vars(real)) + "\n", "utf-8")
        return real

    pixels = max(math.prod(read_header(path, 2)[0]) for path in files)
    threads = worker_count(torch.device("cpu"), len(files), BYTES_PER_PIXEL * pixels)
    measured = map_in_order(measure, zip(files, _stems(files), strict=True), threads)
    return RealSet(out, tuple(track_progress(measured, len(files), "reading real micrograph", folder=out)))


def memory_mapped(path: Path) -> NDArray[Any]:
    """Return an image that this program wrote as a read-only, memory-mapped array."""
    with mrcfile.mmap(path, mode="r") as file:
        data: NDArray[Any] = file.data
    return data


def _recorded(record: Path) -> RealMicrograph:
    """The measured properties that an earlier run wrote."""
    values = json.loads(record.read_text("utf-8"))
    return RealMicrograph(**{**values, "shape": tuple(values["shape"]), "crop": tuple(values["crop"])})


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
