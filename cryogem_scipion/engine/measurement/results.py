# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured of a set of real micrographs, as a simulation needs it, and the files that hold it."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryogem_scipion.engine.io.dataset import write_table
from cryogem_scipion.engine.measurement.defocus import CtfFit
from cryogem_scipion.engine.measurement.envelope_fit import smooth_envelope
from cryogem_scipion.engine.measurement.particle_results import NOT_COUNTED, ParticleMeasurement
from cryogem_scipion.engine.measurement.synthesis import LEAST_NOISE
from cryogem_scipion.engine.simulation.envelope import Envelope
from cryogem_scipion.engine.simulation.motion import Motion

__all__ = ["Measurement", "reliable_fits", "summarised", "write_ctfs"]

Array = NDArray[np.float64]

LEAST_RELIABLE = 3
"""Reliable fits from which a range of defocus is given, and which half of the micrographs must have at least."""
SIGN_ERRORS = 3.0
"""Standard errors by which one contrast sign has to fit better than the other."""
CERTAIN_ERRORS = 2.0
"""Standard errors by which clustering and variation of the contrast have to exceed 0."""
PARTICLE_SETTINGS = ("particles_mean", "particles_sigma", "particle_distance", "snr")
DEFOCUS_SETTINGS = ("defocus_min", "defocus_max", "astigmatism_angstrom")


@dataclass(frozen=True)
class Measurement:
    """Measured properties of a set of micrographs; lengths in Å, SNR at the working pixel size."""

    working_pixel_size: float
    diameter: float
    particles_mean: float
    """Particles in a whole micrograph."""
    particles_mean_error: float
    particles_sigma: float
    particles_per_square_micrometre: float
    particle_distance: float
    defocus_min: float | None
    """None if too few fits are reliable."""
    defocus_max: float | None
    astigmatism_angstrom: float | None
    """Largest astigmatism of the reliable fits, each without what its error adds."""
    snr: float
    snr_largest: float | None
    """Largest signal-to-noise ratio that the power spectra allow with ``particles_mean`` particles; None if they do not
    tell it."""
    envelope_frequency: tuple[float, ...]
    envelope: tuple[float, ...]
    """Amplitude of the particles over that of the map's projections, 1 at the strongest band."""
    envelope_error: tuple[float, ...]
    signal_envelope: Envelope
    """The same as a smooth curve without ``motion``, for a simulation; no points if it was not measured."""
    motion: tuple[Motion, ...]
    """Residual motion of each micrograph that was searched; empty if it was not measured, or is that of chance."""
    b_factor_angstrom2: float
    """Of the envelope: exp(−B/4 u²)."""
    clusters: float | None
    """Probability that a particle lies beside an earlier one; None if it does not exceed 0 with certainty."""
    contrast_variation: float | None
    """Relative standard deviation of the contrast between particles; None if it does not exceed 0 with certainty."""
    contrast_sign: str
    """dark, bright or unknown."""
    contrast_sign_errors: float
    """Standard errors by which dark fits better than bright."""
    particles_detected: bool
    """Whether particles of the map are there with certainty."""
    particles_counted: bool
    """Whether single particles stand out. If not, but particles are in the power spectra, ``particles_mean`` is only
    the likeliest number, and ``snr`` belongs to it."""
    not_reliable: dict[str, str]
    """Settings of a simulation that were not measured reliably, and why."""
    warnings: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """Return what ``cryogem simulate`` takes, by the names of its settings; only what was measured reliably."""
        values: dict[str, float | None] = {
            "particles_mean": round(self.particles_mean, 1), "particles_sigma": round(self.particles_sigma, 1),
            "particle_distance": round(self.particle_distance, 1), "snr": float(f"{self.snr:.3g}"),
            "defocus_min": self.defocus_min, "defocus_max": self.defocus_max,
            "astigmatism_angstrom": self.astigmatism_angstrom}
        known: dict[str, Any] = {
            name: value if name in PARTICLE_SETTINGS else round(value) for name, value in values.items()
            if value is not None and name not in self.not_reliable}
        if "snr" in known:
            known["keep_snr"] = True
        if self.signal_envelope and "signal_envelope" not in self.not_reliable:
            known["signal_envelope"] = [f"{frequency:g}:{amplitude:g}" for frequency, amplitude in self.signal_envelope]
            if self.motion:
                known["motion"] = [f"{one.u_angstrom:.3g}:{one.v_angstrom:.3g}:{one.angle_degrees:.0f}"
                                   for one in self.motion]
        for name in ("clusters", "contrast_variation"):
            value = getattr(self, name)
            if value is not None:
                known[name] = round(value, 3)
        return known


def reliable_fits(fits: Sequence[CtfFit]) -> list[CtfFit]:
    """Return the fits whose defocus is reliable; none if most micrographs of the set have no reliable fit.

    Where most fits of a set fail, one that seems to succeed is likely to be chance.
    """
    reliable = [fit for fit in fits if fit.reliable]
    return reliable if len(reliable) >= max(min(LEAST_RELIABLE, len(fits)), len(fits) / 2) else []


