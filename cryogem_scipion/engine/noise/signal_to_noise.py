# SPDX-License-Identifier: GPL-3.0-or-later
"""The signal-to-noise ratio of real micrographs, measured without labels.

Particles are places with more power in their own frequency band. The distribution of this local power in real
micrographs is compared with that in simulated micrographs. The result is the signal-to-noise ratio at which the two
agree. Orientations and positions are not needed. The number of particles in a micrograph should be about right: twice
as many in the simulation give about half the ratio. Ratios below 0.05 cannot be told from 0: the power spectrum tells
them (``spectral_ratio``).
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.noise.spectrum import ColouredNoise, resample_half_plane, tile_periodograms

__all__ = ["SnrFit", "fit_snr"]

BACKGROUND_SHARE = 0.4
"""Share of a micrograph's tiles that counts as background: those with the least power in the particles' band."""
QUANTILE_LEVELS = (0.75, 0.80, 0.85, 0.90, 0.95)
"""Quantiles of the local power that are compared. Lower quantiles are background, higher ones contaminants."""
BACKGROUND_LEVEL = 0.25
"""The quantile that stands for the background. Its local power is the unit."""
TRIED_SNRS = tuple(0.01 * 1.25 ** step for step in range(23))
"""Signal-to-noise ratios that are tried, from 0.01 to 1.35; each is 1.25 times the one before."""
MAX_HIDDEN_SHARE = 0.02
"""A pixel is left out if contaminants cover more than this share of its surroundings."""
MAX_MISFIT = 0.25
"""Largest misfit of a reliable result."""
LEAST_RATIO = 0.05
"""Smallest reliable result: by chance some places have less power, and the others look like particles of this ratio."""


@dataclass(frozen=True)
class SnrFit:
    """The signal-to-noise ratio at which simulated micrographs match the real ones."""

    snr: float
    misfit: float
    """Mean absolute difference of the logarithms of local power; 0.1 is 10 %."""
    reliable: bool
    """False if no ratio matches, or one that is too small to be told; then ``snr`` is not a measurement."""


@dataclass(frozen=True)
class _ParticleBand:
    """The frequencies at which particles exceed the noise."""

    taper: Float[Tensor, "n half"]
    """Weights of the frequencies, from 0 to 1."""
    noise_powers: tuple[Float[Tensor, "n half"], ...]
    """Power spectrum of each micrograph's noise, measured where there are few particles."""


