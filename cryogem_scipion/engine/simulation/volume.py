# SPDX-License-Identifier: GPL-3.0-or-later
"""Density maps: reading a map file, the particle in it, and its diameter."""
import bz2
import gzip
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist
from torch import Tensor

from cryogem_scipion.engine.compute.robust import NORMAL_DEVIATION
from cryogem_scipion.engine.errors import DataError

__all__ = ["Volume", "diameter_angstrom", "particle_voxels", "read_volume"]

NOISE_SIGMAS = 5.0
"""A voxel belongs to the particle if its density is this many standard deviations above the solvent ..."""
PEAK_FRACTION = 0.1
"""... and above this fraction of the strong densities (the 99.9th percentile)."""
MIN_REGION_FRACTION = 0.05
"""Separate regions smaller than this fraction of the largest region are treated as noise."""


@dataclass(frozen=True)
class Volume:
    """A density map with its origin at index ``N // 2`` of each axis.

    Raises
    ------
    DataError
        The density is not cubic, or the pixel size is not positive.
    """

    density: Float[Tensor, "z y x"]
    """Cubic."""
    pixel_size: float
    """Å per voxel."""

    def __post_init__(self) -> None:
        """Check shape and pixel size."""
        if len(set(self.density.shape)) != 1:
            raise DataError(f"the density has the shape {tuple(self.density.shape)}; pad it to a cube")
        if not self.pixel_size > 0:
            raise DataError(f"the volume has pixel size {self.pixel_size:g}; set pixel_size")


def read_volume(path: str | Path, pixel_size: float | None = None) -> Volume:
    """Read a density map (MRC, CCP4; plain, gzip or bzip2).

    The median of the outermost voxels is taken as the solvent density and subtracted. A map that is not cubic is padded
    with zeros. Permuted axes, as the header describes them, are put in order.

    Parameters
    ----------
    path
        The map file.
    pixel_size
        Å per voxel; None takes the value in the header.

    Raises
    ------
    DataError
        The file is missing, not a map, truncated or constant, or has no usable pixel size.

    References
    ----------
    MRC2014 format: doi:10.1016/j.jsb.2015.04.002
    """
    if pixel_size is not None and not pixel_size > 0:
        raise DataError(f"pixel_size is {pixel_size:g}; give a value above 0 (Å per voxel)")
    density, voxel = _read(Path(path))
    if pixel_size is None:
        pixel_size = _isotropic(voxel, Path(path))
    density = density - np.median(np.concatenate([side.ravel() for side in _sides(density)]))
    return Volume(torch.from_numpy(_cube(density.astype(np.float32))), float(pixel_size))


def particle_voxels(volume: Volume) -> Bool[Tensor, "z y x"]:
    """Mask of the voxels that belong to the particle.

    The mean and the standard deviation of the solvent are estimated, by median and median absolute deviation, from the
    voxels outside the largest sphere in the box. A voxel belongs to the particle if it is above the solvent by five
    standard deviations and by a tenth of the strong densities. Small separate regions are removed. In noisy maps
    the first condition is the stricter one, in clean maps the second.
    """
    density = volume.density.detach().cpu().numpy()
    smooth = ndimage.gaussian_filter(density, 1.0, mode="nearest")
    outside = smooth[_radius(density.shape[0]) > density.shape[0] / 2 - 1]
    level = float(np.median(outside)) if outside.size else 0.0
    noise = NORMAL_DEVIATION * float(np.median(np.abs(outside - level))) if outside.size else 0.0
    strong = float(np.quantile(smooth, 0.999))
    particle = smooth > level + max(NOISE_SIGMAS * noise, PEAK_FRACTION * (strong - level))
    regions, count = ndimage.label(particle, np.ones((3, 3, 3)))
    if count > 1:
        sizes = np.bincount(regions.ravel())
        sizes[0] = 0
        particle = (sizes >= MIN_REGION_FRACTION * sizes.max())[regions]
    return torch.from_numpy(particle).to(volume.density.device)