def summarised(fits: Sequence[CtfFit], particles: ParticleMeasurement, field_areas: Sequence[float],
               noise_variances: Sequence[float], working_pixel_size: float, diameter: float) -> Measurement:
    """Bring the measurements of optics and particles together.

    Parameters
    ----------
    field_areas
        Area of each micrograph that was searched, Å².
    noise_variances
        Variance of each micrograph at the working pixel size without ice, the particles' included; grey values
        squared.
    working_pixel_size
        At which the signal-to-noise ratio holds, Å.
    diameter
        Of the particle, Å.
    """
    counts = np.array(particles.counts)
    density = float(counts.sum() / sum(field_areas))
    area = float(np.median(field_areas))
    errors = np.array(particles.count_errors)
    spread = float(counts.std(ddof=1)) if len(counts) > 1 else math.sqrt(max(float(counts[0]), 0))
    chance = float(np.sqrt((errors**2).mean()))
    sigma = math.sqrt(max(spread**2 - chance**2, 0.25 * density * area)) if particles.counted else \
        math.sqrt(density * area)
    background = [max(total - own, 0.02 * total)
                  for total, own in zip(noise_variances, particles.particle_variance, strict=True)]
    snr = particles.signal_variance / float(np.mean(background))
    largest = _largest_snr(particles, float(np.mean(noise_variances)))
    reliable = reliable_fits(fits)
    bias = float(np.mean([fit.bias_angstrom for fit in reliable])) if reliable else 0.0
    defoci = [fit.defocus_angstrom - bias for fit in reliable]
    sign = "dark" if particles.advantage_of_dark > SIGN_ERRORS else \
        "bright" if particles.advantage_of_dark < -SIGN_ERRORS else "unknown"
    peak = max(float(particles.amplitude.max()), 1e-30)
    envelope = smooth_envelope(particles.frequency, particles.amplitude, particles.amplitude_error)
    motion = particles.motion if envelope else None
    not_reliable = _not_reliable(fits, reliable, particles)
    return Measurement(
        working_pixel_size, diameter, density * area, float(np.sqrt((errors**2).sum()) / len(errors)), sigma,
        density * 1e8, particles.distance_angstrom, min(defoci) if defoci else None, max(defoci) if defoci else None,
        max(fit.optics.defocus_u_angstrom - fit.optics.defocus_v_angstrom for fit in reliable) if reliable else None,
        snr, largest, tuple(particles.frequency.tolist()),
        tuple((particles.amplitude / peak).tolist()), tuple((particles.amplitude_error / peak).tolist()),
        motion.without(envelope) if motion else envelope, motion.motions if motion else (), _b_factor(particles),
        _clusters(particles), _contrast_variation(particles), sign,
        particles.advantage_of_dark, particles.detected, particles.counted, not_reliable,
        tuple(_warnings(fits, reliable, particles, sign, not_reliable, snr, largest, density * area)))


def write_ctfs(path: Path, names: Sequence[str], fits: Sequence[CtfFit], pixel_size: float) -> list[int]:
    """Write the reliable fits as RELION's table of micrographs, if there are any.

    Parameters
    ----------
    names
        File of each micrograph.

    Returns
    -------
    Which micrograph each row is.
    """
    reliable = reliable_fits(fits)
    chosen = [(number, fit) for number, fit in enumerate(fits) if fit in reliable]
    rows = [{"rlnMicrographName": names[number], "rlnOpticsGroup": 1, "rlnDefocusU": fit.optics.defocus_u_angstrom,
             "rlnDefocusV": fit.optics.defocus_v_angstrom, "rlnDefocusAngle": fit.optics.defocus_angle_degrees,
             "rlnPhaseShift": fit.optics.phase_shift_degrees, "rlnCtfFigureOfMerit": fit.score,
             "rlnCtfMaxResolution": fit.resolution_angstrom}
            for number, fit in chosen]
    if not rows:
        return []
    base = fits[0].optics
    optics = pd.DataFrame([{"rlnOpticsGroup": 1, "rlnOpticsGroupName": "opticsGroup1", "rlnVoltage": base.voltage_kv,
                            "rlnSphericalAberration": base.cs_mm, "rlnAmplitudeContrast": base.amplitude_contrast,
                            "rlnMicrographPixelSize": pixel_size}])
    write_table(path, "micrographs", optics, pd.DataFrame(rows))
    return [number for number, _ in chosen]


def _largest_snr(particles: ParticleMeasurement, total_variance: float) -> float | None:
    if particles.largest_signal_variance is None or particles.largest_particle_variance is None:
        return None
    background = max(total_variance - particles.largest_particle_variance, LEAST_NOISE * total_variance)
    return particles.largest_signal_variance / background


