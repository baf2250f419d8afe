# SPDX-License-Identifier: GPL-3.0-or-later
"""Central slices of a padded spectrum: with a compiled kernel on the CPU, with torch on other devices.

A slice fills the half plane of an image's spectrum inside a circle of frequencies; outside the circle it is zero. The
spectrum is stored as ``[z, y, x]``. Along z and y it holds both signs, with zero frequency in the middle. Along x it
starts at the frequency ``-neighbours_before(order)``, because the interpolation needs neighbours below zero. At other
frequencies with negative x, the value is the complex conjugate of that at the opposite frequency.
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

__all__ = ["SliceGrid", "compiled_slices", "neighbours_before", "torch_slices"]


@dataclass(frozen=True)
class SliceGrid:
    """The frequencies of a spectrum that an image needs."""

    width: int
    """Edge of the image in pixels; the origin lies at ``width // 2`` + shift."""
    scale: float
    """Frequency step of the image, in grid points of the spectrum."""
    radius: float
    """Radius of the circle of frequencies, in frequency steps of the image."""
    gain: float
    """All values are multiplied by this factor."""
    order: int
    """Interpolation: 1 trilinear, 3 cubic B-spline (the spectrum holds its coefficients)."""


def neighbours_before(order: int) -> int:
    """Number of neighbours below the cell of a position that an interpolation of ``order`` 1 or 3 needs."""
    return (order - 1) // 2


def compiled_slices(spectrum: Complex[Tensor, "z y x"], rotations: Float[Tensor, "n 3 3"],
                    shifts: Float[Tensor, "n 2"], grid: SliceGrid) -> Complex[NDArray[np.complex64], "n width half"]:
    """Half-plane spectra of projections, computed by the kernel on the CPU; each depends on its own pose only.

    Parameters
    ----------
    spectrum
        In the layout that the module describes.
    rotations
        Rotation matrices A, float32.
    shifts
        (y, x) in pixels, float32.
    grid
        Frequencies of the images.

    Returns
    -------
    Spectra in memory of this thread, which the next call overwrites.
    """
    out = fourier.scratch_array("slices", (len(rotations), grid.width, grid.width // 2 + 1), np.complex64)
    floats = torch.view_as_real(spectrum).numpy().reshape(-1)
    fill_slices(floats, spectrum.shape[1], spectrum.shape[2], rotations.numpy(), shifts.numpy(), grid.width,
                np.float32(grid.scale), grid.radius, grid.gain, grid.order == 3, out.view(np.float32))
    return out


def torch_slices(spectrum: Complex[Tensor, "z y x"], rotations: Float[Tensor, "n 3 3"], shifts: Float[Tensor, "n 2"],
                 grid: SliceGrid) -> Complex[Tensor, "n width half"]:
    """Half-plane spectra of projections, computed by torch on any device; arguments as for ``compiled_slices``."""
    device, width = spectrum.device, grid.width
    ky = fourier.fftfreq(width, 1 / width, device=device)
    kx = torch.arange(width // 2 + 1, device=device, dtype=torch.float32)
    rows, columns = torch.nonzero(ky[:, None] ** 2 + kx**2 < grid.radius**2, as_tuple=True)
    scaled_rotations = rotations[:, None] * grid.scale
    positions = kx[columns][:, None] * scaled_rotations[:, :, 0] + ky[rows][:, None] * scaled_rotations[:, :, 1]
    mirrored = positions[..., 0] < 0
    zero = [neighbours_before(grid.order), spectrum.shape[1] // 2, spectrum.shape[0] // 2]
    positions = torch.where(mirrored[..., None], -positions, positions) + torch.tensor(zero, device=device)
    values = _interpolate(spectrum, positions, grid.order)
    step = (-2 * math.pi / width) * (width // 2 + shifts.double())
    angles = step[:, :1] * ky.double()[rows] + step[:, 1:] * kx.double()[columns]
    ramp = torch.polar(torch.full_like(angles, grid.gain), angles).to(spectrum.dtype)
    out = torch.zeros((len(rotations), width, width // 2 + 1), dtype=spectrum.dtype, device=device)
    out[:, rows, columns] = torch.where(mirrored, values.conj(), values) * ramp
    return out


def _interpolate(spectrum: Complex[Tensor, "z y x"], positions: Float[Tensor, "n p 3"], order: int
                 ) -> Complex[Tensor, "n p"]:
    """Values of the spectrum at positions (x, y, z), in grid points, interpolated from their neighbours."""
    corner = positions.floor()
    t = positions - corner
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