def diameter_angstrom(volume: Volume) -> float:
    """Largest extent of the particle in any direction, Å.

    Raises
    ------
    DataError
        No voxel belongs to a particle.
    """
    points = np.argwhere(particle_voxels(volume).cpu().numpy()).astype(float)
    if not len(points):
        raise DataError("the volume holds no particle that stands out from its solvent; use another map")
    try:
        points = points[ConvexHull(points).vertices]
    except QhullError:  # fewer than four points, or all in one plane
        points = points[:: max(1, len(points) // 2000)]
    spread = pdist(points).max() if len(points) > 1 else 0.0
    return float(spread + 1) * volume.pixel_size


def _read(path: Path) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
    """Density [z, y, x] and voxel size (x, y, z) of a map file, Å."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; give a map in MRC or CCP4 format")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes); give a complete map file")
    data = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if _head(path)[208:211] != b"MAP":  # without it, the lengths in the header have no meaning either
                raise ValueError("no MAP in its header")
            with mrcfile.open(path, permissive=True, header_only=True) as file:
                header, size = file.header.copy(), file.voxel_size
            voxels = int(header.nx) * int(header.ny) * int(header.nz)
            if voxels > 0 and (_opener(path) is not open or voxels <= 2 * path.stat().st_size):
                with mrcfile.open(path, permissive=True) as file:
                    data = file.data
        except (ValueError, OSError, EOFError, OverflowError, zlib.error) as error:
            raise DataError(f"{path} cannot be read as a map ({error}); give a complete MRC or CCP4 file") from error
    if data is None:
        raise DataError(f"{path} is truncated or not a map: its header announces {int(header.nx)} x {int(header.ny)} x "
                        f"{int(header.nz)} voxels of mode {int(header.mode)}; give a complete map file")
    _check_density(data, path)
    order = [int(header[name]) for name in ("maps", "mapr", "mapc")]
    if sorted(order) == [1, 2, 3]:
        data = np.transpose(data, [order.index(axis) for axis in (3, 2, 1)])
    return np.ascontiguousarray(data, np.float32), (float(size.x), float(size.y), float(size.z))


def _check_density(data: NDArray[Any], path: Path) -> None:
    """Raise ``DataError`` if the data are not a finite, three-dimensional density that varies."""
    if data.ndim != 3 or 1 in data.shape:
        raise DataError(f"{path} has the shape {data.shape}; give a map with three dimensions, not an image")
    if np.iscomplexobj(data):
        raise DataError(f"{path} holds complex numbers; give a map in real space")
    not_finite = int(np.count_nonzero(~np.isfinite(data)))
    if not_finite:
        raise DataError(f"{path} has {not_finite} voxels that are not finite numbers; repair or recompute the map")
    if data.min() == data.max():
        raise DataError(f"{path} is constant ({data.min():g} everywhere); give a map with a particle in it")


def _opener(path: Path) -> Callable[..., Any]:
    """The function that opens a file: for gzip, for bzip2 or for a plain file, as its first bytes say."""
    with path.open("rb") as file:
        start = file.read(3)
    return gzip.open if start.startswith(b"\x1f\x8b") else bz2.open if start == b"BZh" else open


def _head(path: Path) -> bytes:
    """The first 1024 bytes of a map file, decompressed: its header."""
    with _opener(path)(path, "rb") as file:
        return bytes(file.read(1024))


def _isotropic(voxel: tuple[float, float, float], path: Path) -> float:
    """The pixel size of a map with cubic voxels; ``DataError`` if the header gives no such size."""
    if not (np.isfinite(voxel).all() and min(voxel) > 0):
        raise DataError(f"{path} has pixel size {min(voxel):g}; set pixel_size")
    if max(voxel) > 1.001 * min(voxel):
        raise DataError(f"{path} has different pixel sizes along x, y, z ({voxel[0]:g}, {voxel[1]:g}, {voxel[2]:g}); "
                        "resample it, or set pixel_size")
    return float(np.mean(voxel))


def _sides(density: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The six faces of the box."""
    return [density[0], density[-1], density[:, 0], density[:, -1], density[:, :, 0], density[:, :, -1]]


def _cube(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pad with zeros to a cube, so that the origin stays at index n // 2 of each axis."""
    size = max(density.shape)
    before = [size // 2 - length // 2 for length in density.shape]
    return np.pad(density, [(first, size - length - first)
                            for first, length in zip(before, density.shape, strict=True)])


def _radius(size: int) -> NDArray[np.float64]:
    """Distance of each voxel of a cube from the origin, voxels."""
    squares = (np.arange(size) - size // 2) ** 2
    return np.asarray(np.sqrt(squares[:, None, None] + squares[:, None] + squares))
