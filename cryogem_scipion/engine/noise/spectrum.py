# SPDX-License-Identifier: GPL-3.0-or-later
"""Stationary noise with a given power spectrum and grey-value distribution, for images of any size."""
import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.exposure import Exposure

__all__ = ["TILE", "ColouredNoise", "CurvePlace", "full_plane", "half_plane_weights", "resample_half_plane",
           "smoothed_power", "tile_periodograms", "turned_half_plane", "white_noise", "whitened"]

TILE = 128
"""Edge in pixels of the tiles on which spectra are measured; their resolution is 1/128 of the sampling frequency."""
CurvePlace = Literal["fine", "pixels", "filtered"]
"""Which values the grey-value curve maps; see ``ColouredNoise.curve_at``."""
FINER = 3
"""Pixels of the fine grid on two of the image: then products of two frequencies of the image do not wrap into it."""


@dataclass(frozen=True)
class ColouredNoise:
    """Independent grey values with a measured distribution, which a filter gives a power spectrum.

    So fine noise has the skewness of counted electrons, and coarse noise is nearly Gaussian, as on a detector.
    """

    power: Float[Tensor, "n half"]
    """Power on the rfft2 half plane of an n x n tile; its mean over the full plane is the variance."""
    curve: Float[Tensor, " knots"] = field(default_factory=lambda: torch.linspace(-4, 4, 65))
    """Grey-value curve: grey values at evenly spaced Gaussian deviates from -4 to 4, extrapolated linearly; mean 0 and
    variance 1. The identity gives Gaussian noise."""
    modulated_share: Float[Tensor, " half"] | None = None
    """Share of the power that the CTF modulates (Thon rings), from frequency 0 to Nyquist; None: no rings."""
    curve_at: CurvePlace = "pixels"
    """What the curve maps. pixels: independent values of the image's pixels, as where electrons are counted in them.
    fine: values of a finer grid, of which the image has the lower frequencies, as where images were binned.
    filtered: the filtered noise, as in models of version 0.1.0, so that coarse noise is skewed, too."""

    def draw(self, shape: tuple[int, int], generator: torch.Generator, exposure: Exposure | None = None,
             relative_power: Float[Tensor, "n half"] | None = None) -> Float[Tensor, "y x"]:
        """Draw noise of the given shape: float32, on the CPU, not periodic.

        Parameters
        ----------
        exposure
            Optics that make the Thon rings. None: no rings, because rings of many defocus values average out.
        relative_power
            Factor on the power: what one micrograph has of the whole set's. None: 1.
        """
        power = self.power.clamp(min=0) if relative_power is None else self.power.clamp(min=0) * relative_power
        padded = (_even_fast_length(shape[0] + TILE // 2), _even_fast_length(shape[1] + TILE // 2))
        amplitude = resample_half_plane(power.sqrt(), padded)
        if exposure is not None and self.modulated_share is not None:
            amplitude = amplitude * exposure.modulation(self.modulated_share, padded).sqrt()
        coloured = fourier.irfft2(self._spectrum(padded, generator) * amplitude, padded)[:shape[0], :shape[1]]
        if self.curve_at != "filtered":
            return coloured
        deviation = math.sqrt(_variance(power))
        return deviation * self._curved(coloured / deviation)

    def _spectrum(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Half plane of the noise before the filter, for an image of even size."""
        if self.curve_at != "fine" or self._is_gaussian:
            deviates = torch.randn(shape, generator=generator)
            return fourier.rfft2(deviates if self.curve_at == "filtered" else self._curved(deviates))
        fine = (shape[0] * FINER // 2, shape[1] * FINER // 2)
        spectrum = fourier.rfft2(self._curved(torch.randn(fine, generator=generator))) * (2 / FINER)
        half = shape[0] // 2
        return torch.cat([spectrum[:half], spectrum[-half:]])[:, :shape[1] // 2 + 1]

    @property
    def _is_gaussian(self) -> bool:
        return torch.equal(self.curve, torch.linspace(-4, 4, len(self.curve)).to(self.curve))

    @property
    def variance(self) -> float:
        """Variance of the noise."""
        return _variance(self.power)

    def _curved(self, deviates: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
        """The curve at Gaussian deviates, by linear interpolation; overwrites them, a few rows at a time."""
        knots = len(self.curve)
        for rows in torch.split(deviates, 64):
            position = (rows + 4) / 8 * (knots - 1)
            below = position.floor().clamp(0, knots - 2)
            index = below.long()
            rows.copy_(torch.lerp(self.curve[index], self.curve[index + 1], position - below))
        return deviates


def _variance(power: Float[Tensor, "n half"]) -> float:
    """Variance of noise with this power: the mean over the full plane."""
    n = power.shape[0]
    return max(float((power.double() * half_plane_weights(n)).sum() / (n * n)), 1e-12)


def half_plane_weights(width: int) -> Float[Tensor, " half"]:
    """Return how often each column of an rfft2 half plane occurs in the full plane of an image of this width."""
    weights = torch.full((width // 2 + 1,), 2.0)
    weights[0] = 1
    if width % 2 == 0:
        weights[-1] = 1
    return weights


def white_noise(variance: float = 1.0) -> ColouredNoise:
    """Return uncorrelated Gaussian noise of a given variance."""
    return ColouredNoise(torch.full((TILE, TILE // 2 + 1), variance))


def tile_periodograms(image: Float[Tensor, "y x"], tile: int = TILE) -> Float[Tensor, "tiles n half"]:
    """Return the periodograms of overlapping Hann-windowed tiles; those of white noise have its variance as mean.

    Parameters
    ----------
    tile
        Edge of a tile in pixels. Neighbouring tiles overlap by half.

    Raises
    ------
    DataError
        The image is smaller than a tile.

    References
    ----------
    doi:10.1109/TAU.1967.1161901
    """
    if min(image.shape) < tile:
        raise DataError(f"the image has {tuple(image.shape)} pixels; a noise spectrum needs at least {tile} on each "
                        "side")
    window = torch.hann_window(tile, periodic=True, dtype=image.dtype)
    window = window[:, None] * window[None]
    tiles = image.unfold(0, tile, tile // 2).unfold(1, tile, tile // 2).reshape(-1, tile, tile)
    return fourier.rfft2(tiles * window).abs().square() / window.square().sum()


def whitened(image: Float[Tensor, "y x"], power: Float[Tensor, "n half"], lowest: float) -> Float[Tensor, "y x"]:
    """Return an image divided by the root of a power spectrum, without frequencies below ``lowest`` cycles a pixel."""
    shape = (image.shape[0], image.shape[1])
    radius = torch.hypot(fourier.fftfreq(shape[0])[:, None], fourier.rfftfreq(shape[1]))
    factor = torch.where(radius < lowest, 0.0, resample_half_plane(power.rsqrt(), shape))
    return fourier.irfft2(fourier.rfft2(image) * factor, shape)


def _even_fast_length(size: int) -> int:
    """The next even size that transforms fast."""
    return 2 * fourier.fast_length((size + 1) // 2)


def resample_half_plane(plane: Float[Tensor, "n half"], shape: tuple[int, int]) -> Float[Tensor, "y xh"]:
    """Return the values of an rfft2 half plane at the frequencies of another image size, by bilinear interpolation."""
    n = plane.shape[0]
    columns = torch.arange(shape[1] // 2 + 1) * (n / shape[1])
    rows = (fourier.fftfreq(shape[0]) * n) % n
    left = columns.floor().clamp(max=plane.shape[1] - 2)
    near = plane[:, left.long()]
    wide = torch.lerp(near, plane[:, left.long() + 1], (columns - left).to(plane))
    low = rows.floor()
    return torch.lerp(wide[low.long() % n], wide[(low.long() + 1) % n], (rows - low).to(plane)[:, None])


def full_plane(plane: Float[Tensor, "n half"]) -> Float[Tensor, "n n"]:
    """Return a power spectrum on the full plane: the other half is this one rotated by 180 degrees."""
    n = plane.shape[0]
    full = plane[:, fourier.fftfreq(n).mul(n).round().abs().long()]
    rotated = full.flip(0).roll(1, 0)
    return torch.where(fourier.fftfreq(n)[None] < 0, rotated, full)


def turned_half_plane(plane: Float[Tensor, "n half"], turns: int, mirrored: bool) -> Float[Tensor, "n half"]:
    """Return the power spectrum of an image that is rotated by ``turns`` quarter turns, then ``mirrored`` in x or not.

    The rotation is that of ``torch.rot90``.
    """
    full, n = full_plane(plane), plane.shape[0]
    negative = -torch.arange(n) % n
    if turns % 2:
        full = full.T[negative]
    if mirrored:
        full = full[:, negative]
    return full[:, :plane.shape[1]].contiguous()


def smoothed_power(power: Float[Tensor, "n half"], width: float) -> Float[Tensor, "n half"]:
    """Return a power spectrum, its logarithm smoothed by a Gaussian of this standard deviation in frequency bins."""
    reach = max(1, math.ceil(3 * width))
    kernel = torch.exp(-torch.arange(-reach, reach + 1) ** 2 / (2 * width**2))
    kernel = kernel / kernel.sum()
    n = power.shape[0]
    full = full_plane(power.clamp(min=1e-12).log())
    along = fourier.rfft2(torch.zeros(n).index_add(0, torch.arange(-reach, reach + 1) % n, kernel)[None])[0].real
    both = along[fourier.fftfreq(n).mul(n).round().abs().long()]
    smooth = fourier.irfft2(fourier.rfft2(full) * both[:, None] * along, (n, n))
    return smooth[:, :power.shape[1]].exp()
