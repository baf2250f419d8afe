# SPDX-License-Identifier: GPL-3.0-or-later
"""Each measured quantity with its standard error, its interval, and the bias that was found and corrected."""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cryogem_scipion.engine.measurement.defocus import CtfFit
from cryogem_scipion.engine.measurement.particle_results import ParticleMeasurement
from cryogem_scipion.engine.measurement.results import Measurement, reliable_fits

__all__ = ["Estimate", "estimates"]

DEVIATES = 1.96
"""Standard errors on each side of a 95 % interval."""


@dataclass(frozen=True)
class Estimate:
    """One quantity; Å where it is a length."""

    value: float
    error: float | None
    """Standard error. None: it is not known."""
    interval: tuple[float, float] | None
    """In which the true value lies with a probability of 95 %, if the errors are Gaussian."""
    bias: float | None
    """Found minus true in generated micrographs, in the unit of the value; ``value`` is without it. None: unknown."""


def estimates(measurement: Measurement, fits: Sequence[CtfFit], particles: ParticleMeasurement) -> dict[str, Estimate]:
    """Return the estimates of all measured quantities by their names, those that were not measured left out."""
    found: dict[str, Estimate] = {}
    reliable = reliable_fits(fits)
    if reliable:
        found |= _of_optics(measurement, reliable)
    calibration = particles.calibration
    if calibration is None or "particles_mean" in measurement.not_reliable:
        return found
    mean, sigma = measurement.particles_mean, measurement.particles_sigma
    count = len(particles.counts)
    found["particles_mean"] = _estimate(mean, measurement.particles_mean_error, mean * calibration.count_bias)
    if "particles_sigma" not in measurement.not_reliable:
        raw = float(np.std(particles.counts, ddof=1))
        found["particles_sigma"] = _estimate(sigma, sigma / math.sqrt(2 * (count - 1)), max(raw - sigma, 0.0))
    found["particle_distance"] = _estimate(measurement.particle_distance, calibration.distance_error_angstrom,
                                           calibration.distance_bias_angstrom)
    found["clusters"] = _estimate(particles.clusters, calibration.clusters_error, calibration.clusters_bias)
    if "snr" not in measurement.not_reliable:
        found["snr"] = _estimate(measurement.snr, measurement.snr * particles.signal_error,
                                 2 * calibration.amplitude_bias * measurement.snr)
    # d(spread) = d(spread²) / (2 spread)
    found["contrast_variation"] = _estimate(
        particles.spread, calibration.spread_square_error / (2 * max(particles.spread, 0.05)),
        calibration.spread_square_bias / (2 * max(particles.spread, 0.05)))
    return found


def _of_optics(measurement: Measurement, fits: Sequence[CtfFit]) -> dict[str, Estimate]:
    """Range of defocus and largest astigmatism. The bias of one micrograph is not known, that of the set is."""
    known = not any(len(fit.frequency) for fit in fits)
    if known or measurement.defocus_min is None or measurement.defocus_max is None:
        return {}
    lowest, highest = (choose(fits, key=lambda fit: fit.defocus_angstrom) for choose in (min, max))
    bias = float(np.mean([fit.bias_angstrom for fit in fits]))
    largest = max(fits, key=lambda fit: fit.optics.defocus_u_angstrom - fit.optics.defocus_v_angstrom)
    return {"defocus_min": _estimate(measurement.defocus_min, lowest.error_angstrom, bias),
            "defocus_max": _estimate(measurement.defocus_max, highest.error_angstrom, bias),
            "astigmatism_angstrom": _estimate(measurement.astigmatism_angstrom or 0.0,
                                              largest.astigmatism_error_angstrom, largest.astigmatism_bias_angstrom)}


def _estimate(value: float, error: float, bias: float) -> Estimate:
    if not math.isfinite(error):
        return Estimate(value, None, None, bias)
    return Estimate(value, error, (max(value - DEVIATES * error, 0.0), value + DEVIATES * error), bias)
