# SPDX-License-Identifier: GPL-3.0-or-later
"""Residual motion of each micrograph, from the particles that the search finds.

Motion during the exposure blurs the particles of a micrograph along its direction, and differs between micrographs. So
their amplitude against the map's projections falls faster in some micrographs than in others, and faster in one
direction. The amplitudes in generated micrographs without motion, on which the same search was made, take away what the
search itself does to them.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from cryogem_scipion.engine.compute.robust import NORMAL_DEVIATION
from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.measurement.particle_search import FieldSearch, ParticleSearcher, Trial, try_assumption
from cryogem_scipion.engine.measurement.synthesis import BANDS, Assumption, band_numbers
from cryogem_scipion.engine.simulation.envelope import Envelope
from cryogem_scipion.engine.simulation.motion import Motion

__all__ = ["MeasuredMotion", "measured_motion"]

SECTORS = 6
"""Directions, over half a turn, in which amplitudes are measured."""
LOWEST = 1.3
"""Lowest frequency used, in units of 1 / diameter."""
FEWEST_FIELDS = 3
"""Micrographs from which motion is measured: with fewer, its part of the envelope cannot be told."""
CERTAIN_ERRORS = 2.0
"""Standard errors by which the variance between micrographs has to exceed what chance gives."""
ROUNDS = 2
"""Rounds in which fields are generated with the motion that was found."""
GAINS = (0.5, 3.0)
"""Range of the ratio of what is found to the truth, outside of which it is chance."""
LEAST_FACTOR = 0.05
"""Smallest factor of motion that is divided out of the amplitude."""
UNKNOWN_ERROR = 1e6
"""Å², standard error of a field that tells nothing."""
LARGEST_DEVIATION = 2.0
"""Deviations in errors, from which an amplitude counts less in the fit."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MeasuredMotion:
    """Residual motion of each field, as values of ``Motion.from_squares``. The smallest of all is 0."""

    squares: Array
    """Mean square displacement, and the coefficients of cos 2θ and sin 2θ, Å² (3 for each field)."""
    errors: Array
    """Their standard errors, without that of the common level; nan for a part that does not differ between fields."""

    @property
    def motions(self) -> tuple[Motion, ...]:
        """Motion of each field."""
        return tuple(Motion.from_squares(*values) for values in self.squares.tolist())

    def factors(self, frequency: Array) -> Array:
        """Return the factor of the amplitude in each field and direction, (field, SECTORS, frequency).

        Parameters
        ----------
        frequency
            1/Å.
        """
        displacement = self.squares @ _directions()
        factors: Array = np.exp(-2 * math.pi**2 * displacement[:, :, None] * frequency**2)
        return factors

    def without(self, envelope: Envelope) -> Envelope:
        """Return the envelope of the signal without motion; the largest amplitude is 1.

        Parameters
        ----------
        envelope
            Mean of all fields, which includes their motion.
        """
        if not envelope:
            return envelope
        frequency, amplitude = np.array(envelope).T
        still = amplitude / self.factors(frequency).mean((0, 1))
        return tuple((float(u), float(f"{value:.3g}"))
                     for u, value in zip(frequency, still / still.max(), strict=True))


@dataclass(frozen=True)
class _Amplitudes:
    """Sums over the particles of each field, (field, BANDS, SECTORS)."""

    products: Array
    """Image times templates."""
    squares: Array
    """Templates squared."""


