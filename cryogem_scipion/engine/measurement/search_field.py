# SPDX-License-Identifier: GPL-3.0-or-later
"""Micrographs made ready for the search of particles: coarse, without ice gradients, unusual places left out."""
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.resampling import fourier_crop
from cryogem_scipion.engine.compute.robust import robust_deviation
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.spectrum import TILE, tile_periodograms
from cryogem_scipion.engine.simulation.ctf import ctf
from cryogem_scipion.engine.simulation.optics import Optics

__all__ = ["PIXELS", "SearchField", "frequencies", "high_pass", "on_plane", "radial_power", "search_field",
           "search_shape"]

PIXELS = 26
"""Pixels of a particle's diameter at which it is searched."""
FEWEST_PIXELS = 8
"""Fewest pixels of a particle's diameter on the micrographs."""
CLIP = 6.0
"""Robust standard deviations at which grey values are clipped."""
UNUSUAL = 1.6
"""A place is left out where the power of the whitened image exceeds this multiple of the median: carbon, crystals."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SearchField:
    """A real micrograph at the pixel size of the search."""

    image: Float[Tensor, "y x"]
    """In ``grey`` units around 0, zero at excluded places."""
    pixel_size: float
    grey: float
    """Grey values of the file that are 1 in the image."""
    optics: Optics
    transfer: Float[Tensor, "y xh"]
    """What particles' spectra are multiplied with: −CTF and the high-pass filter."""
    radial: Array
    """Power at the frequencies 0, 1/TILE, 2/TILE … cycles a pixel."""
    power: Float[Tensor, "y xh"]
    """The same on the half plane."""
    excluded: NDArray[np.bool_]
    window: Float[Tensor, "y x"]
    """0 at excluded places, 1 elsewhere, with smooth edges."""

    @property
    def shape(self) -> tuple[int, int]:
        """Size (y, x) in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def searched(self) -> float:
        """Part of the field that is searched."""
        return float(1 - self.excluded.mean())


def search_field(image: Float[Tensor, "y x"], pixel_size: float, diameter: float, optics: Optics) -> SearchField:
    """Prepare a micrograph for the search of particles with a diameter (Å).

    Raises
    ------
    DataError
        The field is too small to hold a noise spectrum and particles.
    """
    shape = search_shape((image.shape[0], image.shape[1]), pixel_size, diameter)
    coarse = fourier_crop(image.to(torch.float32), shape)
    pixel_size = pixel_size * image.shape[0] / shape[0]
    grey = 1.0
    for filtered in (False, True):
        if filtered:
            coarse = _without_gradients(coarse, pixel_size, diameter)
        deviation = robust_deviation(coarse)
        if not deviation > 0:
            raise DataError("most pixels of the micrograph have the same value; give a micrograph with noise")
        coarse = (coarse - coarse.median()).clamp(-CLIP * deviation, CLIP * deviation)
    coarse, grey = coarse / deviation, deviation
    radial = radial_power(coarse)
    power = on_plane(radial, shape)
    excluded = _unusual(coarse, power, diameter / pixel_size)
    window = torch.ones(shape)
    if excluded.any():
        grown = ndimage.binary_dilation(excluded, iterations=3).astype(np.float32)
        window = torch.from_numpy(1 - ndimage.gaussian_filter(grown, 2.0)).float()
    transfer = -ctf(shape, pixel_size, optics) * high_pass(shape, pixel_size, diameter)
    return SearchField(coarse * window, pixel_size, grey, optics, transfer, radial, power, excluded, window)


def search_shape(shape: tuple[int, int], pixel_size: float, diameter: float) -> tuple[int, int]:
    """Return the size (y, x) in pixels at which a micrograph is searched for particles with a diameter (Å).

    Raises
    ------
    DataError
        The micrograph is too small to hold a noise spectrum and particles, or its pixels are too coarse.
    """
    if diameter < FEWEST_PIXELS * pixel_size:
        raise DataError(f"particles of {diameter:.0f} Å have {diameter / pixel_size:.1f} pixels on the micrograph, and "
                        f"the search needs {FEWEST_PIXELS}; check the pixel sizes of map and micrographs")
    coarse = max(pixel_size, diameter / PIXELS)
    y, x = (2 * round(edge * pixel_size / coarse / 2) for edge in shape)
    if min(y, x) < TILE:
        raise DataError(f"the micrograph is {min(shape) * pixel_size:.0f} Å wide; particles of {diameter:.0f} Å "
                        f"are searched on at least {TILE * coarse:.0f} Å; give larger micrographs")
    return y, x


def high_pass(shape: tuple[int, int], pixel_size: float, diameter: float) -> Float[Tensor, "y xh"]:
    """Return the filter that removes what varies more slowly than over 1.25 diameters: ice gradients.

    Parameters
    ----------
    diameter
        Of the particle, Å.
    """
    place = torch.from_numpy(frequencies(shape) * (diameter / pixel_size / 0.8)).float()
    return 1 - torch.exp(-place**4)


def _without_gradients(image: Float[Tensor, "y x"], pixel_size: float, diameter: float) -> Float[Tensor, "y x"]:
    """The high-pass filter on a mirrored image: if it were wrapped, an ice gradient would jump at the borders."""
    margin = min(2 * math.ceil(diameter / pixel_size), min(image.shape) - 1)
    wide = functional.pad(image[None, None], (margin,) * 4, mode="reflect")[0, 0]
    shape = (wide.shape[0], wide.shape[1])
    filtered = fourier.irfft2(fourier.rfft2(wide) * high_pass(shape, pixel_size, diameter), shape)
    return filtered[margin:-margin, margin:-margin].contiguous()


def frequencies(shape: tuple[int, int]) -> Array:
    """Magnitude of the frequencies of ``rfft2``, cycles a pixel."""
    values: Array = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    return values


def radial_power(image: Float[Tensor, "y x"]) -> Array:
    """Rotational mean of the power spectrum at multiples of 1/TILE cycles a pixel; the median over tiles, unbiased."""
    power = tile_periodograms(image).median(0).values.double().numpy() / np.log(2)
    ring = np.rint(frequencies((TILE, TILE)) * TILE).astype(int).ravel()
    mean: Array = np.bincount(ring, power.ravel()) / np.bincount(ring)
    return np.maximum(mean, 1e-8)


def on_plane(radial: Array, shape: tuple[int, int]) -> Float[Tensor, "y xh"]:
    """Spread a curve at multiples of 1/TILE cycles a pixel over the half plane."""
    values = np.interp(frequencies(shape) * TILE, np.arange(len(radial)), radial)
    return torch.from_numpy(values.astype(np.float32))


def _unusual(image: Float[Tensor, "y x"], power: Float[Tensor, "y xh"], size: float) -> NDArray[np.bool_]:
    shape = (image.shape[0], image.shape[1])
    white = fourier.irfft2(fourier.rfft2(image) / power.sqrt(), shape).numpy()
    local = ndimage.gaussian_filter(white**2, 0.5 * size, mode="reflect")
    found: NDArray[np.bool_] = ndimage.binary_dilation(local > UNUSUAL * np.median(local),
                                                       iterations=max(1, int(0.3 * size)))
    return found
