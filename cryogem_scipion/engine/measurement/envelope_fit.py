# SPDX-License-Identifier: GPL-3.0-or-later
"""A smooth envelope of the signal from amplitudes that were measured in bands of frequency."""
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from cryogem_scipion.engine.simulation.envelope import Envelope

__all__ = ["smooth_envelope"]

LEAST_BANDS = 4
"""Bands that have to be measured, so that the envelope has a shape."""
TRUSTED = 1 / 3
"""Relative error below which a band counts as measured: its logarithm has an error then that is nearly symmetric."""
LEAST_ERROR = 0.05
"""Relative error that a band has at least. Errors come from the scatter between a few fields, so that by chance one
of them is far too small."""
OUTLIER = 3.0
"""A band that deviates by more errors is left out. Now and then a band near a zero of all CTFs is wrong by a factor."""
AGREEMENT = 1.0
"""Mean squared deviation, in units of the errors, that the fit may have."""
SMOOTHNESS = 10.0 ** np.arange(1, -7, -0.25)
"""Weights of the smoothness that are tried, Å⁻², the strongest first."""

Array = NDArray[np.float64]


def smooth_envelope(frequency: Array, amplitude: Array, error: Array) -> Envelope:
    """Return the smoothest envelope that the errors allow; no points if the amplitude is hardly measured.

    Between two bands the envelope is exp(−B/4 u²) with a B-factor of that place, which is 0 or more. The differences
    between successive B-factors are kept as small as possible, as long as the envelope agrees with the bands within
    their errors. So noise in single bands makes no rings in the
    images, and a set that tells little gives one B-factor. A band that is not measured well follows from the others.

    Parameters
    ----------
    frequency
        Of the bands, 1/Å, increasing (band).
    amplitude, error
        Of each band, in any unit (band).

    Returns
    -------
    Points up to the last band that is measured; the largest amplitude is 1.

    References
    ----------
    Choice of the smoothness (discrepancy principle): Morozov, Soviet Mathematics Doklady 7 (1966) 414
    """
    measured = (amplitude > 0) & (error < TRUSTED * amplitude)
    while measured.sum() >= LEAST_BANDS:
        count = int(np.flatnonzero(measured)[-1]) + 1
        known = np.where(measured, amplitude, 1.0)[:count]
        weight = np.where(measured[:count], known / np.maximum(error[:count], LEAST_ERROR * known), 0.0)
        logarithm = _smooth_logarithm(frequency[:count] ** 2, np.log(known), weight)
        deviation = np.abs(np.log(known) - logarithm) * weight
        if deviation.max() <= OUTLIER:
            values = np.exp(logarithm - logarithm.max())
            return tuple((float(f"{u:.4g}"), float(f"{value:.3g}"))
                         for u, value in zip(frequency[:count], values, strict=True))
        measured = measured & (np.arange(len(measured)) != deviation.argmax())
    return ()


def _smooth_logarithm(squares: Array, logarithm: Array, weight: Array) -> Array:
    """Logarithm of the smooth envelope at squared frequencies; ``weight`` is 1 / error, or 0 for unknown values."""
    count = len(squares)
    # Unknowns: the value at the first band, then the B-factor between each band and the next.
    model = np.tril(np.broadcast_to(np.append(1.0, -np.diff(squares) / 4), (count, count)).copy())
    model[:, 0] = 1
    change = np.zeros((count - 2, count))
    rows = np.arange(count - 2)
    change[rows, rows + 1], change[rows, rows + 2] = -1, 1
    lowest = np.append(-np.inf, np.zeros(count - 1))
    fitted = logarithm
    for smoothness in SMOOTHNESS:
        system = np.vstack([model * weight[:, None], change * smoothness])
        solution = lsq_linear(system, np.append(logarithm * weight, np.zeros(count - 2)), (lowest, np.inf)).x
        fitted = model @ solution
        if (((fitted - logarithm) * weight) ** 2).sum() <= AGREEMENT * (weight > 0).sum():
            break
    return fitted
