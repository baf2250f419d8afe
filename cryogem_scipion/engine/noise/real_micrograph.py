# SPDX-License-Identifier: GPL-3.0-or-later
"""Real micrographs: reads and checks them and resamples them to the working pixel size, one at a time."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute.resampling import fourier_crop, working_shape
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.file_patterns import matching_files
from cryogem_scipion.engine.io.mrc import read_header, read_mrc
from cryogem_scipion.engine.noise.ice import IceMap
from cryogem_scipion.engine.noise.ice_map import background_deviation, ice_map, upsample_ice

__all__ = ["RealMicrograph", "check_real_micrographs", "evenly_spaced", "has_transmission", "read_real_micrograph",
           "real_files"]


@dataclass(frozen=True)
class RealMicrograph:
    """A real micrograph at the working pixel size with its measured properties; the pixels stay on disk."""

    original: str
    """Absolute path of the original file."""
    name: str
    """File at the working pixel size, relative to the run's folder; empty if it is not stored."""
    pixel_size: float
    """Exact pixel size, Å."""
    shape: tuple[int, int]
    """Size (y, x) in pixels."""
    crop: tuple[int, int]
    """Size (y, x) in pixels of the part of the original that it covers, from the first pixel on."""
    median: float
    """Median of the grey values."""
    deviation: float
    """Robust standard deviation of the grey values without ice."""
    background_deviation: float | None
    """Standard deviation of the background divided by its mean; None if grey values are no transmission."""
    ice_grid: list[list[float]] | None
    """Transmission on a grid of cells, with median 1; None if grey values are no transmission."""

    @property
    def pixel_sizes(self) -> tuple[float, float]:
        """Å per pixel along (y, x); ``pixel_size`` is their geometric mean."""
        y, x = (covered / edge for covered, edge in zip(self.crop, self.shape, strict=True))
        original = self.pixel_size / (y * x) ** 0.5
        return original * y, original * x

    @property
    def ice(self) -> IceMap | None:
        """The ice map; None if grey values are no transmission."""
        return None if self.ice_grid is None else IceMap(torch.tensor(self.ice_grid), self.shape)


def real_files(patterns: Sequence[str]) -> list[Path]:
    """Return the files that match names and patterns, sorted and without repetition; ``DataError`` if one has none."""
    return matching_files(patterns, "real micrographs (MRC)")


def check_real_micrographs(files: Sequence[Path], working_pixel_size: float, pixel_size: float | None,
                           smallest: int = 1) -> list[tuple[int, int]]:
    """Return the sizes (y, x) of micrographs at the working pixel size; reads only headers.

    Raises
    ------
    DataError
        A micrograph cannot be resampled, or has fewer than ``smallest`` pixels a side afterwards.
    """
    shapes = []
    for path in files:
        shape, header_pixel_size = read_header(path, 2)
        file_pixel_size = _checked_pixel_size(path, pixel_size or header_pixel_size)
        try:
            target = working_shape((shape[0], shape[1]), file_pixel_size, working_pixel_size)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        if min(target.shape) < smallest:
            y, x = target.shape
            raise DataError(f"{path} has {x} x {y} pixels at {working_pixel_size:g} Å, but a noise spectrum needs "
                            f"{smallest} on each side; leave it out, or use a smaller working pixel size")
        shapes.append(target.shape)
    return shapes


def read_real_micrograph(path: Path, working_pixel_size: float, pixel_size: float | None = None,
                         inverted: bool = False, name: str = "") -> tuple[Float[Tensor, "y x"], RealMicrograph]:
    """Read one micrograph, Fourier-crop it and measure its ice and background.

    Parameters
    ----------
    path
        MRC file.
    working_pixel_size
        Pixel size to resample to, Å; the exact one differs by less than 0.1 %.
    pixel_size
        Pixel size of the file, Å, if its header is wrong or empty.
    inverted
        Whether particles are bright; then the grey values are mirrored about their median.
    name
        File that the image will be stored in, relative to the run's folder.

    Returns
    -------
    Grey values on the scale of the file, and the measured properties.
    """
    data, header_pixel_size = read_mrc(path, 2)
    original = torch.tensor(data)  # a copy: the file's array is read-only
    target = working_shape((data.shape[0], data.shape[1]),
                           _checked_pixel_size(path, pixel_size or header_pixel_size), working_pixel_size)
    image = fourier_crop(original[:target.crop[0], :target.crop[1]], target.shape)
    median = float(np.median(image.numpy()))
    if inverted:
        image = 2 * median - image
    ice, deviation, flat = None, None, image
    if has_transmission(image):
        ice = ice_map(image)
        flat = image / upsample_ice(ice, target.shape)
        deviation = background_deviation(image, ice)
    return image, RealMicrograph(
        original=str(path.resolve()), name=name, pixel_size=target.pixel_size, shape=target.shape, crop=target.crop,
        median=median, deviation=_robust_deviation(flat), background_deviation=deviation,
        ice_grid=None if ice is None else ice.tolist())


def has_transmission(image: Float[Tensor, "y x"]) -> bool:
    """Return whether grey values are proportional to the dose: their mean exceeds 0 and their standard deviation."""
    mean, deviation = float(image.mean()), float(image.std())
    return mean > 0 and deviation < mean


def evenly_spaced(files: Sequence[Path], limit: int) -> list[Path]:
    """Return at most ``limit`` of the files, spread evenly over the list."""
    if len(files) <= limit:
        return list(files)
    return [files[round(i * (len(files) - 1) / max(limit - 1, 1))] for i in range(limit)]


def _checked_pixel_size(path: Path, pixel_size: float | None) -> float:
    """The pixel size; ``DataError`` if it is None."""
    if pixel_size is None:
        raise DataError(f"{path} has no pixel size in its header; set real_pixel_size")
    return pixel_size


def _robust_deviation(image: Float[Tensor, "y x"]) -> float:
    """Half the distance between the 16th and the 84th percentile."""
    low, high = np.percentile(image.numpy(), [15.865, 84.135])
    return float(high - low) / 2
