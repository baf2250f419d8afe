# SPDX-License-Identifier: GPL-3.0-or-later
"""The sign of the contrast: whether particles are dark in real micrographs, or bright because they were inverted.

Every micrograph is filtered with the mean image of the simulated particles, relative to the power of the real
micrographs (matched filter). Dark particles make low values at their centres, bright particles make high values. So
the third moment of the filtered grey values is negative if particles are dark. The power spectrum does not tell the
sign, and the third moment is the lowest one that does.

Counting noise is skewed by itself, and it does not matter here. A pixel of a matched filter is a mean over about a
particle's area, so noise that is independent between pixels becomes almost symmetric. What is left is predicted from
the skewness of the highest frequencies. It is subtracted, and it counts as an error, because a detector is not quite
linear.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.noise.spectrum import TILE, resample_half_plane, tile_periodograms

__all__ = ["ContrastSign", "measure_contrast_sign"]

CERTAIN_ERRORS, PROBABLE_ERRORS = 4.0, 2.0
"""Standard errors of a certain and of a probable sign. Noise alone exceeds 4 on one side once in 30 000 sets. The
error is never smaller than that of Gaussian noise, so this also holds for the few parts of one small micrograph."""
MIN_POWER_SHARE = 0.05
"""Smallest share of the filtered micrographs' power that has to come from particles for a certain sign. Weaker
asymmetries can come from ice or from the detector."""
MIN_POWER = 0.01
"""Smallest power by which the filter is divided, as a fraction of the mean power. A filter may have removed the
frequencies with less."""
CLIP = 5.0
"""Standard deviations at which filtered values are clipped, so that no single place decides."""
NOISE_FREQUENCY = 0.25
"""Frequency in cycles per pixel above which the skewness is that of the noise: half of the Nyquist frequency."""
AGREEMENT = 0.8
"""Share of the micrographs that have to agree with a certain sign, so that one unusual micrograph does not decide."""
PART = 2.0
"""Edge of the parts of a micrograph whose scatter gives the error, in particle diameters: nearly independent parts."""
LARGEST = 2.0
"""Chance deviations at which the asymmetry of a part is clipped. So a few parts with strong particles, or with a
contaminant, add little scatter and do not decide."""


@dataclass(frozen=True)
class ContrastSign:
    """Asymmetry: skewness of the micrographs in the matched filter; negative if particles are dark, else positive."""

    measured: float
    """Mean over the real micrographs, less what the noise's own skewness makes."""
    errors: float
    """Standard errors by which parts of the micrographs are asymmetric; negative for dark particles."""
    agreeing: float
    """Share of the micrographs that have the sign of ``measured`` by more than chance."""
    expected: float
    """Mean over the simulated micrographs without noise. Noise makes the asymmetry smaller, but does not change its
    sign."""

    @property
    def dark(self) -> bool:
        """Whether particles are certainly dark."""
        return self._certain and self.errors < -CERTAIN_ERRORS

    @property
    def inverted(self) -> bool:
        """Whether particles are certainly bright."""
        return self._certain and self.errors > CERTAIN_ERRORS

    @property
    def doubtful(self) -> bool:
        """Whether particles are probably bright."""
        return not self.inverted and self.expected < 0 and self.errors > PROBABLE_ERRORS

    @property
    def _certain(self) -> bool:
        """Whether the micrographs agree, and their asymmetry is as large as particles of a noticeable power make it.

        Particles with a share f of the power make f to the power 1.5 of the asymmetry without noise.
        """
        return (self.expected < 0 and abs(self.measured) > MIN_POWER_SHARE**1.5 * -self.expected
                and self.agreeing >= AGREEMENT)


def measure_contrast_sign(flats: Sequence[Float[Tensor, "_ _"]], signals: Sequence[Float[Tensor, "_ _"]],
                          centres: Sequence[Float[Tensor, "_ 2"]], diameter_pixels: float) -> ContrastSign:
    """Compare real micrographs with the mean simulated particle and with its inversion.

    Parameters
    ----------
    flats
        Real micrographs without ice and outliers, at any scale, at least 128 pixels a side.
    signals
        Signal s of simulated micrographs, at any contrast: positive where particles are dark.
    centres
        Centres (y, x) of the particles in each of ``signals``, pixels.
    diameter_pixels
        Particle diameter in pixels.
    """
    power = torch.stack(parallel_map(lambda flat: tile_periodograms(flat).mean(0), flats)).mean(0)
    power = power.clamp_min(max(MIN_POWER * float(power.mean()), 1e-20))
    weights = _mean_particle(signals, centres, diameter_pixels) / power
    weights = torch.where(_radius(TILE) < 1 / diameter_pixels, 0.0, weights)  # slower than a particle: ice
    edge = max(1, round(PART * diameter_pixels))
    parts = parallel_map(lambda flat: _asymmetries(_filtered(flat, weights), edge), flats)
    noise = _noise_asymmetry(flats, weights, power)
    means = torch.stack([values.mean() for values in parts]) - noise
    measured = float(means.mean())
    chance = _chance(power * weights.square(), sum(flat.numel() for flat in flats))
    agrees = means * math.copysign(1, measured) > chance * math.sqrt(len(flats))
    expected = parallel_map(lambda signal: _skewness(_filtered(-signal, weights)), signals)
    return ContrastSign(measured, _standard_errors(torch.cat(parts), noise, chance), float(agrees.float().mean()),
                        sum(expected) / len(expected))


