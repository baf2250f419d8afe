# SPDX-License-Identifier: GPL-3.0-or-later
"""Standard errors of fitted defocus and astigmatism, from each micrograph and from its set; and the noise in a length.

Two halves and two floors are few values: the error of a single micrograph would be too small by chance now and then.
How much larger errors are than the curvature of chi square says is about the same for all micrographs of a set. So
each error is the mean of what the micrograph and what its set tell.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cryogem_scipion.engine.measurement.ring_model import RingModel, components, with_components
from cryogem_scipion.engine.simulation.optics import Optics

__all__ = ["ErrorSources", "astigmatism_factors", "curvature_errors", "pooled_errors"]

STEPS = (40.0, 60.0, 60.0)
"""Å, by which mean defocus and astigmatism are changed to find the curvature of chi square."""
LARGEST = 5.0
"""Largest error, in these steps; chi square has no minimum along some direction if it is reached."""
ROUNDS = 30
"""Of the estimate of the spread of astigmatism in a set."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ErrorSources:
    """What tells how far a fit may be off. The columns are mean defocus, and astigmatism along 0° and 45°; Å."""

    curvature: Array
    """Standard errors by the curvature of chi square: true if the model is right and its bins are independent."""
    halves: Array
    """(2, 3): half the difference of top and bottom half, and of left and right half."""
    floors: Array
    """(n, 3): half of what other noise floors change."""


def curvature_errors(model: RingModel, optics: Optics) -> Array:
    """Return standard errors of mean defocus and astigmatism along two directions, Å, by the curvature of chi square.

    Parameters
    ----------
    optics
        At the least chi square.
    """
    found = components(optics)
    lowest = model.chi(optics)

    def rise(*changes: Array) -> float:
        """Mean rise of chi square for changes of the three values, in units of the noise."""
        mean = np.mean([model.chi(with_components(optics, found + change)) for change in changes])
        return float(mean - lowest) / max(lowest / model.count.size, 1e-30)

    steps = np.diag(STEPS)
    curvature = np.zeros((3, 3))
    for i in range(3):
        curvature[i, i] = 2 * rise(steps[i], -steps[i])
        for j in range(i):
            together, apart = steps[i] + steps[j], steps[i] - steps[j]
            curvature[i, j] = curvature[j, i] = (rise(together, -together) - rise(apart, -apart)) / 2
    values, directions = np.linalg.eigh(curvature)
    covariance = (directions / np.maximum(values / 2, LARGEST**-2)) @ directions.T
    errors: Array = np.sqrt(np.diag(covariance)) * STEPS
    return errors


def pooled_errors(sources: Sequence[ErrorSources], certain: NDArray[np.bool_]) -> Array:
    """Return the standard errors of each micrograph's mean defocus, and of its astigmatism along one direction.

    Chance is told by halves, but not below the curvature; the model's part is told by the floors.

    Parameters
    ----------
    certain
        Which defocus values are certain: these tell what is typical of the set.

    Returns
    -------
    (n, 2), Å.
    """
    typical = certain if certain.any() else np.ones(len(sources), bool)
    errors = []
    for columns in (slice(0, 1), slice(1, 3)):
        curvature = np.array([(one.curvature[columns] ** 2).mean() for one in sources])
        halves, floors = (_pooled([values[:, columns] for values in part], curvature, typical)
                          for part in ([one.halves for one in sources], [one.floors for one in sources]))
        errors.append(np.sqrt(np.maximum(halves, curvature) + floors))
    return np.stack(errors, axis=1)


def _pooled(values: Sequence[Array], curvature: Array, typical: NDArray[np.bool_]) -> Array:
    """Mean of each micrograph's own mean square, and of the set's typical one for its curvature."""
    own = np.array([float((one**2).mean()) for one in values])
    # The median of a chi square is below its mean.
    freedom = values[0].size
    ratio = float(np.median((own / curvature)[typical])) * freedom / float(stats.chi2.median(freedom))
    pooled: Array = (own + ratio * curvature) / 2
    return pooled


def astigmatism_factors(found: Array, errors: Array, certain: NDArray[np.bool_]) -> Array:
    """Return by what the astigmatism of each micrograph has to be multiplied: noise makes a length longer.

    The astigmatism along each direction is drawn towards 0 by its error against the spread of the set, as the expected
    value of a Gaussian is. So the largest of several is not larger by chance, and one that is not significant becomes
    small. Micrographs that are not certain are left as they are.

    Parameters
    ----------
    found
        (n, 2), astigmatism along 0° and 45°, Å.
    errors
        Standard errors along one direction, Å.
    certain
        Which defocus values are certain.

    References
    ----------
    doi:10.1080/01621459.1983.10477920
    """
    if not certain.any():
        return np.ones(len(found))
    square, noise = (found[certain] ** 2).mean(1), errors[certain] ** 2
    spread = 0.0
    for _ in range(ROUNDS):
        weight = 1 / np.maximum(noise + spread, 1e-12) ** 2
        spread = max(float(np.average(square - noise, weights=weight)), 0.0)
    return np.where(certain, spread / np.maximum(spread + errors**2, 1e-12), 1.0)
