# SPDX-License-Identifier: GPL-3.0-or-later
"""Stationary noise with a given power spectrum and grey-value distribution, for images of any size."""
import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.exposure import Exposure

__all__ = ["TILE", "ColouredNoise", "resample_half_plane", "tile_periodograms", "white_noise"]

TILE = 128
"""Edge in pixels of the tiles on which spectra are measured; their resolution is 1/128 of the sampling frequency."""


@dataclass(frozen=True)
class ColouredNoise:
    """Gaussian noise with a power spectrum. A grey-value curve maps it to the measured grey-value distribution."""

    power: Float[Tensor, "n half"]
    """Power on the rfft2 half plane of an n x n tile; its mean over the full plane is the variance."""
    curve: Float[Tensor, " knots"] = field(default_factory=lambda: torch.linspace(-4, 4, 65))
    """Grey-value curve: its values at evenly spaced Gaussian deviates from -4 to 4, extrapolated linearly. The identity
    gives Gaussian noise."""
    modulated_share: Float[Tensor, " half"] | None = None
    """Share of the power that the CTF modulates (Thon rings), from frequency 0 to Nyquist; None: no rings."""

    def draw(self, shape: tuple[int, int], generator: torch.Generator,
             exposure: Exposure | None = None) -> Float[Tensor, "y x"]:
        """Draw noise of the given shape: float32, on the CPU, not periodic.

        Parameters
        ----------
        exposure
            Optics that make the Thon rings. None: no rings, because rings of many defocus values average out.
        """
        padded = (_even_fast_length(shape[0] + TILE // 2), _even_fast_length(shape[1] + TILE // 2))
        amplitude = resample_half_plane(self.power.clamp(min=0).sqrt(), padded)
        if exposure is not None and self.modulated_share is not None:
            amplitude = amplitude * exposure.modulation(self.modulated_share, padded).sqrt()
        deviates = torch.randn(padded, generator=generator)
        coloured = fourier.irfft2(fourier.rfft2(deviates) * amplitude, padded)[:shape[0], :shape[1]]
        deviation = math.sqrt(self.variance)
        return deviation * self._curved(coloured / deviation)

    @property
    def variance(self) -> float:
        """Variance of the Gaussian noise before the curve."""
        n = self.power.shape[0]
        weights = torch.full((self.power.shape[1],), 2.0)
        weights[0] = 1
        if n % 2 == 0:
            weights[-1] = 1
        return max(float((self.power.double() * weights).sum() / (n * n)), 1e-12)

    def _curved(self, deviates: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
        """The curve at Gaussian deviates, by linear interpolation."""
        knots = len(self.curve)
        position = (deviates + 4) / 8 * (knots - 1)
        below = position.floor().clamp(0, knots - 2)
        index = below.long()
        return torch.lerp(self.curve[index], self.curve[index + 1], position - below)


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
