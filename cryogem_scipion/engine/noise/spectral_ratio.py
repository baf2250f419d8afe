# SPDX-License-Identifier: GPL-3.0-or-later
"""The signal-to-noise ratio that a set's mean power spectrum tells: the noise, and the particles' rings above it.

The power is P(k) = N(k) + ratio · S(k). S is the particles' own mean power through the optics, from simulated clean
images with about as many particles. The noise N is not known, but its form is:

- Counted electrons through a detector, and slow changes of the ice, give power that does not rise with frequency.
- Ice scatters as particles do: its part is a smooth, falling curve times the mean |CTF|².
- Noise has no rings of its own: it falls evenly with frequency. How steeply is told by the spectrum.

So for each ratio the best N of this form is found. A ratio that is too small leaves the particles' rings in N; one that
is too large digs dips. The likelihood of each ratio gives the estimate and its interval. What else is not known (the
envelope of the real particles, the steepness of the noise, the defocus if no rings tell it) is tried at several values,
and each counts by its likelihood.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from cryogem_scipion.engine.noise.rotational_power import RotationalPower

__all__ = ["SpectralRatio", "fit_spectral_ratio", "largest_possible_ratio", "particle_frequencies"]

DIAMETERS = 1.3
"""Periods longer than this many diameters are left out: there the ice changes more than particles."""
FINEST_PERIOD = 8.0
"""Å; shorter periods are left out. Ice has a ring at 3.7 Å, and well below it its power is flat."""
HIGHEST_FREQUENCY = 0.45
"""Cycles a pixel; above are the edges of filters."""
BAND_WIDTH = 1 / 16
"""Frequencies are averaged over bands of this relative width, a few for each ring of a particle."""
ICE_FACTORS = (0.0, 100.0, 400.0, 1600.0)
"""B (Å²) of the curves exp(−B/2 k²) of which the ice's part of the noise is composed."""
PARTICLE_FACTORS = (0.0, 1000.0, 3000.0, 6000.0)
"""B (Å²) by which the real particles' power may fall faster than the simulated one, exp(−B/2 k²). 6000 Å² is a motion
of 9 Å (standard deviation in each direction), as in frames that are not aligned."""
STEEPNESSES = (0.1, 0.3, 1.0)
"""Typical change of the noise's logarithm for one of the frequency's. Detectors and ice differ this much."""
MAP_ERROR = 0.2
"""Relative error of the particles' power at each frequency: of the map, its masking, and the density's correlations."""
MODEL_LIMIT = 12.0
"""Values of what is not known are left out if their χ² exceeds the best by this much: their share is e⁻⁶."""
CERTAIN = 9.0
"""χ² by which noise without particles has to fit worse, for particles that are certainly there: 3 standard errors."""
INTERVAL = (0.025, 0.975)
"""Quantiles of the likelihood that limit the interval."""
STEPS = 24
"""Ratios that are tried in each of two rounds."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SpectralRatio:
    """Signal-to-noise ratio from the power spectrum."""

    ratio: float
    """Median of the likelihood. The particles have the power of the simulated ones times this ratio, in the band."""
    low: float
    high: float
    """The largest ratio that the spectrum allows."""
    certain: bool
    """Whether the spectrum has particles in it with certainty; otherwise ``ratio`` is no measurement."""


def particle_frequencies(frequency: Array, diameter_pixels: float, pixel_size: float) -> NDArray[np.bool_]:
    """Return at which frequencies (cycles a pixel) particles are compared with noise.

    Parameters
    ----------
    diameter_pixels
        Of the particle.
    pixel_size
        Å per pixel.
    """
    used: NDArray[np.bool_] = frequency > 1 / (DIAMETERS * diameter_pixels)
    return used & (frequency < min(HIGHEST_FREQUENCY, pixel_size / FINEST_PERIOD))


def largest_possible_ratio(real: RotationalPower, particle_power: Array, used: NDArray[np.bool_]
                           ) -> tuple[float, float]:
    """Return the ratio from which particles alone exceed the real power, and the frequency (cycles a pixel) there.

    Parameters
    ----------
    particle_power
        Of the simulated particles at a ratio of 1.
    used
        Which frequencies count.
    """
    # Two standard errors of the real power, so that chance at one frequency does not decide.
    possible = real.power[used] * (1 + 2 * real.relative_error[used]) / np.maximum(particle_power[used], 1e-30)
    lowest = int(possible.argmin())
    return float(possible[lowest]), float(real.frequency[used][lowest])


def fit_spectral_ratio(real: RotationalPower, structure: RotationalPower, reference: Array,
                       modulations: Sequence[Array], used: NDArray[np.bool_], pixel_size: float) -> SpectralRatio:
    """Measure the ratio by which the simulated particles' power has to be multiplied to explain a real spectrum.

    Parameters
    ----------
    real
        Mean power of the real micrographs.
    structure
        The particles' power without CTF, at a ratio of 1 and the same frequencies.
    reference
        The particles' power at a ratio of 1 through the simulation's optics.
    modulations
        Possible mean |CTF|² of the real micrographs; one if their defocus is known.
    used
        Which frequencies count.
    pixel_size
        Å per pixel.
    """
    models = _models(real, structure, reference, modulations, used, pixel_size)
    models = [model.with_map_error(model.best()[0]) for model in models]
    best = [model.best() for model in models]
    lowest, penalty = min((misfit, model.penalty) for model, (_, misfit) in zip(models, best, strict=True))
    # Where no model describes the spectrum, its errors are larger than known ones (as for averages of measurements).
    scale = max(1.0, (lowest - penalty) / len(models[0].power))
    chosen = [(model, ratio) for model, (ratio, misfit) in zip(models, best, strict=True)
              if misfit < lowest + MODEL_LIMIT * scale]
    ratios, likelihoods = _likelihood([model for model, _ in chosen], max(ratio for _, ratio in chosen), scale, lowest)
    total = np.cumsum(likelihoods)
    ratio, low, high = (float(np.interp(level * total[-1], total, ratios)) for level in (0.5, *INTERVAL))
    without = min(model.misfit(0.0) for model, _ in chosen)
    return SpectralRatio(ratio, low, high, without > lowest + CERTAIN * scale)


@dataclass(frozen=True)
class _Model:
    """A real power spectrum, and the forms that noise and particles may have in it."""

    power: Array
    deviation: Array
    """Standard error of the power."""
    particles: Array
    """Power at a ratio of 1."""
    particle_error: Array
    """Relative, by chance and of the map."""
    ice: Array
    """(frequency, curve): forms of the ice's part of the noise."""
    step: Array
    """Typical fall of the noise from each frequency to the next."""

    @cached_property
    def penalty(self) -> float:
        """What is added to χ²: steeper noise fits more, but the data leave a smaller share of its range."""
        error = np.hypot(self.deviation[:-1], self.deviation[1:])
        return float(np.log1p((self.step / error) ** 2).sum())

    def with_map_error(self, ratio: float) -> "_Model":
        """Return the same model with the errors that particles of this ratio add."""
        return replace(self, deviation=np.hypot(self.deviation, ratio * self.particles * self.particle_error))

    def best(self) -> tuple[float, float]:
        """Return the ratio that fits best, and its χ² with the penalty."""
        solution, misfit = self._fit(0.0, self.particles[:, None])
        return float(solution[0]), misfit

    def misfit(self, ratio: float) -> float:
        """Return χ² of the best noise at this ratio, with the penalty."""
        return self._fit(ratio, np.zeros((len(self.power), 0)))[1]

    @cached_property
    def _noise(self) -> Array:
        """What one of each of the noise's parts adds: steps down and the ice's curves, and below it each step alone."""
        count = len(self.power)
        parts = np.hstack([np.triu(np.ones((count, count))), self.ice]) / self.deviation[:, None]
        return np.vstack([parts, np.eye(count - 1, parts.shape[1]) / self.step[:, None]])

    def _fit(self, ratio: float, others: Array) -> tuple[Array, float]:
        """Factors of ``others`` and of the noise's parts, none negative, and χ² with the penalty, at a fixed ratio."""
        count = len(self.power)
        parts = np.vstack([others / self.deviation[:, None], np.zeros((count - 1, others.shape[1]))])
        wanted = np.append((self.power - ratio * self.particles) / self.deviation, np.zeros(count - 1))
        solution, residual = nnls(np.hstack([parts, self._noise]), wanted, maxiter=50 * count)
        return solution, float(residual**2) + self.penalty