def _mean_particle(signals: Sequence[Float[Tensor, "_ _"]], centres: Sequence[Float[Tensor, "_ 2"]],
                   diameter_pixels: float) -> Float[Tensor, "n half"]:
    """Spectrum of the mean of all particles with their centres at the origin; real, averaged over directions."""
    half = TILE // 2 * math.ceil(2 * diameter_pixels / TILE)
    total, count = torch.zeros(2 * half, 2 * half), 0
    for signal, places in zip(signals, centres, strict=True):
        padded = torch.nn.functional.pad(signal - signal.mean(), (half, half, half, half))
        for y, x in places.round().long().tolist():
            if 0 <= y < signal.shape[0] and 0 <= x < signal.shape[1]:
                total += padded[y:y + 2 * half, x:x + 2 * half]
                count += 1
    window = torch.hann_window(2 * half, periodic=True)
    mean = torch.roll(total * window[:, None] * window / max(count, 1), (-half, -half), (0, 1))
    return _isotropic(resample_half_plane(fourier.rfft2(mean).real, (TILE, TILE)))


def _isotropic(plane: Float[Tensor, "n half"]) -> Float[Tensor, "n half"]:
    """The plane averaged over rings one frequency step wide."""
    ring = (_radius(plane.shape[0]) * plane.shape[0]).round().long()
    means = torch.bincount(ring.flatten(), plane.flatten()) / torch.bincount(ring.flatten())
    return means[ring].to(plane)


def _radius(size: int) -> Float[Tensor, "n half"]:
    """Frequencies on the half plane of a square, cycles per pixel."""
    return torch.hypot(fourier.fftfreq(size)[:, None], fourier.rfftfreq(size))


def _filtered(image: Float[Tensor, "y x"], weights: Float[Tensor, "n half"]) -> Float[Tensor, "y x"]:
    """The image with its spectrum multiplied by weights."""
    shape = (image.shape[0], image.shape[1])
    return fourier.irfft2(fourier.rfft2(image) * resample_half_plane(weights, shape), shape)


def _asymmetries(filtered: Float[Tensor, "y x"], edge: int) -> Float[Tensor, " parts"]:
    """Third Hermite moment of the values in each part of an image, in units of the whole image's deviation.

    The third Hermite moment is the skewness, but the mean of a part adds less chance variation.
    """
    deviates = (filtered / filtered.std().clamp_min(1e-20)).clamp(-CLIP, CLIP)
    moments = deviates**3 - 3 * deviates
    rows, columns = (max(1, round(size / edge)) for size in filtered.shape)
    return torch.stack([part.mean() for band in moments.tensor_split(rows) for part in band.tensor_split(columns, 1)])


def _standard_errors(parts: Float[Tensor, " parts"], noise: float, chance: float) -> float:
    """Standard errors by which the parts' mean exceeds the noise's asymmetry, which counts as an error, too.

    Parameters
    ----------
    chance
        Standard error of the mean of all parts if they hold Gaussian noise only.
    """
    count = len(parts)
    unit = LARGEST * chance * math.sqrt(count)
    values = ((parts - noise) / unit).clamp(-1, 1)
    scatter = float(values.std()) if count > 1 else 0.0
    return float(values.mean()) / math.hypot(max(scatter, 1 / LARGEST) / math.sqrt(count), noise / unit)


def _skewness(image: Float[Tensor, "y x"]) -> float:
    """Skewness of the values of an image with mean 0."""
    return float((image**3).mean() / image.square().mean().clamp_min(1e-20) ** 1.5)


def _chance(power: Float[Tensor, "n half"], pixels: int) -> float:
    """Standard error of the asymmetry of Gaussian noise with this power spectrum.

    The covariance of two third Hermite moments is 6 times the cube of the correlation (Mehler's formula).
    """
    covariance = fourier.irfft2(resample_half_plane(power, (2 * TILE, 2 * TILE)).to(torch.complex64),
                                (2 * TILE, 2 * TILE))
    correlation = covariance / covariance[0, 0].clamp_min(1e-20)
    return math.sqrt(6 * max(float((correlation**3).sum()), 1.0) / pixels)


def _noise_asymmetry(flats: Sequence[Float[Tensor, "_ _"]], weights: Float[Tensor, "n half"],
                     power: Float[Tensor, "n half"]) -> float:
    """The asymmetry that independent skewed counts make after the detector and the filter.

    A filter h multiplies the third cumulant of independent pixels by Σ h³, and their variance by Σ h². The detector
    makes the power spectrum from white noise. If a part of the power is no counting noise, the result is too large.
    """
    detector = power.sqrt()
    fast = torch.where(_radius(TILE) > NOISE_FREQUENCY, 1 / detector, 0.0)
    measured = parallel_map(lambda flat: float(_asymmetries(_filtered(flat, fast), min(flat.shape)).mean()), flats)
    return (sum(measured) / len(measured) * _skewness_factor(weights * detector) / _skewness_factor(fast * detector))


def _skewness_factor(weights: Float[Tensor, "n half"]) -> float:
    """Factor by which a filter multiplies the skewness of independent pixels."""
    point = torch.zeros(2 * TILE, 2 * TILE)
    point[0, 0] = 1
    kernel = _filtered(point, weights)
    return float((kernel**3).sum() / kernel.square().sum().clamp_min(1e-20) ** 1.5)
