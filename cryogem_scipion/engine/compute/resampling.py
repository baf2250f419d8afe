# SPDX-License-Identifier: GPL-3.0-or-later
"""Resampling by Fourier cropping, and the image size that fits a working pixel size."""
from typing import NamedTuple

from jaxtyping import Complex, Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import DataError, SettingsError

__all__ = ["PIXEL_SIZE_TOLERANCE", "WorkingShape", "fourier_crop", "working_shape"]

PIXEL_SIZE_TOLERANCE = 1e-3
"""Largest relative error of the working pixel size. An input that is coarser by less than this counts as equal."""
SHORT_AXIS_TOLERANCE = 5e-3
"""Largest relative error where no size of an axis reaches ``PIXEL_SIZE_TOLERANCE``: only below 500 pixels."""


class WorkingShape(NamedTuple):
    """How to bring a micrograph to the working pixel size: cut it to ``crop``, then resample it to ``shape``."""

    shape: tuple[int, int]
    """Size (y, x) at the working pixel size."""
    pixel_size: float
    """The exact pixel size of the result, Å."""
    crop: tuple[int, int]
    """Size (y, x) of the part of the input that is resampled. It begins at pixel (0, 0)."""


def fourier_crop(image: Float[Tensor, "*batch y x"], shape: tuple[int, int]) -> Float[Tensor, "*batch y2 x2"]:
    """Return images of the same field on another grid, without aliasing.

    Pixel (0, 0) stays where it is: position x becomes x n' / n. The mean does not change. At the Nyquist frequency of
    the smaller grid the positive and the negative frequency coincide. Their mean is used there, as an ideal low-pass
    filter does on its edge, so white noise shows no line at that frequency.

    Parameters
    ----------
    image
        Real images; the last two axes are resampled.
    shape
        New size (y, x), smaller or larger, even or odd.

    Raises
    ------
    SettingsError
        The new size is below 1 pixel.
    """
    if min(shape) < 1:
        raise SettingsError(f"cannot resample to the size {tuple(shape)}; give sizes of at least 1 pixel")
    rows, columns = image.shape[-2:]
    if (rows, columns) == tuple(shape):
        return image.clone()
    spectrum = _resize_rows(fourier.rfft2(image), shape[0])
    spectrum = _resize_half_axis(spectrum, columns, shape[1])
    return fourier.irfft2(spectrum, shape) * (shape[0] * shape[1] / (rows * columns))


def working_shape(shape: tuple[int, int], pixel_size: float, working_pixel_size: float) -> WorkingShape:
    """Return how to cut and resample a micrograph to the working pixel size.

    The new size is a whole number of pixels. Its pixel size differs from the working pixel size by less than 0.1 %. For
    this, each axis may lose pixels at its end: as few as possible, mostly none. An axis below 500 pixels may have no
    such size. Then the nearest one is used, with an error below 0.5 %.

    Parameters
    ----------
    shape
        Input size (y, x).
    pixel_size
        Å per pixel of the input.
    working_pixel_size
        Å per pixel of the result; not finer than the input.

    Raises
    ------
    DataError
        The input is coarser than the working pixel size, or too small to find a size.
    """
    if not (pixel_size > 0 and working_pixel_size > 0):
        raise DataError(f"pixel sizes must be above 0; found {pixel_size:g} and {working_pixel_size:g} Å; "
                        "set the pixel size")
    ratio = working_pixel_size / pixel_size
    if ratio < 1 - PIXEL_SIZE_TOLERANCE:
        raise DataError(f"the micrograph's pixel size is {pixel_size:g} Å, coarser than the working pixel size "
                        f"{working_pixel_size:g} Å; use micrographs with a smaller pixel size, or a working pixel size "
                        f"of {pixel_size:g} Å")
    if ratio <= 1 + PIXEL_SIZE_TOLERANCE:
        return WorkingShape((shape[0], shape[1]), pixel_size, (shape[0], shape[1]))
    (crop_y, y), (crop_x, x) = (_working_length(length, ratio) for length in shape)
    exact = pixel_size * (crop_y / y * crop_x / x) ** 0.5
    return WorkingShape((y, x), exact, (crop_y, crop_x))


def _working_length(length: int, ratio: float) -> tuple[int, int]:
    """Length of the longest part of an axis that can be resampled by ``ratio``, and its resampled length."""
    nearest = (SHORT_AXIS_TOLERANCE, 0, 0)
    for cropped in range(length, length // 2, -1):
        resampled = max(1, round(cropped / ratio))
        error = abs(cropped / resampled / ratio - 1)
        if error < PIXEL_SIZE_TOLERANCE:
            return cropped, resampled
        nearest = min(nearest, (error, cropped, resampled))
    if not nearest[1]:
        raise DataError(f"an axis of {length} pixels cannot be made {ratio:.4g} times coarser (no whole size fits); "
                        "use larger micrographs or another working pixel size")
    return nearest[1], nearest[2]


def _resize_rows(spectrum: Complex[Tensor, "*batch y xh"], rows: int) -> Complex[Tensor, "*batch y2 xh"]:
    """Crop or pad the axis that holds positive and negative frequencies."""
    before = spectrum.shape[-2]
    shared = min(before, rows)
    positive, negative = (shared + 1) // 2, (shared - 1) // 2
    resized = spectrum.new_zeros((*spectrum.shape[:-2], rows, spectrum.shape[-1]))
    resized[..., :positive, :] = spectrum[..., :positive, :]
    if negative:
        resized[..., -negative:, :] = spectrum[..., -negative:, :]
    if shared % 2 == 0:
        edge = shared // 2
        both = (spectrum[..., edge, :] + spectrum[..., before - edge, :]) / 2
        if rows > before:
            resized[..., edge, :] = resized[..., rows - edge, :] = both / 2
        else:
            resized[..., edge, :] = both
    return resized


def _resize_half_axis(spectrum: Complex[Tensor, "*batch y xh"], before: int, columns: int
                      ) -> Complex[Tensor, "*batch y xh2"]:
    """Crop or pad the axis that holds positive frequencies only; ``before`` is its old length in real space."""
    shared = min(before, columns) // 2 + 1
    resized = spectrum.new_zeros((*spectrum.shape[:-1], columns // 2 + 1))
    resized[..., :shared] = spectrum[..., :shared]
    if columns > before and before % 2 == 0:
        resized[..., before // 2] /= 2
    return resized
