# SPDX-License-Identifier: GPL-3.0-or-later
"""The sign of the contrast: whether particles are dark in real micrographs, or bright because they were inverted.

Particles, ice crystals and dust scatter electrons and make dark places. Noise is symmetric. So the grey values of the
image, filtered to the particles' frequency band, have a longer tail on the dark side. Simulated micrographs
show how much longer it is expected to be. In an inverted set the bright tail is longer.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.noise.signal_to_noise import band_filtered, fit_snr, particle_band
from cryogem_scipion.engine.noise.spectrum import ColouredNoise

__all__ = ["ContrastSign", "measure_contrast_sign"]

TAILS = (0.005, 0.02)
"""Quantiles, counted from either end, whose distances from the median are compared."""
CERTAIN_ERRORS, DOUBTFUL_ERRORS = 3.0, 2.0
"""Standard errors by which the measured asymmetry has to be bright, and the simulated asymmetry dark, for a certain and
for a doubtful result."""
MIN_ASYMMETRY_FRACTION = 0.25
"""Smallest asymmetry for a certain result, as a fraction of the expected asymmetry."""
AGREEMENT = 0.8
"""Share of the micrographs that have to agree with a certain result."""
ASSUMED_SPREAD = 0.1
"""Assumed spread between micrographs if there is only one micrograph, as a fraction of the expected asymmetry."""
NOISE_IMAGES = 6
"""Smallest number of noise images that are simulated."""


@dataclass(frozen=True)
class ContrastSign:
    """Asymmetry of the grey values' tails, from -1 (dark) to 1 (bright)."""

    measured: float
    """Mean over the real micrographs."""
    expected: float
    """Mean over the simulated micrographs."""
    error: float
    """Standard error of ``measured``."""
    agreeing: float
    """Share of the micrographs whose bright tail is longer than chance allows."""

    @property
    def inverted(self) -> bool:
        """Whether particles are certainly bright."""
        return (self._opposite(CERTAIN_ERRORS) and self.measured > MIN_ASYMMETRY_FRACTION * abs(self.expected)
                and self.agreeing >= AGREEMENT)

    @property
    def doubtful(self) -> bool:
        """Whether particles are probably bright."""
        return self._opposite(DOUBTFUL_ERRORS)

    def _opposite(self, errors: float) -> bool:
        """Whether the real asymmetry is bright and the simulated one dark, both by at least so many standard errors."""
        return self.measured > errors * self.error and self.expected < -errors * self.error


def measure_contrast_sign(flats: Sequence[Float[Tensor, "_ _"]], signals: Sequence[Float[Tensor, "_ _"]],
                          signal_deviation: float, diameter_pixels: float, generator: torch.Generator) -> ContrastSign:
    """Compare the dark and the bright tail of real micrographs in the particles' band.

    Parameters
    ----------
    flats, signals, signal_deviation, diameter_pixels, generator
        As in ``fit_snr``.
    """
    snr = fit_snr(flats, signals, signal_deviation, diameter_pixels, generator).snr
    band = particle_band(flats, signals, diameter_pixels)
    signal_factor = math.sqrt(snr) / signal_deviation
    with_particles, noise_alone = [], []
    for index in range(max(NOISE_IMAGES, len(signals))):
        signal = signals[index % len(signals)]
        shape = (signal.shape[0], signal.shape[1])
        noise = ColouredNoise(band.noise_powers[index % len(flats)]).draw(shape, generator)
        noise_alone.append(_asymmetry(band_filtered(noise, band.taper)))
        with_particles.append(_asymmetry(band_filtered(noise - signal_factor * signal, band.taper)))
    measured = torch.tensor([_asymmetry(band_filtered(flat, band.taper)) for flat in flats])
    expected, chance = float(torch.tensor(with_particles).mean()), float(torch.tensor(noise_alone).std())
    # A larger field has less chance variation.
    chance *= math.sqrt(signals[0].numel() / (sum(flat.numel() for flat in flats) / len(flats)))
    between = float(measured.std()) if len(flats) > 1 else ASSUMED_SPREAD * abs(expected)
    error = math.hypot(chance, between) / math.sqrt(len(flats))
    return ContrastSign(float(measured.mean()), expected, error, agreeing=float((measured > chance).float().mean()))


def _asymmetry(image: Float[Tensor, "y x"]) -> float:
    """(bright − dark) / (bright + dark) for the lengths of the two tails, averaged over the quantiles."""
    values = image.flatten()[::max(1, image.numel() // 1_000_000)]
    levels = torch.tensor([0.5, *TAILS, *(1 - tail for tail in TAILS)], dtype=values.dtype)
    middle, *tails = torch.quantile(values, levels).tolist()
    sides = zip(tails[:len(TAILS)], tails[len(TAILS):], strict=True)
    ratios: list[float] = [(high + low - 2 * middle) / max(high - low, 1e-12) for low, high in sides]
    return sum(ratios) / len(ratios)
