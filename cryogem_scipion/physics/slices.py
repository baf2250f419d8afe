# SPDX-License-Identifier: GPL-3.0-or-later
"""Central slices of a padded spectrum: a compiled kernel for the CPU, the same in torch for a GPU.

Both fill the half plane of an image's spectrum inside a circle of frequencies and leave zeros outside it. The
spectrum is stored as ``[z, y, x - low]``: both signs along z and y (zero in the middle), and along x the
frequencies from ``-low`` up, ``low`` being what the interpolation needs left of zero. Where a frequency has a
negative x, the value is the complex conjugate of that at the opposite frequency.
"""
import math
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ["fill_slices", "slices"]


@numba.njit(cache=True, inline="always")
def _linear(spectrum: Any, x: Any, y: Any, z: Any) -> Any:
    """Trilinear value at a frequency with x >= 0; places count from the first stored element."""
    i, j, k = int(x), int(y), int(z)
    u, v, w = x - np.float32(i), y - np.float32(j), z - np.float32(k)
    one = np.float32(1)
    p = (one - u) * (one - v)
    q = u * (one - v)
    r = (one - u) * v
    s = u * v
    low, high = spectrum[k], spectrum[k + 1]
    a = low[j, i] * p + low[j, i + 1] * q + low[j + 1, i] * r + low[j + 1, i + 1] * s
    b = high[j, i] * p + high[j, i + 1] * q + high[j + 1, i] * r + high[j + 1, i + 1] * s
    return a * (one - w) + b * w


@numba.njit(cache=True, inline="always")
def _weights(t: Any) -> Any:
    """The four cubic B-spline weights at the fraction t between the two middle points."""
    one, sixth = np.float32(1), np.float32(1 / 6)
    o = one - t
    last = t * t * t * sixth
    first = o * o * o * sixth
    second = np.float32(2 / 3) - t * t * (one - np.float32(0.5) * t)
    return first, second, one - first - second - last, last


@numba.njit(cache=True)
def _cubic(spectrum: Any, x: Any, y: Any, z: Any) -> Any:
    """Cubic B-spline value (of coefficients), places as in the trilinear case."""
    i, j, k = int(x), int(y), int(z)
    wx = _weights(x - np.float32(i))
    wy = _weights(y - np.float32(j))
    wz = _weights(z - np.float32(k))
    total = np.complex64(0)
    for c in range(4):
        plane = np.complex64(0)
        for b in range(4):
            row = spectrum[k - 1 + c, j - 1 + b]
            plane += wy[b] * (row[i - 1] * wx[0] + row[i] * wx[1] + row[i + 1] * wx[2] + row[i + 2] * wx[3])
        total += wz[c] * plane
    return total


@numba.njit(cache=True, nogil=True)
def fill_slices(spectrum: Any, low: Any, rotations: Any, shifts: Any, width: Any, scale: Any, radius: Any,
                gain: Any, cubic: Any, out: Any) -> None:
    """Write the half-plane spectra of images whose origin lies at ``width // 2`` + shift.

    ``scale`` is the spectrum's grid points per frequency step of the image, ``radius`` the circle in image steps.
    """
    middle = np.float32(spectrum.shape[0] // 2)
    left = np.float32(low)
    half = width // 2 + 1
    ramp = np.empty(half, np.complex64)
    for n in range(len(rotations)):
        turn = rotations[n]
        ax, ay, az = turn[0, 0] * scale, turn[0, 1] * scale, turn[0, 2] * scale
        bx, by, bz = turn[1, 0] * scale, turn[1, 1] * scale, turn[1, 2] * scale
        step_y = -2 * math.pi * (width // 2 + shifts[n, 0]) / width
        step_x = -2 * math.pi * (width // 2 + shifts[n, 1]) / width
        for i in range(half):
            ramp[i] = np.complex64(complex(math.cos(step_x * i), math.sin(step_x * i)) * gain)
        for row in range(width):
            ky = row if 2 * row < width else row - width
            inside = radius * radius - ky * ky
            last = 0
            if inside > 0:
                last = min(half, math.ceil(math.sqrt(inside)))
            phase = np.complex64(complex(math.cos(step_y * ky), math.sin(step_y * ky)))
            fy = np.float32(ky)
            for kx in range(last):
                fx = np.float32(kx)
                x, y, z = fx * ax + fy * bx, fx * ay + fy * by, fx * az + fy * bz
                mirrored = x < 0
                if mirrored:
                    x, y, z = -x, -y, -z
                if cubic:
                    value = _cubic(spectrum, x + left, y + middle, z + middle)
                else:
                    value = _linear(spectrum, x + left, y + middle, z + middle)
                if mirrored:
                    value = value.conjugate()
                out[n, row, kx] = value * (ramp[kx] * phase)
            for kx in range(last, half):
                out[n, row, kx] = 0


def slices(spectrum: Complex[Tensor, "z y x"], low: int, rotations: Float[Tensor, "n 3 3"],
           shifts: Float[Tensor, "n 2"], width: int, scale: float, radius: float, gain: float,
           cubic: bool) -> Complex[Tensor, "n width half"]:
    """The same in torch, on the device of the spectrum."""
    device = spectrum.device
    ky = torch.fft.fftfreq(width, 1 / width, device=device)
    kx = torch.arange(width // 2 + 1, device=device, dtype=torch.float32)
    rows, columns = torch.nonzero(ky[:, None] ** 2 + kx**2 < radius**2, as_tuple=True)
    plane = torch.stack([kx[columns], ky[rows]], dim=1)
    places = torch.einsum("pi,nij->npj", plane, rotations[:, :2] * scale)
    mirrored = places[..., 0] < 0
    places = torch.where(mirrored[..., None], -places, places)
    places = places + torch.tensor([low, spectrum.shape[1] // 2, spectrum.shape[0] // 2], device=device)
    values = _interpolate(spectrum, places, cubic)
    values = torch.where(mirrored, values.conj(), values)
    step = (-2 * math.pi / width) * (width // 2 + shifts.double())
    turn = (step[:, :1] * ky.double()[rows] + step[:, 1:] * kx.double()[columns])
    ramp = torch.polar(torch.full_like(turn, gain), turn).to(spectrum.dtype)
    out = torch.zeros((len(rotations), width, width // 2 + 1), dtype=spectrum.dtype, device=device)
    out[:, rows, columns] = values * ramp
    return out


def _interpolate(spectrum: Complex[Tensor, "z y x"], places: Float[Tensor, "n p 3"], cubic: bool
                 ) -> Complex[Tensor, "n p"]:
    """Gather the neighbours of each place (x, y, z) and add them with their weights."""
    corner = places.floor()
    fraction = places - corner
    x, y, z = corner.long().unbind(-1)
    if cubic:
        t, o = fraction, 1 - fraction
        first, second, last = o**3 / 6, 2 / 3 - t * t * (1 - t / 2), t**3 / 6
        weights, offsets = [first, second, 1 - first - second - last, last], [-1, 0, 1, 2]
    else:
        weights, offsets = [1 - fraction, fraction], [0, 1]
    flat, (rows, columns) = spectrum.reshape(-1), spectrum.shape[1:]
    total = torch.zeros(x.shape, dtype=spectrum.dtype, device=spectrum.device)
    for weight_z, dz in zip(weights, offsets, strict=True):
        for weight_y, dy in zip(weights, offsets, strict=True):
            line = ((z + dz) * rows + y + dy) * columns + x
            across = weight_z[..., 2] * weight_y[..., 1]
            for weight_x, dx in zip(weights, offsets, strict=True):
                total += flat[line + dx] * (across * weight_x[..., 0])
    return total
