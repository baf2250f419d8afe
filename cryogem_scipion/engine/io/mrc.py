# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and writing of MRC files. Every file is checked when it is read. Equal data give equal bytes."""
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError

__all__ = ["read_header", "read_images", "read_mrc", "read_stack", "read_stack_header", "write_mrc", "write_stack"]

LABEL = "CryoGEM for Scipion"


def read_header(path: Path, dimensions: int) -> tuple[tuple[int, ...], float | None]:
    """Return shape and pixel size of an MRC file without reading its data.

    Parameters
    ----------
    dimensions
        2 for an image, 3 for a volume.

    Returns
    -------
    Shape (y, x) or (z, y, x), and pixel size in Å, None where the header has none.

    Raises
    ------
    DataError
        The file is missing, is not an MRC file, is shorter than its header says, or has other dimensions.
    """
    with _open(path) as file:
        return _checked_shape(path, file, dimensions), _pixel_size(path, file)


def read_mrc(path: Path, dimensions: int) -> tuple[NDArray[np.float32], float | None]:
    """Return the data of an image or volume as float32, and its pixel size.

    Every number type and byte order of the format can be read.

    Parameters
    ----------
    dimensions
        2 for an image, 3 for a volume.

    Returns
    -------
    Data (y, x) or (z, y, x), and pixel size in Å, None where the header has none.

    Raises
    ------
    DataError
        As ``read_header``; or the values are complex, not finite, or all the same.
    """
    with _open(path) as file:
        shape = _checked_shape(path, file, dimensions)
        pixel_size = _pixel_size(path, file)
        if file.data.dtype.kind not in "iuf":
            raise DataError(f"{path} holds {file.data.dtype} values (mode {int(file.header.mode)}); give an image in "
                            "real space, not a Fourier transform")
        data = np.ascontiguousarray(file.data, np.float32).reshape(shape)
    if not np.isfinite(data).all():
        raise DataError(f"{path} holds {np.count_nonzero(~np.isfinite(data))} values that are not finite; replace them")
    if data.size and data.min() == data.max():
        raise DataError(f"{path} is constant (every value is {data.flat[0]:g}); give an image whose values vary")
    return data, pixel_size


def write_mrc(path: Path, data: NDArray[np.generic], pixel_size: float, stack: bool = False) -> None:
    """Write an image, a volume or a stack; the same data give the same bytes.

    Parameters
    ----------
    data
        (y, x) or (z, y, x); with ``stack`` (image, y, x). uint8 (masks of 0 and 1) becomes mode 0, all else float32.
    pixel_size
        Å per pixel.
    stack
        Mark the file as a stack of images.
    """
    values = data.astype(np.int8) if data.dtype == np.uint8 else np.ascontiguousarray(data, np.float32)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(values)
        if stack:
            file.set_image_stack()
        _finish_header(file, pixel_size)


def read_stack(path: Path) -> NDArray[np.float32]:
    """Return the images (image, y, x) of a stack, also of a stack with one image; the values are not changed.

    Raises
    ------
    DataError
        As ``read_header``, or the values are complex.
    """
    with _open(path) as file:
        if file.data.dtype.kind not in "iuf":
            raise DataError(f"{path} holds {file.data.dtype} values; give images in real space, not a Fourier "
                            "transform")
        return np.array(file.data, np.float32).reshape(-1, *file.data.shape[-2:])


