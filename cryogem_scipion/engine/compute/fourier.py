# SPDX-License-Identifier: GPL-3.0-or-later
"""All Fourier transforms of the engine. The transform of an image does not depend on other images, not in one bit.

A library chooses its algorithm by the number of images, by the address of the data in memory and by the number of
threads. The last bit of the result depends on that choice. So on a CPU the library (ducc0,
https://gitlab.mpcdf.mpg.de/mtr/ducc) gets one image, or one plane of a volume, at a time. The memory begins at a
multiple of 64 bytes, and the library uses one thread. On a GPU torch's library is used, and the last bit may vary.
"""
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from ducc0 import fft as library
from jaxtyping import Complex, Float
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from cryogem_scipion.engine.compute.threads import parallel_map

__all__ = ["each_irfft2", "fast_length", "fftfreq", "irfft2", "irfft3", "rfft2", "rfft3", "rfftfreq", "scratch_array"]

ALIGNMENT = 64
"""Bytes: as many as the widest instructions of a processor read at once."""

_thread_local = threading.local()

Array = NDArray[Any]
fftfreq, rfftfreq = torch.fft.fftfreq, torch.fft.rfftfreq
"""Frequencies of a transform; torch's functions of the same names."""


def fast_length(length: int, *, real: bool = True) -> int:
    """Return the next length with a fast transform: small prime factors, up to 5 if ``real``, else up to 11.

    Parameters
    ----------
    real
        Whether the values are real; otherwise they are complex.
    """
    return int(library.good_size(length, real))


def rfft2(images: Float[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch y xh"]:
    """Return the half spectra of real images (x frequencies from 0 to Nyquist), without a factor.

    Parameters
    ----------
    images
        float32 or float64; the last two axes are transformed.
    """
    if images.device.type != "cpu":
        spectra: Tensor = torch.fft.rfft2(images)
        return spectra
    y, x = images.shape[-2:]
    out = torch.empty((*images.shape[:-2], y, x // 2 + 1), dtype=_complex(images.dtype))
    _each_image(_forward, images, out)
    return out


def irfft2(spectra: Complex[Tensor, "*batch y xh"], shape: tuple[int, int]) -> Float[Tensor, "*batch y x"]:
    """Return the real images of half spectra: the inverse of ``rfft2``.

    Parameters
    ----------
    shape
        Size (y, x) of the images. It is needed because a half spectrum does not say whether x is even or odd.
    """
    if spectra.device.type != "cpu":
        images: Tensor = torch.fft.irfft2(spectra, s=shape)
        return images
    out = torch.empty((*spectra.shape[:-2], *shape), dtype=spectra.real.dtype)
    _each_image(_backward, spectra, out)
    return out


def each_irfft2(spectra: Array, width: int) -> Iterator[Array]:
    """Yield the square images of half spectra one by one, each equal to the result of ``irfft2``.

    All images use the same memory: the caller uses one image before it takes the next. Input and output are numpy
    arrays, without torch's overhead.

    Parameters
    ----------
    spectra
        Half spectra (image, y, xh).
    width
        Size of the square images in pixels.
    """
    image = scratch_array("image", (width, width), spectra.real.dtype)
    for spectrum in spectra:
        _backward(_in_aligned_memory(spectrum), image)
        yield image


def scratch_array(purpose: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an array of this thread with undefined contents, the same memory at every call with this purpose.

    The memory is reused because its first use costs as much time as a transform. It begins at a multiple of 64 bytes.
    """
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    buffers: dict[str, Array] = _thread_local.__dict__
    if purpose not in buffers or len(buffers[purpose]) < size:
        memory = np.empty(size + ALIGNMENT, np.uint8)
        buffers[purpose] = memory[-_address(memory) % ALIGNMENT :]
    return buffers[purpose][:size].view(kind).reshape(shape)


def rfft3(volume: Float[Tensor, "z y x"]) -> Complex[Tensor, "z y xh"]:
    """Return the half spectrum of a real volume (x frequencies from 0 to Nyquist), without a factor.

    The planes are transformed one by one, then the columns along z. The available threads share this work.
    """
    if volume.device.type != "cpu":
        spectrum: Tensor = torch.fft.rfftn(volume)
        return spectrum
    z, y, x = volume.shape
    out = torch.empty((z, y, x // 2 + 1), dtype=_complex(volume.dtype))
    before, after = volume.numpy(), out.numpy()
    parallel_map(lambda plane: _call(_forward, before[plane], after[plane]), range(z))
    parallel_map(lambda row: _call(_columns_forward, after[:, row], after[:, row]), range(y))
    return out


def irfft3(spectrum: Complex[Tensor, "z y xh"], shape: tuple[int, int, int]) -> Float[Tensor, "z y x"]:
    """Return the real volume of a half spectrum: the inverse of ``rfft3``.

    Parameters
    ----------
    spectrum
        Half spectrum (z, y, xh).
    shape
        Size (z, y, x) of the volume.
    """
    if spectrum.device.type != "cpu":
        volume: Tensor = torch.fft.irfftn(spectrum, s=shape)
        return volume
    between = np.empty(tuple(spectrum.shape), spectrum.numpy().dtype)
    out = torch.empty(shape, dtype=spectrum.real.dtype)
    before, after = spectrum.numpy(), out.numpy()
    parallel_map(lambda row: _call(_columns_backward, before[:, row], between[:, row]), range(spectrum.shape[1]))
    parallel_map(lambda plane: _call(_backward, between[plane], after[plane]), range(shape[0]))
    return out


def _each_image(transform: Callable[[Array, Array], None], before: Tensor, after: Tensor) -> None:
    images = before.reshape(-1, *before.shape[-2:]).numpy()
    for image, out in zip(images, after.view(-1, *after.shape[-2:]).numpy(), strict=True):
        _call(transform, image, out)


def _call(transform: Callable[[Array, Array], None], before: Array, after: Array) -> None:
    """Transform one array into another; the library gets both in aligned memory."""
    out = after if _is_aligned(after) and after is not before else scratch_array("out", after.shape, after.dtype)
    transform(_in_aligned_memory(before), out)
    if out is not after:
        after[...] = out


def _forward(image: Array, out: Array) -> None:
    library.r2c(image, axes=(0, 1), out=out, nthreads=1)


def _backward(spectrum: Array, out: Array) -> None:
    library.c2r(spectrum, axes=(0, 1), lastsize=out.shape[1], forward=False, inorm=2, out=out, nthreads=1)


def _columns_forward(columns: Array, out: Array) -> None:
    library.c2c(columns, axes=(0,), out=out, nthreads=1)


def _columns_backward(columns: Array, out: Array) -> None:
    library.c2c(columns, axes=(0,), forward=False, inorm=2, out=out, nthreads=1)


def _complex(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype == torch.float64 else torch.complex64


def _in_aligned_memory(array: Array) -> Array:
    if _is_aligned(array):
        return array
    copy = scratch_array("in", array.shape, array.dtype)
    copy[...] = array
    return copy


def _is_aligned(array: Array) -> bool:
    return array.flags.c_contiguous and _address(array) % ALIGNMENT == 0


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
