# SPDX-License-Identifier: GPL-3.0-or-later
"""Model of a power spectrum with Thon rings: a smooth noise floor plus |CTF|² times a few falling curves.

What the optics let through is |CTF|² times the power of the ice, which falls smoothly, and times the mean power of the
particles, where their map is known. For a given defocus floor and strengths are linear terms, so that only the defocus
values and the angle are searched.
"""
import copy
import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.measurement.polar_spectrum import SECTORS, PolarSpectrum
from cryogem_scipion.engine.simulation.optics import Optics, electron_wavelength, phase_terms

__all__ = ["DEFOCI", "RingModel", "at_defocus", "components", "with_components"]

DEFOCI = np.arange(3000.0, 50_000.0, 100.0)
"""Defocus values that are tried, Å."""
LOWEST = 1 / 40
"""1/Å; at lower frequencies ice and contaminants dominate, and the arrangement of the particles shows."""
FLOOR_DEGREES = (3, 7)
"""Smallest and largest degree of the polynomial that is the noise floor, relative to a first smooth fit."""
FLOOR_DEFOCUS = 10_000.0
"""Å; between the half-waves of the rings of this defocus, the floor has half as many bends: it cannot imitate them."""
FEWEST = 20
"""Frequencies that can be fitted at least."""
FALL_OFFS = (0.0, 30.0, 100.0, 300.0, 1000.0)
"""Å²; the power under the rings falls as a sum of exp(−B u²) with these B."""
GAINS = (0.3, 3.0)
"""Smallest and largest strength of the rings of a micrograph, in units of the set's."""

Array = NDArray[np.float64]