def fit_snr(flats: Sequence[Float[Tensor, "_ _"]], signals: Sequence[Float[Tensor, "_ _"]], signal_deviation: float,
            diameter_pixels: float, generator: torch.Generator,
            hidden: Sequence[Float[Tensor, "_ _"]] | None = None) -> SnrFit:
    """Measure the signal-to-noise ratio of real micrographs.

    Parameters
    ----------
    flats
        Real micrographs without ice and outliers, in standard deviations of the noise around the background.
    signals
        Signal s of simulated micrographs, at any contrast, with about as many particles as the real ones.
    signal_deviation
        Standard deviation of s inside the particles' masks, at the contrast of ``signals``.
    diameter_pixels
        Particle diameter in pixels.
    generator
        Random generator for the noise of the simulated micrographs.
    hidden
        For each real micrograph a mask of its contaminants (1); these places are left out.
    """
    band = _particle_band(flats, signals, diameter_pixels)
    noise_powers, taper = band.noise_powers, band.taper
    powers = parallel_map(lambda flat: _local_power(flat, taper, diameter_pixels), flats)
    real = _quantiles(powers if hidden is None else [
        power[_smoothed(mask, diameter_pixels) < MAX_HIDDEN_SHARE] for power, mask in zip(powers, hidden, strict=True)])
    # The local power at any ratio is a weighted sum of the local powers of noise, signal and their product.
    noises = [ColouredNoise(noise_powers[i % len(noise_powers)]).draw((image.shape[0], image.shape[1]), generator)
              for i, image in enumerate(signals)]

    def products(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        n, s = (_band_filtered(image, taper) for image in pair)
        return tuple(_smoothed(product, diameter_pixels) for product in (n * n, n * s, s * s))

    terms = parallel_map(products, list(zip(noises, signals, strict=True)))

    def misfit(ratio: float) -> float:
        signal_factor = math.sqrt(ratio) / signal_deviation
        simulated = _quantiles([nn - 2 * signal_factor * ns + signal_factor**2 * ss for nn, ns, ss in terms])
        return float((simulated / real).log().abs().mean())

    misfits = parallel_map(misfit, TRIED_SNRS)
    best = min(range(len(TRIED_SNRS)), key=misfits.__getitem__)
    is_minimum = 0 < best < len(TRIED_SNRS) - 1
    snr = _vertex(misfits, best) if is_minimum else TRIED_SNRS[best]
    return SnrFit(snr, misfits[best], is_minimum and snr >= LEAST_RATIO and misfits[best] < MAX_MISFIT)


def _particle_band(flats: Sequence[Float[Tensor, "_ _"]], signals: Sequence[Float[Tensor, "_ _"]],
                  diameter_pixels: float) -> _ParticleBand:
    """Return the frequencies at which particles exceed the noise; the parameters are those of ``fit_snr``."""
    signal, total = (torch.stack(parallel_map(lambda image: tile_periodograms(image).mean(0), images)).mean(0)
                     for images in (signals, flats))
    band = _without_slow(signal / total.clamp_min(1e-20), diameter_pixels)
    # Computed a second time, because the tiles of all micrographs take several times the micrographs' memory.
    noise_powers = tuple(parallel_map(lambda flat: _quiet(tile_periodograms(flat), band), flats))
    mean = torch.stack(noise_powers).mean(0)
    taper = _without_slow(signal.sqrt() / mean.clamp_min(1e-20), diameter_pixels)
    return _ParticleBand(taper / taper.max(), noise_powers)


def _band_filtered(image: Float[Tensor, "y x"], taper: Float[Tensor, "n half"]) -> Float[Tensor, "y x"]:
    """Return the image with its spectrum multiplied by weights given on a half plane of any size."""
    shape = (image.shape[0], image.shape[1])
    return fourier.irfft2(fourier.rfft2(image) * resample_half_plane(taper, shape), shape)


def _quiet(powers: Float[Tensor, "tiles n half"], band: Float[Tensor, "n half"]) -> Float[Tensor, "n half"]:
    """Mean power spectrum of the tiles with the fewest particles."""
    count = max(1, math.ceil(BACKGROUND_SHARE * len(powers)))
    return powers[(powers * band).sum((1, 2)).argsort()[:count]].mean(0)


def _local_power(image: Float[Tensor, "y x"], taper: Float[Tensor, "n half"], size: float) -> Float[Tensor, "v u"]:
    """Power in the particles' band, averaged over about a particle's area."""
    return _smoothed(_band_filtered(image, taper).square(), size)


def _smoothed(image: Float[Tensor, "y x"], size: float) -> Float[Tensor, "v u"]:
    """Blurred by a Gaussian with a standard deviation of a quarter of the particle, and sampled at every 4th pixel."""
    square = fourier.fftfreq(image.shape[0])[:, None].square() + fourier.rfftfreq(image.shape[1]).square()
    blur = torch.exp(-2 * (math.pi * size / 4) ** 2 * square)
    blurred = fourier.irfft2(fourier.rfft2(image) * blur, (image.shape[0], image.shape[1]))
    return blurred[::4, ::4].contiguous()


def _without_slow(plane: Float[Tensor, "n half"], size: float) -> Float[Tensor, "n half"]:
    """The weights without low frequencies: zero where a period is longer than a particle, as for ice."""
    radius = torch.hypot(fourier.fftfreq(plane.shape[0])[:, None], fourier.rfftfreq(plane.shape[0]))
    return torch.where(radius < 1 / size, torch.zeros_like(plane), plane)


def _quantiles(maps: Sequence[Float[Tensor, "..."]]) -> Float[Tensor, " q"]:
    """Quantiles of local power in units of the background's, averaged over the micrographs."""
    levels = torch.tensor([BACKGROUND_LEVEL, *QUANTILE_LEVELS])
    quantiles = torch.stack([torch.quantile(values.flatten(), levels) for values in maps])
    return (quantiles[:, 1:] / quantiles[:, :1]).mean(0)


def _vertex(misfits: Sequence[float], best: int) -> float:
    """The ratio at the minimum of a parabola through the best misfit and its neighbours, in log ratio."""
    left, middle, right = misfits[best - 1:best + 2]
    bend = left - 2 * middle + right
    step = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return float(TRIED_SNRS[best] * (TRIED_SNRS[1] / TRIED_SNRS[0]) ** step)
