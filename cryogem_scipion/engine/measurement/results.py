# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured of a set of real micrographs, as a simulation needs it, and the files that hold it."""
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryogem_scipion.engine.io.dataset import replacing, table_text
from cryogem_scipion.engine.measurement.defocus import CtfFit
from cryogem_scipion.engine.measurement.particles import ParticleMeasurement

__all__ = ["Measurement", "summarised", "write_ctfs", "write_measurement"]

Array = NDArray[np.float64]

LEAST_RELIABLE = 3
"""Reliable fits from which a range of defocus is given."""
SIGN_ERRORS = 3.0
"""Standard errors by which one contrast sign has to fit better than the other."""


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
    astigmatism: float | None
    """Largest astigmatism of the reliable fits."""
    snr: float
    snr_largest: float
    """Largest signal-to-noise ratio that the data allow."""
    envelope_frequency: tuple[float, ...]
    envelope: tuple[float, ...]
    """Amplitude of the particles over that of the map's projections, 1 at the strongest band."""
    envelope_error: tuple[float, ...]
    b_factor: float
    """Of the envelope, Å²: exp(−B/4 u²)."""
    contrast_sign: str
    """dark, bright or unknown."""
    contrast_sign_errors: float
    """Standard errors by which dark fits better than bright."""
    found: bool
    """Whether particles of the map are there with certainty."""
    counted: bool
    """Whether single particles stand out."""
    warnings: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """Return what ``cryogem simulate`` takes, by the names of its settings; only what was measured."""
        values: dict[str, Any] = {}
        if self.found:
            values |= {"particles_mean": round(self.particles_mean, 1),
                       "particles_sigma": round(self.particles_sigma, 1),
                       "particle_distance": round(self.particle_distance, 1), "snr": float(f"{self.snr:.3g}"),
                       "b_factor_angstrom2": round(self.b_factor, 1)}
        if self.defocus_min is not None and self.defocus_max is not None and self.astigmatism is not None:
            values |= {"defocus_min": round(self.defocus_min), "defocus_max": round(self.defocus_max),
                       "astigmatism_angstrom": round(self.astigmatism)}
        return values


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
    reliable = [fit for fit in fits if fit.reliable]
    enough = len(reliable) >= min(LEAST_RELIABLE, len(fits))
    defoci = [fit.defocus_angstrom for fit in reliable]
    sign = "dark" if particles.advantage_of_dark > SIGN_ERRORS else \
        "bright" if particles.advantage_of_dark < -SIGN_ERRORS else "unknown"
    peak = float(particles.amplitude.max())
    warnings = _warnings(fits, reliable, particles, sign, snr)
    return Measurement(
        working_pixel_size, diameter, density * area, float(np.sqrt((errors**2).sum()) / len(errors)), sigma,
        density * 1e8, particles.distance_angstrom, min(defoci) if enough else None, max(defoci) if enough else None,
        max(fit.optics.defocus_u_angstrom - fit.optics.defocus_v_angstrom for fit in reliable) if enough else None,
        snr, snr if particles.found else 2 * snr, tuple(particles.frequency.tolist()),
        tuple((particles.amplitude / peak).tolist()), tuple((particles.amplitude_error / peak).tolist()),
        _b_factor(particles), sign, particles.advantage_of_dark, particles.found, particles.counted, tuple(warnings))


def write_measurement(path: Path, measurement: Measurement) -> None:
    """Write the measurement as JSON: ``settings`` for a simulation, and all that was measured."""
    content = {"settings": measurement.settings(), "measured": asdict(measurement)}
    with replacing(path) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def write_ctfs(path: Path, names: Sequence[str], fits: Sequence[CtfFit], pixel_size: float) -> int:
    """Write the reliable fits as RELION's table of micrographs; return how many there are."""
    rows = [{"rlnMicrographName": name, "rlnOpticsGroup": 1, "rlnDefocusU": fit.optics.defocus_u_angstrom,
             "rlnDefocusV": fit.optics.defocus_v_angstrom, "rlnDefocusAngle": fit.optics.defocus_angle_degrees,
             "rlnPhaseShift": fit.optics.phase_shift_degrees, "rlnCtfFigureOfMerit": fit.score,
             "rlnCtfMaxResolution": fit.resolution_angstrom}
            for name, fit in zip(names, fits, strict=True) if fit.reliable]
    base = fits[0].optics
    optics = pd.DataFrame([{"rlnOpticsGroup": 1, "rlnOpticsGroupName": "opticsGroup1", "rlnVoltage": base.voltage_kv,
                            "rlnSphericalAberration": base.cs_mm, "rlnAmplitudeContrast": base.amplitude_contrast,
                            "rlnMicrographPixelSize": pixel_size}])
    with replacing(path) as temporary:
        Path(temporary).write_text(table_text({"optics": optics, "micrographs": pd.DataFrame(rows)}), "utf-8")
    return len(rows)


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


def _warnings(fits: Sequence[CtfFit], reliable: Sequence[CtfFit], particles: ParticleMeasurement, sign: str,
              snr: float) -> list[str]:
    warnings = []
    if len(reliable) < len(fits):
        warnings.append(f"the Thon rings of {len(fits) - len(reliable)} of {len(fits)} micrographs do not tell the "
                        "defocus; these fits are left out. Give CTFs of another program to have them all")
    if not particles.found:
        warnings.append(f"no particles of the map were found; a signal-to-noise ratio above {2 * snr:.2g} is excluded. "
                        "Check the map, its pixel size, and the contrast of the micrographs")
    elif not particles.counted:
        warnings.append("single particles do not stand out from the noise; their number follows from the spectrum and "
                        "the heights of the peaks, and is the same for all micrographs")
    if sign == "unknown":
        warnings.append(f"the micrographs do not tell whether particles are dark or bright (difference "
                        f"{particles.advantage_of_dark:.1f} standard errors); dark is assumed")
    elif sign == "bright":
        warnings.append(f"particles are bright in the micrographs (difference {-particles.advantage_of_dark:.1f} "
                        "standard errors); set real_contrast to bright")
    return warnings