class RingModel:
    """The spectrum of one micrograph, and the linear terms that can describe it."""

    def __init__(self, spectrum: PolarSpectrum, base: Optics, particle_power: Array | None, highest: float,
                 more_bends: int = 0) -> None:
        """Prepare the terms.

        Parameters
        ----------
        base
            Gives voltage, spherical aberration, amplitude contrast and phase shift.
        particle_power
            Mean power of the particles' projections at the spectrum's frequencies, at any scale.
        highest
            Frequency up to which the spectrum is described, 1/Å.
        more_bends
            Added to the degree of the floor.
        """
        frequency = spectrum.frequency
        rows = np.flatnonzero((frequency >= LOWEST) & (frequency <= highest))
        if len(rows) < FEWEST:
            raise DataError(f"{len(rows)} frequencies can be fitted; use larger or finer micrographs")
        self.base, self.frequency = base, frequency[rows]
        self._degree = degree = _floor_degree(base, highest) + more_bends
        self.square, self.difference, self.product, self.count = (
            values[rows] for values in (spectrum.square, spectrum.difference, spectrum.product, spectrum.count))
        self.by_ring = self.count.sum(1)
        floor = _polynomials(self.frequency, degree)
        terms = _polynomials(self.frequency, degree + 1)
        self.unit = float(np.median(spectrum.radial[rows[len(rows) // 2:]]))
        """Power that counts as 1."""
        power = np.maximum(spectrum.power[rows] / self.unit, 1e-30)
        radial = np.maximum(spectrum.radial[rows] / self.unit, 1e-30)
        self.smooth = np.exp(terms @ np.linalg.lstsq(terms, np.log(radial), rcond=None)[0])
        self.values = power / self.smooth[:, None]
        self.floor_curves = floor
        curves = [np.exp(-np.outer(self.frequency**2, FALL_OFFS))]
        if particle_power is not None:
            within = particle_power[rows] / max(float(particle_power[rows].max()), 1e-30)
            curves.append(within[:, None] * curves[0])
        self.strength_curves = np.hstack(curves) / self.smooth[:, None]
        self._weight = np.sqrt(self.by_ring * spectrum.draws)
        self._basis = np.linalg.qr(self._weight[:, None] * floor)[0]
        self._radial = self._without_floor(self._weight * self.rotational_mean(self.values))
        self._draws = spectrum.draws
        self._prepare_directions()

    def rotational_mean(self, values: Array) -> Array:
        """Return the mean over the directions of each frequency."""
        mean: Array = (values * self.count).sum(1) / self.by_ring
        return mean

    def scan(self) -> tuple[Array, Array]:
        """Return chi square of the rotational mean for each of DEFOCI, and the strengths fitted at each."""
        fits = [nnls(self._columns(defocus), self._radial) for defocus in DEFOCI.tolist()]
        return np.array([left**2 for _, left in fits]), np.array([strength for strength, _ in fits])

    def scan_with(self, strength: Array) -> tuple[Array, Array]:
        """Return chi square for each of DEFOCI with strengths known but for a common factor; and this factor."""
        rings = np.stack([self._columns(defocus) @ strength for defocus in DEFOCI.tolist()])
        gain = np.clip(rings @ self._radial / np.maximum((rings**2).sum(1), 1e-30), *GAINS)
        return ((self._radial - gain[:, None] * rings) ** 2).sum(1), gain

    @property
    def chi_without_rings(self) -> float:
        """Chi square of the rotational mean if there is a floor only."""
        return float(self._radial @ self._radial)

    def normal_equations(self, defocus: float) -> tuple[Array, Array]:
        """Return matrix and right side of the least squares for the strengths at a defocus."""
        columns = self._columns(defocus)
        return columns.T @ columns, columns.T @ self._radial

    def chi(self, optics: Optics) -> float:
        """Return chi square of the spectrum in all directions, at the best floor and strengths."""
        return self.fit(optics)[0]

    def fit(self, optics: Optics) -> tuple[float, Array, Array]:
        """Return chi square, the floor, and the rings (frequency, sector), these two relative to ``smooth``.

        The rings may be weaker along one direction (drift), and the floor as well.
        """
        chi, _, ground, shown = self._best(optics)
        return chi, ground, shown

    def _best(self, optics: Optics) -> tuple[float, Array, Array, Array]:
        """Chi square, the weighted fitted values, the floor and the rings."""
        squared = self._squared_ctf(optics)
        rings = squared[:, :, None] * self.strength_curves[:, None]
        drifting = rings[:, :, 1:2] * self._turns * (self.square[:, :, None] * self._drift_unit)
        free = np.concatenate([self._floor_columns, self._scaled(drifting)], axis=1)
        basis, upper = np.linalg.qr(free)
        columns = self._scaled(rings)
        right = self._target - basis @ (basis.T @ self._target)
        strength = nnls(*_condensed(columns - basis @ (basis.T @ columns), right))[0]
        left = self._target - columns @ strength
        coefficients = np.linalg.solve(upper + 1e-9 * np.eye(len(upper)), basis.T @ left)
        ground = self.floor_curves @ coefficients[:self._degree + 1]
        shown = rings @ strength + drifting @ coefficients[-2:]
        residual = left - free @ coefficients
        return float(residual @ residual), self._target - residual, ground, shown

    def redrawn(self, optics: Optics, draw: np.random.Generator) -> "RingModel":
        """Return the model of another spectrum with the same rings and floor, and with noise of the same strength."""
        chi, fitted = self._best(optics)[:2]
        other = copy.copy(self)
        other._target = fitted + math.sqrt(chi / len(fitted)) * draw.standard_normal(len(fitted))
        return other

    def _prepare_directions(self) -> None:
        direction = (np.arange(SECTORS) + 0.5) * math.pi / SECTORS
        self._turns = np.stack([np.cos(2 * direction), np.sin(2 * direction)], axis=1)[None]
        self._drift_unit = 1 / float(self.square.max())
        whole = np.broadcast_to(self.floor_curves[:, None], (*self.count.shape, self._degree + 1))
        turned = self.floor_curves[:, None, None, :2] * self._turns[..., None]
        shape = self.count.shape
        self._floor_columns = np.concatenate(
            [self._scaled(whole), self._scaled(np.broadcast_to(turned, (*shape, 2, 2)).reshape(*shape, 4))], axis=1)
        self._target = self._scaled(self.values[:, :, None])[:, 0]

    def _scaled(self, columns: Array) -> Array:
        weight = np.sqrt(self.count * self._draws)
        scaled: Array = (weight[:, :, None] * columns).reshape(-1, columns.shape[2])
        return scaled

    def _columns(self, defocus: float) -> Array:
        """Terms of the rotational mean, without what the floor can imitate."""
        a, _, _, d, e = phase_terms(at_defocus(self.base, defocus))
        square = self.frequency**2
        squared = np.sin(2 * math.pi * ((a + d * square) * square + e)) ** 2
        return self._without_floor(self._weight[:, None] * self.strength_curves * squared[:, None])

    def _without_floor(self, values: Array) -> Array:
        left: Array = values - self._basis @ (self._basis.T @ values)
        return left

    def _squared_ctf(self, optics: Optics) -> Array:
        a, b, c, d, e = phase_terms(optics)
        turns = (a + d * self.square) * self.square + b * self.difference + c * self.product + e
        squared: Array = np.sin(2 * math.pi * turns) ** 2
        return squared


def at_defocus(base: Optics, defocus: float) -> Optics:
    """Return the optics at a defocus without astigmatism."""
    return replace(base, defocus_u_angstrom=defocus, defocus_v_angstrom=defocus, defocus_angle_degrees=0.0)


def components(optics: Optics) -> Array:
    """Return mean defocus, and astigmatism along 0° and 45°, Å."""
    astigmatism = optics.defocus_u_angstrom - optics.defocus_v_angstrom
    angle = 2 * math.radians(optics.defocus_angle_degrees)
    return np.array([(optics.defocus_u_angstrom + optics.defocus_v_angstrom) / 2, astigmatism * math.cos(angle),
                     astigmatism * math.sin(angle)])


def with_components(base: Optics, values: Array) -> Optics:
    """Return the optics with a mean defocus and astigmatism along 0° and 45°, Å."""
    half = float(np.hypot(values[1], values[2])) / 2
    angle = math.degrees(math.atan2(values[2], values[1])) / 2 % 180
    return replace(base, defocus_u_angstrom=float(values[0]) + half, defocus_v_angstrom=float(values[0]) - half,
                   defocus_angle_degrees=angle)


def _floor_degree(base: Optics, highest: float) -> int:
    """Degree of the floor's polynomial for rings up to a frequency (1/Å)."""
    half_waves = 2 * electron_wavelength(base.voltage_kv) * FLOOR_DEFOCUS * (highest**2 - LOWEST**2)
    return min(max(round(half_waves / 2), FLOOR_DEGREES[0]), FLOOR_DEGREES[1])


def _condensed(columns: Array, right: Array) -> tuple[Array, Array]:
    """A small least-squares problem with the same solution."""
    matrix = columns.T @ columns
    matrix[np.diag_indices(len(matrix))] += 1e-10 * np.trace(matrix)
    lower = np.linalg.cholesky(matrix)
    return lower.T, np.linalg.solve(lower, columns.T @ right)


def _polynomials(frequency: Array, degree: int) -> Array:
    """Chebyshev polynomials over the fitted range, one in each column."""
    place = 2 * (frequency - frequency[0]) / (frequency[-1] - frequency[0]) - 1
    curves: Array = np.cos(np.arange(degree + 1) * np.arccos(np.clip(place, -1, 1))[:, None])
    return curves
