# SPDX-License-Identifier: GPL-3.0-or-later
"""Envelope of the signal: how its amplitude changes with the spatial frequency, as a table of points."""
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Envelope", "envelope_amplitude", "envelope_plane"]

Envelope = tuple[tuple[float, float], ...]
"""Points (frequency in 1/Å, amplitude above 0); the frequencies increase. No points: no envelope."""


def envelope_amplitude(envelope: Envelope, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Amplitude of an envelope at given frequencies.

    Between two points the logarithm of the amplitude is linear in the squared frequency, as for exp(−B/4 u²). Below
    the first point the amplitude is constant. Beyond the last point it continues the fall between the last two points,
    and it never rises.

    Parameters
    ----------
    envelope
        One point or more.
    frequency
        1/Å.
    """
    squares = np.array([u * u for u, _ in envelope])
    logarithms = np.log([amplitude for _, amplitude in envelope])
    slope = 0.0
    if len(envelope) > 1:
        slope = min((logarithms[-1] - logarithms[-2]) / (squares[-1] - squares[-2]), 0.0)
    square = frequency * frequency
    beyond = np.maximum(square - squares[-1], 0)
    amplitude: NDArray[np.float64] = np.exp(np.interp(square, squares, logarithms) + slope * beyond)
    return amplitude


@lru_cache(maxsize=2)
def envelope_plane(envelope: Envelope, shape: tuple[int, int], pixel_size: float) -> NDArray[np.float32]:
    """Amplitude of an envelope on the half plane of ``rfft2``; all particles of a micrograph share the array.

    Parameters
    ----------
    envelope
        One point or more.
    shape
        Image size (y, x) in pixels.
    pixel_size
        Å per pixel.

    Returns
    -------
    A read-only array.
    """
    frequency = np.hypot(np.fft.fftfreq(shape[0], pixel_size)[:, None], np.fft.rfftfreq(shape[1], pixel_size))
    plane = envelope_amplitude(envelope, frequency).astype(np.float32)
    plane.setflags(write=False)
    return plane