def _models(real: RotationalPower, structure: RotationalPower, reference: Array, modulations: Sequence[Array],
            used: NDArray[np.bool_], pixel_size: float) -> list[_Model]:
    """All values of what is not known."""
    band = _bands(used)
    frequency = _averaged(real.frequency, used, band)
    power = _averaged(real.power, used, band)
    square = (frequency / pixel_size) ** 2 / 2
    error, particle_error = (1 / np.sqrt(_averaged(curve.relative_error**-2, used, band) * np.bincount(band))
                             for curve in (real, structure))
    total = float((reference * real.frequency)[used].sum())
    models = []
    for modulation in modulations:
        ice = _averaged(modulation, used, band)[:, None] * np.exp(-np.array(ICE_FACTORS) * square[:, None])
        for factor in PARTICLE_FACTORS:
            envelope = np.exp(-factor / 2 * (real.frequency / pixel_size) ** 2)
            particles = structure.power * modulation * envelope
            particles = particles * (total / float((particles * real.frequency)[used].sum()))
            models += [_Model(power, power * error, _averaged(particles, used, band),
                              np.hypot(MAP_ERROR, particle_error), ice,
                              steepness * power[:-1] * np.diff(np.log(frequency))) for steepness in STEEPNESSES]
    return models


def _bands(used: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The band of each used frequency, from 0 on."""
    numbers: list[int] = []
    remaining = 0
    for ring in np.flatnonzero(used):
        if not remaining:
            remaining = max(1, math.floor(BAND_WIDTH * ring))
            numbers.append(numbers[-1] + 1 if numbers else 0)
        else:
            numbers.append(numbers[-1])
        remaining -= 1
    return np.array(numbers)


def _averaged(curve: Array, used: NDArray[np.bool_], band: NDArray[np.int64]) -> Array:
    """Means over bands."""
    means: Array = np.bincount(band, curve[used]) / np.bincount(band)
    return means


def _likelihood(models: Sequence[_Model], best: float, scale: float, lowest: float) -> tuple[Array, Array]:
    """Evenly spaced ratios, and the likelihood of each, added over all models."""
    def added(ratios: Array) -> Array:
        misfits = np.array([[model.misfit(ratio) for ratio in ratios] for model in models])
        likelihoods: Array = np.exp(-(misfits - lowest) / 2 / scale).sum(0)
        return likelihoods

    least = 1e-3 * max(float((model.power / np.maximum(model.particles, 1e-30)).min()) for model in models)
    coarse = np.append(0.0, np.geomspace(least, max(4 * best, 1e3 * least), STEPS))
    likelihoods = added(coarse)
    likely = np.flatnonzero(likelihoods > 1e-3 * likelihoods.max())
    fine = np.linspace(coarse[max(likely[0] - 1, 0)], coarse[min(likely[-1] + 1, len(coarse) - 1)], STEPS)
    return fine, added(fine)