def read_images(path: Path, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return some images (n, y, x) of a stack, without reading the others.

    Parameters
    ----------
    indices
        Numbers of the images (n,), from 0.

    Raises
    ------
    DataError
        As ``read_header``; or the stack has fewer images, or values that are complex or not finite.
    """
    with _open(path) as file:
        if file.data.dtype.kind not in "iuf":
            raise DataError(f"{path} holds {file.data.dtype} values; give images in real space, not a Fourier "
                            "transform")
        stack = file.data.reshape(-1, *file.data.shape[-2:])
        if len(indices) and indices.max() >= len(stack):
            raise DataError(f"{path} has {len(stack)} images, but image {indices.max() + 1} is asked for; correct the "
                            "STAR file, or copy the stack again")
        images = np.array(stack[indices], np.float32)
    if not np.isfinite(images).all():
        raise DataError(f"{path} holds {np.count_nonzero(~np.isfinite(images))} values that are not finite; replace "
                        "them, or remove these particles")
    return images


def read_stack_header(path: Path) -> tuple[tuple[int, int, int], float | None]:
    """Return shape (images, y, x) and pixel size (Å, None where the header has none) of a stack, without its data.

    Raises
    ------
    DataError
        The file is missing, is not an MRC file, or is shorter than its header says.
    """
    with _open(path) as file:
        shape = file.data.shape
        images = 1 if len(shape) == 2 else int(np.prod(shape[:-2]))
        return (images, int(shape[-2]), int(shape[-1])), _pixel_size(path, file)


def write_stack(path: Path, stacks: Iterable[NDArray[np.float32]], shape: tuple[int, int, int], pixel_size: float
                ) -> None:
    """Write several stacks as one, with only one of them in memory at a time.

    Parameters
    ----------
    stacks
        Stacks (n, y, x), in order.
    shape
        Shape (images, y, x) of all of them together.
    pixel_size
        Å per pixel.
    """
    with mrcfile.new_mmap(path, shape=shape, mrc_mode=2, overwrite=True) as file:
        start = 0
        for images in stacks:
            file.data[start:start + len(images)] = images
            start += len(images)
        file.set_image_stack()
        _finish_header(file, pixel_size)


def _finish_header(file: mrcfile.mrcfile.MrcFile, pixel_size: float) -> None:
    file.voxel_size = pixel_size
    # The library writes the time into the header, so two files with the same image would differ.
    file.header.label = np.zeros_like(file.header.label)
    file.header.label[0] = LABEL.encode()
    file.header.nlabl = 1


def _open(path: Path) -> mrcfile.mrcfile.MrcFile:
    """Open an MRC file, memory-mapped where possible, so that reading a header does not read the data."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; give an MRC file")
    size = os.path.getsize(path)
    with _reading(path), path.open("rb") as file:
        if file.read(3) in (b"\x1f\x8b\x08", b"BZh"):
            raise DataError(f"{path} is compressed (gzip or bzip2); unpack it first")
    if size < 1024:
        raise DataError(f"{path} has {size} bytes, but an MRC file has at least 1024; copy or write it again")
    with _reading(path):
        _check_extended_header(path, size)
    with _reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.open(path, permissive=True, header_only=True) as file:
            _check_length(path, file, size)
        return mrcfile.mmap(path, mode="r", permissive=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of the library into a message with the file name and the cause."""
    try:
        yield
    except (ValueError, OSError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as an MRC file ({error}); give another file") from None


def _check_extended_header(path: Path, size: int) -> None:
    """Refuse an extended header longer than the file, for which the library would allocate too much memory."""
    with path.open("rb") as file:
        length = file.read(96)[92:]
    if min(int.from_bytes(length, order, signed=True) for order in ("little", "big")) > size:
        raise DataError(f"{path} is not an MRC file: its extended header would be longer than the file; give another")


def _check_length(path: Path, file: mrcfile.mrcfile.MrcFile, size: int) -> None:
    """Refuse a file that is shorter than its header says, before memory is allocated for the data."""
    header = file.header
    shape = tuple(int(header[name]) for name in ("nz", "ny", "nx"))
    if min(shape) < 1 or max(shape) > 2**20:
        raise DataError(f"{path} has size {shape[::-1]} (x y z) in its header, which is not an image; write it again")
    width = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 12: 2}.get(int(header.mode))
    if width is None:
        raise DataError(f"{path} has mode {int(header.mode)}, which is unknown; give mode 0, 1, 2, 6 or 12")
    needed = 1024 + max(0, int(header.nsymbt)) + width * shape[0] * shape[1] * shape[2]
    if size < needed:
        raise DataError(f"{path} is cut short (it has {size} bytes, and its header needs {needed}); copy it again")


def _checked_shape(path: Path, file: mrcfile.mrcfile.MrcFile, dimensions: int) -> tuple[int, ...]:
    """Shape of the data. A volume of one slice counts as an image, and an image does not count as a volume."""
    shape = tuple(int(edge) for edge in file.data.shape)
    if dimensions == 2 and len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != dimensions or (dimensions == 3 and shape[0] == 1):
        size = " x ".join(map(str, shape[::-1]))
        expected = "one image" if dimensions == 2 else "a volume"
        raise DataError(f"{path} has {size} pixels; give {expected}")
    return shape


def _pixel_size(path: Path, file: mrcfile.mrcfile.MrcFile) -> float | None:
    """Pixel size along x in Å; None where the header has 0 or a number without meaning."""
    x, y = float(file.voxel_size.x), float(file.voxel_size.y)
    if not (np.isfinite(x) and x > 0):
        return None
    if abs(x - y) > 1e-3 * x:
        raise DataError(f"{path} has pixels of {x:g} x {y:g} Å; resample it to square pixels")
    return x