def measured_motion(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trials: Sequence[Trial],
                    assumed: Assumption, highest: float, seed: int) -> MeasuredMotion | None:
    """Measure the residual motion of real fields; None if it does not exceed what chance gives.

    Each trial is measured with the help of the others, as if it were real. What is found there is bias and chance. The
    bias is taken off, and each value is shrunk towards the mean of the set by what chance contributes to the variance
    between the fields (empirical Bayes). Fields are generated with the motion that was found, too; what is found there
    over what is true corrects all values.

    Parameters
    ----------
    real_searches
        Of the real fields.
    trials
        Two or more sets of generated fields without motion.
    assumed
        What the trials were generated with.
    highest
        Peaks with this score or more are no particles.
    seed
        Of the fields that are generated with motion.

    References
    ----------
    B. Efron and C. Morris, Data analysis using Stein's estimator: doi:10.1080/01621459.1975.10479864
    """
    if len(searcher.fields) < FEWEST_FIELDS:
        return None
    amplitudes, *generated = (_amplitudes(searcher, searches, assumed, highest)
                              for searches in (real_searches, *(trial.searches for trial in trials)))
    frequency = (np.arange(BANDS) + 0.5) / BANDS / 2 / searcher.fields[0].pixel_size
    used = frequency > LOWEST / searcher.diameter
    values, errors = _fitted(amplitudes, generated, frequency, used)
    still_values, still_errors = (np.concatenate(parts) for parts in zip(*(
        _fitted(trial_amplitudes, [*generated[:number], *generated[number + 1:]], frequency, used)
        for number, trial_amplitudes in enumerate(generated)), strict=True))
    bias = np.average(still_values, axis=0, weights=still_errors**-2)
    # Chance is larger than the fit's own errors say, because neighbours and contaminants lie over the particles.
    scatter = NORMAL_DEVIATION * np.median(np.abs(still_values - bias) / still_errors, axis=0)
    values, errors = values - bias, errors * np.maximum(scatter, 1.0)
    motion = _shrunk(values, errors)
    for number in range(ROUNDS):
        if motion is None:
            return None
        # Particles of moved micrographs are also placed less exactly along the motion, which lowers the amplitude, too.
        still = np.maximum(motion.factors(frequency).mean((0, 1)), LEAST_FACTOR)
        moved = replace(assumed, motions=motion.motions, amplitude=assumed.amplitude / still)
        trial = try_assumption(searcher, moved, (seed, "motion", number))
        moved_values, _ = _fitted(_amplitudes(searcher, trial.searches, assumed, highest), generated, frequency, used)
        gain = _gain(moved_values - bias, motion.squares, errors)
        motion = _shrunk(values / gain, errors / gain)
    return motion


def _gain(measured: Array, true: Array, errors: Array) -> Array:
    """What is measured in fields of known motion over their true one: for the isotropic part, and the two others."""
    def ratio(values: Array, true_values: Array, weights: Array) -> float:
        square = float((weights * true_values**2).sum())
        return float(np.clip((weights * values * true_values).sum() / square, *GAINS)) if square > 0 else 1.0

    weights = errors**-2
    measured_rest, true_rest = (values[:, 0] - np.average(values[:, 0], weights=weights[:, 0])
                                for values in (measured, true))
    isotropic = ratio(measured_rest, true_rest, weights[:, 0])
    directed = ratio(measured[:, 1:], true[:, 1:], weights[:, 1:])
    return np.array([isotropic, directed, directed])


def _directions() -> Array:
    """1, cos 2θ and sin 2θ in the middle of each sector."""
    angle = np.arange(SECTORS) * math.pi / SECTORS
    return np.stack([np.ones(SECTORS), np.cos(2 * angle), np.sin(2 * angle)])


def _sector_numbers(shape: tuple[int, int]) -> NDArray[np.int64]:
    """Band and sector of each Fourier coefficient as one number; BANDS * SECTORS beyond Nyquist."""
    angle = np.arctan2(*np.broadcast_arrays(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])))
    sectors = np.floor(angle / math.pi * SECTORS + 0.5).astype(int).ravel() % SECTORS
    bands = band_numbers(shape)
    numbers: NDArray[np.int64] = np.where(bands < BANDS, bands * SECTORS + sectors, BANDS * SECTORS)
    return numbers


