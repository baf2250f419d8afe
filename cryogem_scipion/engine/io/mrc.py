# SPDX-License-Identifier: GPL-3.0-or-later
"""MRC files, read with suspicion and written reproducibly."""
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError

__all__ = ["read_header", "read_mrc", "read_stack", "write_mrc", "write_stack"]

LABEL = "CryoGEM for Scipion"


def read_header(path: Path, dimensions: int) -> tuple[tuple[int, ...], float | None]:
    """Return shape (z, y, x or y, x) and pixel size (Å; None where the header has none), without the data.

    Raises
    ------
    DataError
        No such file, no MRC file, shorter than its header says, or not of ``dimensions``.
    """
    with _opened(path) as file:
        return _checked_shape(path, file, dimensions), _pixel_size(path, file)


def read_mrc(path: Path, dimensions: int) -> tuple[NDArray[np.float32], float | None]:
    """Return the data of an image (2) or volume (3) as float32, and its pixel size (Å) if the header has one.

    Any number type and byte order of the format is read.

    Raises
    ------
    DataError
        As ``read_header``; or the values are complex, not finite, or all the same.
    """
    with _opened(path) as file:
        shape = _checked_shape(path, file, dimensions)
        pixel_size = _pixel_size(path, file)
        if file.data.dtype.kind not in "iuf":
            raise DataError(f"{path} holds {file.data.dtype} values (mode {int(file.header.mode)}); "
                            "give real numbers, not a transform")
        data = np.ascontiguousarray(file.data, np.float32).reshape(shape)
    if not np.isfinite(data).all():
        raise DataError(f"{path} holds {np.count_nonzero(~np.isfinite(data))} values that are not finite; repair it")
    if data.size and data.min() == data.max():
        raise DataError(f"{path} is constant (every value is {data.flat[0]:g}); give an image with contents")
    return data, pixel_size


def write_mrc(path: Path, data: NDArray[np.generic], pixel_size: float, stack: bool = False) -> None:
    """Write (y, x), (z, y, x) or, with ``stack``, (image, y, x) data; same data, same bytes.

    Masks (uint8 of 0 and 1) become mode 0, everything else float32.
    """
    values = data.astype(np.int8) if data.dtype == np.uint8 else np.ascontiguousarray(data, np.float32)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(values)
        if stack:
            file.set_image_stack()
        _finish_header(file, pixel_size)


def read_stack(path: Path) -> NDArray[np.float32]:
    """Return the images (image, y, x) of a stack, also of one with a single image; values as they are.

    Raises
    ------
    DataError
        As ``read_header``, or the file holds a transform.
    """
    with _opened(path) as file:
        if file.data.dtype.kind not in "iuf":
            raise DataError(f"{path} holds {file.data.dtype} values; give real images, not a transform")
        return np.array(file.data, np.float32).reshape(-1, *file.data.shape[-2:])


def write_stack(path: Path, stacks: Iterable[NDArray[np.float32]], shape: tuple[int, int, int], pixel_size: float
                ) -> None:
    """Write lots of images (n, y, x) as one stack of ``shape`` (images, y, x), one lot in memory at a time."""
    with mrcfile.new_mmap(path, shape=shape, mrc_mode=2, overwrite=True) as file:
        place = 0
        for images in stacks:
            file.data[place:place + len(images)] = images
            place += len(images)
        file.set_image_stack()
        _finish_header(file, pixel_size)


def _finish_header(file: mrcfile.mrcfile.MrcFile, pixel_size: float) -> None:
    file.voxel_size = pixel_size
    # The library stamps the time of writing, which would make equal images differ.
    file.header.label = np.zeros_like(file.header.label)
    file.header.label[0] = LABEL.encode()
    file.header.nlabl = 1


def _opened(path: Path) -> mrcfile.mrcfile.MrcFile:
    """The open file, memory-mapped where that is possible so that a header costs no data."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; give an MRC file")
    size = os.path.getsize(path)
    with _reading(path), path.open("rb") as start:
        if start.read(3) in (b"\x1f\x8b\x08", b"BZh"):
            raise DataError(f"{path} is packed (gzip or bzip2); unpack it first")
    if size < 1024:
        raise DataError(f"{path} has {size} bytes; an MRC file has at least 1024; copy or write it again")
    with _reading(path):
        _check_extended_header(path, size)
    with _reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.open(path, permissive=True, header_only=True) as head:
            _check_length(path, head, size)
        return mrcfile.mmap(path, mode="r", permissive=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say which file cannot be read, and why."""
    try:
        yield
    except (ValueError, OSError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no MRC file that can be read ({error}); give another, or write it again") from None


def _check_extended_header(path: Path, size: int) -> None:
    """Refuse an extended header longer than the file: the library takes as much memory as it is said to need."""
    with path.open("rb") as file:
        length = file.read(96)[92:]
    if min(int.from_bytes(length, order, signed=True) for order in ("little", "big")) > size:
        raise DataError(f"{path} is no MRC file: its extended header would be longer than the file; give an MRC file")


def _check_length(path: Path, head: mrcfile.mrcfile.MrcFile, size: int) -> None:
    """Refuse a header that promises what the file does not hold, before anything is allocated for it."""
    header = head.header
    shape = tuple(int(header[name]) for name in ("nz", "ny", "nx"))
    if min(shape) < 1 or max(shape) > 2**20:
        raise DataError(f"{path} says its size is {shape[::-1]} (x y z); that is no image; write it again")
    width = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 12: 2}.get(int(header.mode))
    if width is None:
        raise DataError(f"{path} has mode {int(header.mode)}; give mode 0, 1, 2, 6 or 12")
    needed = 1024 + max(0, int(header.nsymbt)) + width * shape[0] * shape[1] * shape[2]
    if size < needed:
        raise DataError(f"{path} is cut short: {size} bytes where its header needs {needed}; copy it again")


def _checked_shape(path: Path, file: mrcfile.mrcfile.MrcFile, dimensions: int) -> tuple[int, ...]:
    """The data's shape; a volume of one slice is an image, and a single image is no volume."""
    shape = tuple(int(edge) for edge in file.data.shape)
    if dimensions == 2 and len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != dimensions or (dimensions == 3 and shape[0] == 1):
        found = " x ".join(map(str, shape[::-1]))
        wanted = "one image" if dimensions == 2 else "a volume"
        raise DataError(f"{path} is {found} pixels; give {wanted}")
    return shape


def _pixel_size(path: Path, file: mrcfile.mrcfile.MrcFile) -> float | None:
    """Pixel size along x in Å; None where the header leaves it at 0 or without meaning."""
    x, y = float(file.voxel_size.x), float(file.voxel_size.y)
    if not (np.isfinite(x) and x > 0):
        return None
    if abs(x - y) > 1e-3 * x:
        raise DataError(f"{path} has pixels of {x:g} x {y:g} Å; resample it to square pixels")
    return x
