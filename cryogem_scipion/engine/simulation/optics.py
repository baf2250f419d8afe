# SPDX-License-Identifier: GPL-3.0-or-later
"""One state of the microscope, the phase of its contrast transfer function (CTF), and the zeros of the CTF.

Lengths are Å, underfocus is positive, angles are degrees from x towards y. Only this module converts voltages in kV and
aberrations in mm. It imports NumPy only, because the viewers use it as well.
"""
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation.envelope import Envelope
from cryogem_scipion.engine.simulation.motion import Motion

__all__ = ["Optics", "ctf_zeros", "electron_wavelength", "phase_terms", "phase_turns"]

PLANCK = 6.62607015e-34  # J s
ELECTRON_MASS = 9.1093837015e-31  # kg
ELEMENTARY_CHARGE = 1.602176634e-19  # C
LIGHT_SPEED = 299792458.0  # m / s


@dataclass(frozen=True)
class Optics:
    """One realised microscope state; underfocus is positive.

    The defocus is ``defocus_u_angstrom`` in the direction ``defocus_angle_degrees`` (from x towards y), and
    ``defocus_v_angstrom`` perpendicular to it.

    Raises
    ------
    SettingsError
        The voltage is not positive, the amplitude contrast is not between -1 and 1, or a value is not finite.

    References
    ----------
    Convention of CTFFIND4: doi:10.1016/j.jsb.2015.08.008
    """

    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float
    defocus_u_angstrom: float
    defocus_v_angstrom: float
    defocus_angle_degrees: float
    phase_shift_degrees: float = 0.0
    b_factor_angstrom2: float = 0.0
    envelope: Envelope = ()
    """Further factor on the signal, at given frequencies; see ``envelope``. Empty: 1 at all frequencies."""
    motion: Motion | None = None
    """Residual motion, which blurs the signal; None: none."""

    def __post_init__(self) -> None:
        if not 0 < self.voltage_kv < math.inf:
            raise SettingsError(f"voltage is {self.voltage_kv} kV; give a positive number such as 300")
        if not 0 <= abs(self.amplitude_contrast) <= 1:
            raise SettingsError(f"amplitude contrast is {self.amplitude_contrast}; give a number from 0 to 1")
        if not all(math.isfinite(value) for name, value in vars(self).items()
                   if name not in {"envelope", "motion"}):
            raise SettingsError(f"the optics have a value that is not finite: {self}; check the CTF file")


def electron_wavelength(voltage_kv: float) -> float:
    """Relativistic de Broglie wavelength (Å) of electrons accelerated by ``voltage_kv``; 0.0197 Å at 300 kV.

    Raises
    ------
    SettingsError
        The voltage is not positive.
    """
    if not 0 < voltage_kv < math.inf:
        raise SettingsError(f"voltage is {voltage_kv} kV; give a positive number such as 300")
    energy = ELEMENTARY_CHARGE * voltage_kv * 1e3
    momentum = math.sqrt(2 * ELECTRON_MASS * energy * (1 + energy / (2 * ELECTRON_MASS * LIGHT_SPEED**2)))
    return 1e10 * PLANCK / momentum


def phase_terms(optics: Optics) -> tuple[float, float, float, float, float]:
    """Coefficients (a, b, c, d, e) of the CTF's phase as a polynomial of the frequency (x, y) in 1/Å.

    Phase in turns = a (x² + y²) + b (x² − y²) + c x y + d (x² + y²)² + e. With cos 2(θ − angle) written out, the
    defocus term is a polynomial, so that no angle has to be computed for each frequency.

    References
    ----------
    doi:10.1016/j.jsb.2015.08.008
    """
    wavelength = electron_wavelength(optics.voltage_kv)
    mean = 0.5 * (optics.defocus_u_angstrom + optics.defocus_v_angstrom)
    half = 0.5 * (optics.defocus_u_angstrom - optics.defocus_v_angstrom)
    angle = 2 * math.radians(optics.defocus_angle_degrees)
    return (
        0.5 * wavelength * mean,
        0.5 * wavelength * half * math.cos(angle),
        wavelength * half * math.sin(angle),
        -0.25 * optics.cs_mm * 1e7 * wavelength**3,
        (math.asin(optics.amplitude_contrast) + math.radians(optics.phase_shift_degrees)) / (2 * math.pi),
    )


def phase_turns(optics: Optics, y: Any, x: Any) -> Any:
    """Phase of the CTF, in turns.

    Parameters
    ----------
    optics
        One realised microscope state.
    y, x
        Frequencies, 1/Å: float64 arrays or tensors whose shapes broadcast.
    """
    a, b, c, d, e = phase_terms(optics)
    square = x * x + y * y
    return (a + d * square) * square + b * (x * x - y * y) + c * x * y + e


def ctf_zeros(optics: Optics, directions: NDArray[np.float64], highest_frequency: float) -> NDArray[np.float64]:
    """Frequencies (1/Å) at which the CTF is zero: the dark Thon rings of a power spectrum.

    Parameters
    ----------
    optics
        One realised microscope state.
    directions
        Directions θ in which to look for zeros, from x towards y, radians (m,).
    highest_frequency
        Look for zeros up to this frequency, 1/Å; above 0.

    Returns
    -------
    Array (rings, m), from the innermost ring outwards; NaN where a ring lies beyond ``highest_frequency``.
    """
    a, b, c, d, e = phase_terms(optics)
    # In the direction θ the phase is p t + d t² + e turns, with t = u². The CTF is zero at each half turn.
    p = a + b * np.cos(2 * directions) + 0.5 * c * np.sin(2 * directions)
    max_turns = highest_frequency**2 * (np.abs(p).max() + abs(d) * highest_frequency**2)
    half_turns = np.arange(math.floor(2 * (e - max_turns)), math.ceil(2 * (e + max_turns)) + 1)[:, None] / 2 - e
    with np.errstate(invalid="ignore", divide="ignore"):
        # Both roots of the quadratic equation; the form of the first one stays finite as d goes to zero.
        far = p + np.where(p < 0, -1, 1) * np.sqrt(p**2 + 4 * d * half_turns)
        t = np.concatenate([2 * half_turns / far, -far / (2 * d) if d else np.full_like(far, np.nan)])
        rings = np.sqrt(np.where((t > 0) & (t <= highest_frequency**2), t, np.nan))
    rings = np.sort(rings, axis=0)  # NaN is sorted to the end
    zeros: NDArray[np.float64] = rings[~np.isnan(rings).all(1)]
    return zeros
