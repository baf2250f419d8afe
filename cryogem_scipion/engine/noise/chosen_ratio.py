# SPDX-License-Identifier: GPL-3.0-or-later
"""Which signal-to-noise ratio is used: the given one, one that was measured, or the largest that the data allow."""
from collections.abc import Callable
from dataclasses import dataclass

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.set_spectrum import SetSpectrum
from cryogem_scipion.engine.noise.signal_to_noise import SnrFit

__all__ = ["ChosenRatio", "check_given_ratio", "choose_ratio", "kept_ratio", "over_all_variance"]

LARGEST_PART = 0.95
"""Of the ratio from which particles alone exceed the real power, the part that is used at most: noise has a share."""
EXCEEDED = 1.25
"""Factor by which a ratio that was given, or measured on single particles, may be above the largest one by the
spectrum: at single frequencies the particles' power is uncertain by about this much (``spectral_ratio.MAP_ERROR``)."""
ROUNDS = 2
"""Rounds in which the noise's variance is measured for a ratio; enough for particles up to twice as strong as the
noise."""
DIFFERENCE = 1.25
"""Factor by which local power and spectrum have to differ for a warning."""


@dataclass(frozen=True)
class ChosenRatio:
    """A signal-to-noise ratio for the particles of a set."""

    snr: float
    measured: bool
    """Whether it was measured; otherwise it is the largest that the data allow, or the simulation's."""
    warnings: tuple[str, ...] = ()


def check_given_ratio(snr: float, spectrum: SetSpectrum | None) -> None:
    """Refuse a ratio that the real power spectrum excludes.

    Raises
    ------
    DataError
        The particles alone would have more power than the real micrographs, by more than their own power is uncertain.
    """
    if spectrum is not None and snr > EXCEEDED * spectrum.largest_possible:
        raise DataError(f"snr is {snr:g}, but particles alone would then have more power than the real micrographs at "
                        f"a resolution of {spectrum.exceeded_period:.0f} Å; set snr to at most "
                        f"{_rounded_down(EXCEEDED * spectrum.largest_possible)}, or leave it empty")


def kept_ratio(snr: float, spectrum: SetSpectrum | None) -> ChosenRatio:
    """Return the simulation's ratio, which was measured on single particles before.

    The limit is somewhat above the ratio from which particles alone exceed the real power at one frequency: that ratio
    depends on how crowded the simulated particles are, which the search for single particles takes into account.
    """
    largest = float("inf") if spectrum is None else EXCEEDED * spectrum.largest_possible
    if snr <= largest:
        return ChosenRatio(snr, True)
    return ChosenRatio(largest, True, (
        f"with the simulation's signal-to-noise ratio of {snr:.2g}, particles alone would have more power than the "
        f"real micrographs; {largest:.2g} is used. Check particles_mean, the map and the defocus",))


def over_all_variance(over_noise: float, without_particles: float, noise_variance: Callable[[float], float]) -> float:
    """Convert a ratio over the variance of the noise to one over the variance of the micrographs, particles included.

    It is the root of ``over_noise * noise_variance(ratio) - ratio``. Secants find it, because the variance of the noise
    falls nearly on a line.

    Parameters
    ----------
    over_noise
        Variance of a particle over that of the noise.
    without_particles
        Variance that the noise of the micrographs has in their own unit, if there are no particles.
    noise_variance
        The same for particles with a given ratio over the variance of the micrographs.
    """
    before, excess_before = 0.0, over_noise * without_particles
    ratio = excess_before / (1 + excess_before)
    for _ in range(ROUNDS):
        excess = over_noise * noise_variance(ratio) - ratio
        step = excess * (ratio - before) / (excess_before - excess)
        before, excess_before, ratio = ratio, excess, ratio + step
    return ratio


def choose_ratio(local: SnrFit, spectrum: SetSpectrum | None, simulated_snr: float) -> ChosenRatio:
    """Choose the ratio from its measurements.

    Local power is direct: it needs no model of the noise. But it tells no ratio below about 0.05, where the spectrum
    does. The result lies in the interval that the spectrum allows. If no Thon rings tell the defocus, it is only below
    the ratio from which particles alone exceed the real power.

    Parameters
    ----------
    local
        The ratio that local power gives.
    spectrum
        The ratio that the power spectrum gives; None if it tells none.
    simulated_snr
        The simulation's ratio.
    """
    if spectrum is None:
        if local.reliable:
            return ChosenRatio(local.snr, True)
        return ChosenRatio(simulated_snr, False, (
            f"the signal-to-noise ratio could not be measured (misfit {local.misfit:.2f}); {simulated_snr:g} of the "
            "simulation is used. Check particles_mean and the map, or set snr",))
    largest = LARGEST_PART * spectrum.largest_possible
    low, high = (min(limit, largest) for limit in (spectrum.ratio.low, spectrum.ratio.high))
    if local.reliable:
        if not spectrum.defocus_known:
            low, high = 0.0, largest
        snr = min(max(local.snr, low), high)
        differs = max(snr, local.snr) > DIFFERENCE * min(snr, local.snr)
        return ChosenRatio(snr, True, () if not differs else (
            f"local power gives a signal-to-noise ratio of {local.snr:.2g}, and the power spectrum allows {low:.2g} to "
            f"{high:.2g}; {snr:.2g} is used. Check particles_mean, the map and the defocus",))
    if spectrum.ratio.certain:
        return ChosenRatio(min(spectrum.ratio.ratio, largest), True)
    snr = min(simulated_snr, high)
    source = "the simulation's ratio" if snr == simulated_snr else "this"
    return ChosenRatio(snr, False, (
        "the signal-to-noise ratio could not be measured: the power spectrum has no rings that are certainly the "
        f"particles'. It allows at most {high:.2g}; {source}{f' {snr:g}' if snr == simulated_snr else ''} is used. "
        "Check particles_mean and the map, or set snr",))


def _rounded_down(value: float) -> str:
    """The number with two digits, not above ``value``."""
    text = f"{value:.2g}"
    return text if float(text) <= value else f"{0.95 * value:.2g}"
