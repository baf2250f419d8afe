# SPDX-License-Identifier: GPL-3.0-or-later
"""Residual motion of a micrograph: a blur of the signal that may be stronger in one direction."""
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Motion", "motion_plane"]

@dataclass(frozen=True)
class Motion:
    """What motion during the exposure leaves in an image: displacements with a normal distribution."""

    u_angstrom: float
    """Root mean square displacement in the direction ``angle_degrees``, Å."""
    v_angstrom: float
    """The same perpendicular to it."""
    angle_degrees: float
    """From x towards y."""

    @classmethod
    def from_squares(cls, mean: float, cosine: float, sine: float) -> "Motion":
        """Return the motion whose mean square displacement in a direction θ is mean + cosine cos 2θ + sine sin 2θ.

        Parameters
        ----------
        mean, cosine, sine
            Å²; what would be negative is 0.
        """
        half = math.hypot(cosine, sine)
        return cls(math.sqrt(max(mean + half, 0.0)), math.sqrt(max(mean - half, 0.0)),
                   math.degrees(math.atan2(sine, cosine)) / 2 % 180)

    def squares(self) -> tuple[float, float, float]:
        """Return the three values of ``from_squares``, Å²."""
        half, angle = (self.u_angstrom**2 - self.v_angstrom**2) / 2, 2 * math.radians(self.angle_degrees)
        return (self.u_angstrom**2 + self.v_angstrom**2) / 2, half * math.cos(angle), half * math.sin(angle)


@lru_cache(maxsize=2)
def motion_plane(motion: Motion, shape: tuple[int, int], pixel_size: float) -> NDArray[np.float32]:
    """Factor of a motion on the half plane of ``rfft2``: exp(−2π² (U² u² + V² v²)).

    u and v are the frequencies along the motion and perpendicular to it. It is the mean of exp(2πi k·d) over
    displacements d with a normal distribution.

    Parameters
    ----------
    motion
        Of the image.
    shape
        Image size (y, x) in pixels.
    pixel_size
        Å per pixel.

    Returns
    -------
    A read-only array.
    """
    mean, cosine, sine = motion.squares()
    y, x = np.fft.fftfreq(shape[0], pixel_size)[:, None], np.fft.rfftfreq(shape[1], pixel_size)
    square = mean * (x * x + y * y) + cosine * (x * x - y * y) + 2 * sine * x * y
    plane: NDArray[np.float32] = np.exp(-2 * math.pi**2 * square).astype(np.float32)
    plane.setflags(write=False)
    return plane