def _b_factor(particles: ParticleMeasurement) -> float:
    """From the bands that are measured to better than a third; 0 if the amplitude does not fall."""
    trusted = (particles.amplitude > 0) & (particles.amplitude_error < particles.amplitude / 3)
    if trusted.sum() < 4:
        return 0.0
    square = particles.frequency[trusted] ** 2
    logarithm = np.log(particles.amplitude[trusted])
    weight = (particles.amplitude[trusted] / particles.amplitude_error[trusted]) ** 2
    middle = np.average(square, weights=weight)
    slope = float((weight * (square - middle) * logarithm).sum() / (weight * (square - middle) ** 2).sum())
    return max(0.0, -4 * slope)


def _clusters(particles: ParticleMeasurement) -> float | None:
    """The degree of clustering, where single particles are found and it is larger than its error."""
    if particles.calibration is None or not particles.detected or particles.problem:
        return None
    certain = particles.clusters > CERTAIN_ERRORS * particles.calibration.clusters_error
    return particles.clusters if certain else None


def _contrast_variation(particles: ParticleMeasurement) -> float | None:
    """The variation of the contrast, where single particles are found and it is larger than its error."""
    if particles.calibration is None or not particles.detected or particles.problem:
        return None
    certain = particles.spread**2 > CERTAIN_ERRORS * particles.calibration.spread_square_error
    return particles.spread if certain else None


def _not_reliable(fits: Sequence[CtfFit], reliable: Sequence[CtfFit], particles: ParticleMeasurement
                  ) -> dict[str, str]:
    """The settings that must not be used, with the reason."""
    reasons = {"b_factor_angstrom2": "the envelope of the signal (signal_envelope) is used instead of one B-factor"}
    if not reliable:
        certain = sum(fit.reliable for fit in fits)
        reason = f"the Thon rings tell the defocus of {certain} of {len(fits)} micrographs only"
        reasons |= dict.fromkeys(DEFOCUS_SETTINGS, reason)
    if _told_by_spectrum(particles):
        return reasons | dict.fromkeys(("particles_sigma", "signal_envelope"), NOT_COUNTED) | _too_few(particles)
    reason = ""
    if not reliable:
        reason = f"{reasons['defocus_min']}, and the search for particles needs it"
    elif not particles.detected:
        reason = "no particles of the map were found"
    elif particles.problem:
        reason = particles.problem
    if reason:
        reasons |= dict.fromkeys((*PARTICLE_SETTINGS, "signal_envelope"), reason)
    else:
        reasons |= _too_few(particles)
    return reasons


def _too_few(particles: ParticleMeasurement) -> dict[str, str]:
    """The settings that one or two micrographs do not tell; none if there are more."""
    if len(particles.counts) >= LEAST_RELIABLE:
        return {}
    few = f"fewer than {LEAST_RELIABLE} micrographs do not tell"
    return {"particles_sigma": f"{few} how the number of particles varies",
            "snr": f"{few} the signal-to-noise ratio, which differs between micrographs"}


def _told_by_spectrum(particles: ParticleMeasurement) -> bool:
    """Whether the power spectra tell the signal-to-noise ratio, but single particles do not stand out."""
    return not particles.counted and particles.in_spectrum


def _warnings(fits: Sequence[CtfFit], reliable: Sequence[CtfFit], particles: ParticleMeasurement, sign: str,
              not_reliable: dict[str, str], snr: float, largest: float | None, particles_mean: float) -> list[str]:
    """One line for each problem that the user has to know."""
    warnings = []
    if not reliable:
        warnings.append(f"the range of defocus is not measured: {not_reliable['defocus_min']}; give CTFs of another "
                        "program (ctfs)")
    elif len(reliable) < len(fits):
        warnings.append(f"the Thon rings of {len(fits) - len(reliable)} of {len(fits)} micrographs do not tell the "
                        "defocus; these fits are left out. Give CTFs of another program (ctfs) to have them all")
    if "particles_mean" in not_reliable:
        bound = ("the spectra do not tell the largest possible signal-to-noise ratio" if largest is None else
                 f"the spectra allow a signal-to-noise ratio of at most {largest:.2g} with {particles_mean:.0f} "
                 "particles on a micrograph")
        warnings.append(f"number, distance and signal-to-noise ratio of the particles are not measured: "
                        f"{not_reliable['particles_mean']}; {bound}. Check the map, its pixel size and the micrographs")
    elif _told_by_spectrum(particles):
        warnings.append(f"{NOT_COUNTED}. The power spectra give a signal-to-noise ratio of {snr:.2g} with "
                        f"{particles_mean:.0f} particles on a micrograph, and at most {largest or snr:.2g}; with half "
                        "as many particles it is twice as large. If you know their number, change both")
    elif "particles_sigma" in not_reliable:
        warnings.append("the deviation of the number of particles and the signal-to-noise ratio are not measured: "
                        f"there are fewer than {LEAST_RELIABLE} micrographs; give more")
    if sign == "unknown":
        warnings.append(f"the micrographs do not tell whether particles are dark or bright (difference "
                        f"{particles.advantage_of_dark:.1f} standard errors); dark is assumed")
    elif sign == "bright":
        warnings.append(f"particles are bright in the micrographs (difference {-particles.advantage_of_dark:.1f} "
                        "standard errors); set real_contrast to bright")
    return warnings