def _amplitudes(searcher: ParticleSearcher, searches: Sequence[FieldSearch], assumed: Assumption, highest: float
                ) -> _Amplitudes:
    parts = {shape: _sector_numbers(shape) for shape in {field.shape: None for field in searcher.fields}}

    def field_sums(number: int) -> tuple[Array, Array]:
        field = searcher.fields[number]
        return searcher.sums(field, searches[number], assumed.counts[number], highest, parts[field.shape],
                             BANDS * SECTORS + 1)

    sums = np.array(parallel_map(field_sums, range(len(searcher.fields))))
    products, squares = np.moveaxis(sums[:, :, :-1].reshape(-1, 2, BANDS, SECTORS), 1, 0)
    return _Amplitudes(products, np.maximum(squares, 1e-30))


def _fitted(real: _Amplitudes, generated: Sequence[_Amplitudes], frequency: Array, used: NDArray[np.bool_]
            ) -> tuple[Array, Array]:
    """Mean square displacements that explain real amplitudes against generated ones, and their errors (field, 3)."""
    products, squares = (np.array([getattr(one, name) for one in generated]) for name in ("products", "squares"))
    expected = products.sum((0, 3)) / squares.sum((0, 3))
    # Scatter of the generated amplitudes, which have no direction: the variance of a product over its square.
    variance = ((products - expected[None, :, :, None] * squares) ** 2 / squares).mean((0, 3))
    values, errors = zip(*(_fitted_field(real.products[i, used] / real.squares[i, used], expected[i, used],
                                         np.sqrt(variance[i, used, None] / real.squares[i, used]),
                                         frequency[used])
                           for i in range(len(expected))), strict=True)
    return np.array(values), np.array(errors)


def _fitted_field(amplitude: Array, expected: Array, error: Array, frequency: Array) -> tuple[Array, Array]:
    """Fit one field: contrast · exp(−2π² displacement u²) times the expected amplitude."""
    if not expected.any():  # the field has no peaks
        return np.zeros(3), np.full(3, UNKNOWN_ERROR)
    directions = _directions()

    def deviations(unknown: Array) -> Array:
        fall = np.exp(unknown[0] - 2 * math.pi**2 * frequency[:, None] ** 2 * (unknown[1:] @ directions))
        return np.ravel((amplitude - expected[:, None] * fall) / error)

    fit = least_squares(deviations, np.zeros(4), loss="soft_l1", f_scale=LARGEST_DEVIATION)
    covariance = np.linalg.pinv(fit.jac.T @ fit.jac)
    return fit.x[1:], np.sqrt(np.diag(covariance))[1:]


def _shrunk(values: Array, errors: Array) -> MeasuredMotion | None:
    """Motion by the mean square displacements of single fields; None if they differ by no more than chance."""
    count = len(values)
    mean = np.array([np.average(values[:, 0], weights=errors[:, 0] ** -2), 0.0, 0.0])
    deviations = values - mean
    # The isotropic part has lost one degree of freedom to the mean; the two others are one vector.
    directed = _excess(deviations[:, 1:], errors[:, 1:], 2 * count)
    variance = np.array([_excess(deviations[:, 0], errors[:, 0], count - 1), directed, directed])
    if not variance.any():
        return None
    trust = variance / (variance + errors**2)
    shrunk = deviations * trust
    smallest = (shrunk[:, 0] - np.hypot(shrunk[:, 1], shrunk[:, 2])).min()
    return MeasuredMotion(shrunk - [smallest, 0.0, 0.0], np.where(variance > 0, errors * np.sqrt(trust), np.nan))


def _excess(deviations: Array, errors: Array, freedom: int) -> float:
    """Variance beyond that of chance, each deviation weighted by its error; 0 if it is not certain.

    References
    ----------
    R. DerSimonian and N. Laird, Meta-analysis in clinical trials: doi:10.1016/0197-2456(86)90046-2
    """
    weights = errors**-2
    excess = float((weights * deviations**2).sum()) - freedom
    scale = weights.sum() - (weights**2).sum() / weights.sum() * (weights.size - freedom)
    return float(excess / scale) if excess > CERTAIN_ERRORS * math.sqrt(2 * freedom) else 0.0
