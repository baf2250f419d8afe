# SPDX-License-Identifier: GPL-3.0-or-later
"""What the mean power spectrum of a set of real micrographs tells about the strength of simulated particles in it."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.rotational_power import RotationalPower, rotational_power, seen_modulation, tile_edge
from cryogem_scipion.engine.noise.spectral_ratio import (
    SpectralRatio,
    fit_spectral_ratio,
    largest_possible_ratio,
    particle_frequencies,
)

__all__ = ["DEFOCI", "SetSpectrum", "measure_set_spectrum"]

DEFOCI = tuple(np.geomspace(6000, 36_000, 9).tolist())
"""Mean defocus values (Å) that are tried where no Thon rings tell the defocus; steps of a quarter."""
DEFOCUS_SPREAD = 0.5
"""Where no Thon rings tell the defocus, it varies by this part of the simulation's variation: real sessions vary less
than the wide default range."""
LEAST_MODULATION = 1e-3
"""Mean |CTF|² below which the particles' structure cannot be told; amplitude contrast gives more."""
FEWEST_FREQUENCIES = 8
"""Fewer do not tell noise from particles."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SetSpectrum:
    """Strength of the particles, in units of the simulation's signal-to-noise ratio."""

    ratio: SpectralRatio
    largest_possible: float
    """Ratio from which the simulated particles alone exceed the real power at some frequency."""
    exceeded_period: float
    """Å; the period at which they exceed it first."""
    defocus_known: bool = True
    """Whether Thon rings tell the defocus of the real micrographs. Without it, the ice's part of the noise may be taken
    for something else where particles are strong."""


def measure_set_spectrum(flats: Sequence[Float[Tensor, "_ _"]], signals: Sequence[Float[Tensor, "_ _"]],
                         exposures: Sequence[Exposure], signal_deviation: float, diameter_pixels: float,
                         real_exposures: Sequence[Exposure] | None) -> SetSpectrum | None:
    """Compare the power spectra of real and simulated micrographs.

    Parameters
    ----------
    flats
        Real micrographs without ice and outliers, in standard deviations of the noise around the background.
    signals
        Signal s of simulated micrographs, at any contrast, with about as many particles as the real ones.
    exposures
        Optics of the simulated micrographs.
    signal_deviation
        Standard deviation of s at which the signal-to-noise ratio is 1 in units of ``flats``.
    diameter_pixels
        Particle diameter in pixels.
    real_exposures
        Optics of the real micrographs; None if no Thon rings tell them.

    Returns
    -------
    None if the particles are too small or the pixels too coarse for a comparison.
    """
    pixel_size = exposures[0].pixel_size
    edge = tile_edge(diameter_pixels, [(image.shape[0], image.shape[1]) for image in [*flats, *signals]])
    real = rotational_power(flats, edge, usual_only=True)
    used = particle_frequencies(real.frequency, diameter_pixels, pixel_size)
    if used.sum() < FEWEST_FREQUENCIES:
        return None
    simulated = rotational_power(signals, edge, usual_only=False)
    defoci = _mean_defoci(exposures)
    seen = seen_modulation(exposures[0], defoci, edge)
    particle_power = simulated.power / signal_deviation**2
    structure = RotationalPower(simulated.frequency, particle_power / np.maximum(seen, LEAST_MODULATION),
                                simulated.relative_error)
    if real_exposures is not None:
        modulations = [seen_modulation(exposures[0], _usual(_mean_defoci(real_exposures)), edge)]
    else:
        variation = DEFOCUS_SPREAD * (np.array(defoci) / np.mean(defoci) - 1)
        modulations = [seen_modulation(exposures[0], (defocus * (1 + variation)).tolist(), edge) for defocus in DEFOCI]
    ratio = fit_spectral_ratio(real, structure, particle_power, modulations, used, pixel_size)
    largest, frequency = largest_possible_ratio(real, particle_power, used)
    return SetSpectrum(ratio, largest, pixel_size / frequency, real_exposures is not None)


def _mean_defoci(exposures: Sequence[Exposure]) -> list[float]:
    return [(exposure.optics.defocus_u_angstrom + exposure.optics.defocus_v_angstrom) / 2 for exposure in exposures]


def _usual(defoci: Sequence[float]) -> list[float]:
    """The values without those that differ from the median by more than a factor of 2.5: wrong fits."""
    middle = float(np.median(defoci))
    return [defocus for defocus in defoci if middle / 2.5 <= defocus <= 2.5 * middle] or list(defoci)
