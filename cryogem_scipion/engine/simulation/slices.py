# SPDX-License-Identifier: GPL-3.0-or-later
"""Central slices of a padded spectrum, by the compiled kernel on a CPU, in torch on other devices.

They fill the half plane of an image's spectrum inside a circle of frequencies and leave zeros outside it. The
spectrum is stored as ``[z, y, x]`` with both signs along z and y (zero in the middle) and, along x, the
frequencies from ``-guard`` up; ``guard`` is what the interpolation needs left of zero. Where a frequency has a
negative x, the value is the complex conjugate of that at the opposite frequency.
"""
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.simulation.slice_kernel import fill_slices

__all__ = ["SliceGrid", "compiled_slices", "guard", "slices"]


@dataclass(frozen=True)
class SliceGrid:
    """Which frequencies of a spectrum an image takes."""

    width: int
    """Side of the image in pixels; its origin lies at ``width // 2`` + shift."""
    scale: float
    """Grid points of the spectrum per frequency step of the image."""
    radius: float
    """Frequencies below this, in steps of the image, are filled."""
    gain: float
    """Factor on all values."""
    order: int
    """Interpolation: 1 trilinear, 3 cubic B-spline (the spectrum holds its coefficients)."""


def guard(order: int) -> int:
    """Neighbours that an interpolation needs beyond the two that enclose a place."""
    return (order - 1) // 2


def compiled_slices(spectrum: Complex[Tensor, "z y x"], rotations: Float[Tensor, "n 3 3"],
                    shifts: Float[Tensor, "n 2"], grid: SliceGrid) -> Complex[NDArray[np.complex64], "n width half"]:
    """Half-plane spectra of projections, by the kernel; each depends on its own pose only. All on the CPU.

    They lie in memory of this thread, until the next call.
    """
    out = fourier.scratch_array("slices", (len(rotations), grid.width, grid.width // 2 + 1), np.complex64)
    floats = torch.view_as_real(spectrum).numpy().reshape(-1)
    fill_slices(floats, spectrum.shape[1], spectrum.shape[2], rotations.numpy(), shifts.numpy(), grid.width,
                np.float32(grid.scale), grid.radius, grid.gain, grid.order == 3, out.view(np.float32))
    return out


def slices(spectrum: Complex[Tensor, "z y x"], rotations: Float[Tensor, "n 3 3"], shifts: Float[Tensor, "n 2"],
           grid: SliceGrid) -> Complex[Tensor, "n width half"]:
    """The same as gathers, on any device; slower than the kernel on a CPU."""
    device, width = spectrum.device, grid.width
    ky = fourier.fftfreq(width, 1 / width, device=device)
    kx = torch.arange(width // 2 + 1, device=device, dtype=torch.float32)
    rows, columns = torch.nonzero(ky[:, None] ** 2 + kx**2 < grid.radius**2, as_tuple=True)
    turns = rotations[:, None] * grid.scale
    places = kx[columns][:, None] * turns[:, :, 0] + ky[rows][:, None] * turns[:, :, 1]
    mirrored = places[..., 0] < 0
    zero = [guard(grid.order), spectrum.shape[1] // 2, spectrum.shape[0] // 2]
    places = torch.where(mirrored[..., None], -places, places) + torch.tensor(zero, device=device)
    values = _interpolate(spectrum, places, grid.order)
    step = (-2 * math.pi / width) * (width // 2 + shifts.double())
    angles = step[:, :1] * ky.double()[rows] + step[:, 1:] * kx.double()[columns]
    ramp = torch.polar(torch.full_like(angles, grid.gain), angles).to(spectrum.dtype)
    out = torch.zeros((len(rotations), width, width // 2 + 1), dtype=spectrum.dtype, device=device)
    out[:, rows, columns] = torch.where(mirrored, values.conj(), values) * ramp
    return out


def _interpolate(spectrum: Complex[Tensor, "z y x"], places: Float[Tensor, "n p 3"], order: int
                 ) -> Complex[Tensor, "n p"]:
    """Gather the neighbours of each place (x, y, z) and add them with their weights."""
    corner = places.floor()
    t = places - corner
    x, y, z = corner.long().unbind(-1)
    if order == 3:
        first, second, last = (1 - t) ** 3 / 6, 2 / 3 - t * t * (1 - t / 2), t**3 / 6
        weights = [(-1, first), (0, second), (1, 1 - first - second - last), (2, last)]
    else:
        weights = [(0, 1 - t), (1, t)]
    flat, (lines, columns) = spectrum.reshape(-1), spectrum.shape[1:]
    total = torch.zeros(x.shape, dtype=spectrum.dtype, device=spectrum.device)
    for dz, weight_z in weights:
        for dy, weight_y in weights:
            line = ((z + dz) * lines + y + dy) * columns + x
            across = weight_z[..., 2] * weight_y[..., 1]
            for dx, weight_x in weights:
                total += flat[line + dx] * (across * weight_x[..., 0])
    return total
