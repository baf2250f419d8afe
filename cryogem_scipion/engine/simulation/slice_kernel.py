# SPDX-License-Identifier: GPL-3.0-or-later
"""The compiled loop that computes central slices of a spectrum on the CPU; ``slices`` explains the method."""
import math
from typing import Any

import numba
import numpy as np

__all__ = ["fill_slices"]

# The kernel uses flat arrays of floats with unsigned indices, because numba then neither checks for negative indices
# nor creates views. The compiler may contract and reorder sums, but in the same way for every projection.
_FAST = {"contract", "reassoc"}
_one, _two = np.uintp(1), np.uintp(2)


@numba.njit(cache=True, inline="always")
def _weights(t: Any, cubic: Any) -> Any:
    """Interpolation weights of the neighbours at -1, 0, 1 and 2, for a position t between 0 and 1."""
    one, sixth = np.float32(1), np.float32(1 / 6)
    o = one - t
    if not cubic:
        return np.float32(0), o, t, np.float32(0)
    first, last = o * o * o * sixth, t * t * t * sixth
    second = np.float32(2 / 3) - t * t * (one - np.float32(0.5) * t)
    return first, second, one - first - second - last, last


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def fill_slices(spectrum: Any, lines: Any, columns: Any, rotations: Any, shifts: Any, width: Any, scale: Any,
                radius: Any, gain: Any, cubic: Any, out: Any) -> None:
    """Compute the half-plane spectra of projections and write them into ``out``.

    Parameters
    ----------
    spectrum
        In the layout that ``slices`` describes, as a flat float32 array (real and imaginary part of each value).
    lines, columns
        Lengths of the spectrum along y and x.
    rotations
        Rotation matrices A, ``[n, 3, 3]``, float32.
    shifts
        (y, x) in pixels, ``[n, 2]``, float32.
    width, scale, radius, gain
        As in ``slices.SliceGrid``.
    cubic
        Cubic interpolation, not linear.
    out
        ``[n, row, 2 x column]``, float32: real and imaginary part of each value.
    """
    line, plane = np.uintp(2 * columns), np.uintp(2 * columns * lines)
    low, count = (np.int32(1), 4) if cubic else (np.int32(0), 2)
    begin = 0 if cubic else 1
    middle, left = np.float32(lines // 2), np.float32(low)
    half = width // 2 + 1
    ramp = np.empty((half, 2), np.float32)
    for n in range(len(rotations)):
        turn = rotations[n]
        ax, ay, az = turn[0, 0] * scale, turn[0, 1] * scale, turn[0, 2] * scale
        bx, by, bz = turn[1, 0] * scale, turn[1, 1] * scale, turn[1, 2] * scale
        step_y = -2 * math.pi * (width // 2 + shifts[n, 0]) / width
        step_x = -2 * math.pi * (width // 2 + shifts[n, 1]) / width
        for column in range(half):
            ramp[column, 0], ramp[column, 1] = gain * math.cos(step_x * column), gain * math.sin(step_x * column)
        for row in range(width):
            ky = row if 2 * row < width else row - width
            inside = radius * radius - ky * ky
            last = min(half, math.ceil(math.sqrt(inside))) if inside > 0 else 0
            phase_re, phase_im = np.float32(math.cos(step_y * ky)), np.float32(math.sin(step_y * ky))
            fy = np.float32(ky)
            for kx in range(last):
                fx = np.float32(kx)
                x = fx * ax + fy * bx
                sign = np.float32(-1) if x < 0 else np.float32(1)
                x = x * sign + left
                y = (fx * ay + fy * by) * sign + middle
                z = (fx * az + fy * bz) * sign + middle
                i, j, k = np.int32(x), np.int32(y), np.int32(z)
                x0, x1, x2, x3 = _weights(x - np.float32(i), cubic)
                wy, wz = _weights(y - np.float32(j), cubic), _weights(z - np.float32(k), cubic)
                corner = np.uintp(k - low) * plane + np.uintp(j - low) * line + np.uintp(i - low) * _two
                re, im = np.float32(0), np.float32(0)
                for c in range(count):
                    for b in range(count):
                        weight = wz[begin + c] * wy[begin + b]
                        p = corner + np.uintp(c) * plane + np.uintp(b) * line
                        q = p + _one
                        if cubic:
                            re += weight * (spectrum[p] * x0 + spectrum[p + _two] * x1
                                            + spectrum[p + _two * _two] * x2 + spectrum[p + _two * np.uintp(3)] * x3)
                            im += weight * (spectrum[q] * x0 + spectrum[q + _two] * x1
                                            + spectrum[q + _two * _two] * x2 + spectrum[q + _two * np.uintp(3)] * x3)
                        else:
                            re += weight * (spectrum[p] * x1 + spectrum[p + _two] * x2)
                            im += weight * (spectrum[q] * x1 + spectrum[q + _two] * x2)
                im *= sign
                turn_re = ramp[kx, 0] * phase_re - ramp[kx, 1] * phase_im
                turn_im = ramp[kx, 0] * phase_im + ramp[kx, 1] * phase_re
                out[n, row, 2 * kx] = re * turn_re - im * turn_im
                out[n, row, 2 * kx + 1] = re * turn_im + im * turn_re
            for kx in range(2 * last, 2 * half):
                out[n, row, kx] = 0
