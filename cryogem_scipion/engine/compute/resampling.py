# SPDX-License-Identifier: GPL-3.0-or-later
"""Grids in real and Fourier space: resampling by cropping frequencies, and sizes that fit a pixel size."""
from typing import NamedTuple

from jaxtyping import Complex, Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import DataError, SettingsError

__all__ = ["TOLERANCE", "WorkingShape", "fourier_crop", "working_shape"]

TOLERANCE = 1e-3
"""Largest relative error of a working pixel size, and the excess up to which an input counts as fine enough."""
SMALL_TOLERANCE = 5e-3
"""The same where no part of an axis does better; happens below 500 pixels only."""


class WorkingShape(NamedTuple):
    """Grid on which a micrograph is worked on: cut the input to ``crop``, then resample it to ``shape``."""

    shape: tuple[int, int]
    """Size (y, x) at the working pixel size."""
    pixel_size: float
    """The pixel size this gives exactly, Å."""
    crop: tuple[int, int]
    """Size (y, x) of the part of the input to keep, from pixel (0, 0)."""


def fourier_crop(image: Float[Tensor, "*batch y x"], shape: tuple[int, int]) -> Float[Tensor, "*batch y2 x2"]:
    """Resample images over the same field to another grid, without aliasing.

    Pixel (0, 0) stays where it is: position x becomes x n' / n. The mean is kept. At the Nyquist frequency
    of the smaller grid, where the two signs fall together, their mean is taken (the value of an ideal
    low-pass on its edge), so white noise has no line there that stands out.

    Parameters
    ----------
    image
        Real images; the last two axes are resampled.
    shape
        Size (y, x) wanted, smaller or larger, even or odd.
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
    """Size to which a micrograph is resampled so that its pixel becomes the working pixel size.

    Each axis loses the fewest pixels at its end (mostly none) for which a whole size gives the pixel size
    with an error below 0.1 % (where fewer than 500 pixels allow none, the nearest, below 0.5 %).

    Parameters
    ----------
    shape
        Input size (y, x).
    pixel_size
        Å per pixel of the input.
    working_pixel_size
        Å per pixel wanted; not finer than the input.

    Raises
    ------
    DataError
        The input is coarser than the working pixel size, or too small for any size to fit.
    """
    if not (pixel_size > 0 and working_pixel_size > 0):
        raise DataError(f"pixel sizes must be above 0; found {pixel_size:g} and {working_pixel_size:g} Å; "
                        "set the pixel size")
    ratio = working_pixel_size / pixel_size
    if ratio < 1 - TOLERANCE:
        raise DataError(f"the micrograph's pixel size is {pixel_size:g} Å, coarser than the working pixel size "
                        f"{working_pixel_size:g} Å; use finer micrographs, or work at {pixel_size:g} Å")
    if ratio <= 1 + TOLERANCE:
        return WorkingShape((shape[0], shape[1]), pixel_size, (shape[0], shape[1]))
    (crop_y, y), (crop_x, x) = (_working_length(length, ratio) for length in shape)
    exact = pixel_size * (crop_y / y * crop_x / x) ** 0.5
    return WorkingShape((y, x), exact, (crop_y, crop_x))


def _working_length(length: int, ratio: float) -> tuple[int, int]:
    """The longest part of an axis, and its resampled length, whose ratio is right to within the tolerance."""
    nearest = (SMALL_TOLERANCE, 0, 0)
    for kept in range(length, length // 2, -1):
        resampled = max(1, round(kept / ratio))
        error = abs(kept / resampled / ratio - 1)
        if error < TOLERANCE:
            return kept, resampled
        nearest = min(nearest, (error, kept, resampled))
    if not nearest[1]:
        raise DataError(f"no whole size makes an axis of {length} pixels {ratio:.4g} times coarser; "
                        "use larger micrographs or another working pixel size")
    return nearest[1], nearest[2]


def _resize_rows(spectrum: Complex[Tensor, "*batch y xh"], rows: int) -> Complex[Tensor, "*batch y2 xh"]:
    """Change the length of the axis that holds both signs of the frequency."""
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
    """Change the length of the axis that holds half the frequencies; ``before`` is its length in real space."""
    shared = min(before, columns) // 2 + 1
    resized = spectrum.new_zeros((*spectrum.shape[:-1], columns // 2 + 1))
    resized[..., :shared] = spectrum[..., :shared]
    if columns > before and before % 2 == 0:
        resized[..., before // 2] /= 2
    return resized
