# SPDX-License-Identifier: GPL-3.0-or-later
"""Projections of a density as central slices of its spectrum, and the convention of rotations.

**The convention, stated once.** A rotation is RELION's matrix ``A`` of the Euler angles (rot, tilt, psi) about
z, the new y and the new z. It acts on vectors (x, y, z) in Å or pixels, while arrays are ``[z, y, x]`` and
``[y, x]`` with their origin at index N // 2. The image is I(x, y) = ∫ V(Aᵀ (x, y, z)) dz: what lies at c in the
density appears at (A c)ₓ, (A c)ᵧ, and the image's spectrum at (kx, ky) is the density's at Aᵀ (kx, ky, 0).
A shift (y, x), in pixels of the image, moves the particle to origin + shift.
"""
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Complex, Float
from scipy import fft
from torch import Tensor

from cryogem_scipion.errors import SettingsError
from cryogem_scipion.physics.slices import fill_slices, slices
from cryogem_scipion.physics.volume import Volume, support

__all__ = ["Projector", "euler_angles", "prepare", "project", "rotation_matrices"]

CHUNK_BYTES = 4 << 20
"""Memory of the spectra that one thread works on at a time."""


def rotation_matrices(euler_degrees: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Matrices A of Euler angles (rot, tilt, psi) in degrees, as RELION defines them."""
    rot, tilt, psi = torch.deg2rad(euler_degrees.double()).unbind(-1)
    matrices = _about_z(psi) @ _about_y(tilt) @ _about_z(rot)
    return matrices.to(euler_degrees.dtype)


def euler_angles(matrices: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3"]:
    """Euler angles (rot, tilt, psi) in degrees of matrices A; tilt in [0, 180], and rot 0 where tilt is 0 or 180."""
    a = matrices.double()
    sine = torch.hypot(a[:, 2, 0], a[:, 2, 1])
    tilt = torch.atan2(sine, a[:, 2, 2])
    pole = sine < 1e-6
    facing = torch.sign(a[:, 2, 2])
    rot = torch.where(pole, torch.zeros_like(tilt), torch.atan2(a[:, 2, 1], a[:, 2, 0]))
    psi = torch.where(pole, torch.atan2(-facing * a[:, 1, 0], facing * a[:, 0, 0]),
                      torch.atan2(a[:, 1, 2], -a[:, 0, 2]))
    return torch.rad2deg(torch.stack([rot, tilt, psi], dim=1)).to(matrices.dtype)


@dataclass(frozen=True)
class Projector:
    """A density prepared for projection by ``prepare``; its device decides where the work is done."""

    spectrum: Complex[Tensor, "z y x"]
    """Padded, corrected for the interpolation, in the layout that ``slices`` describes; density × Å³."""
    padded_box: int
    pixel_size: float
    """Å per voxel of the map."""
    radius_angstrom: float
    """Distance from the origin within which the particle lies at every orientation."""
    order: Literal[1, 3]


def prepare(volume: Volume, padding: float = 2.0, order: Literal[1, 3] = 1) -> Projector:
    """Transform a density once for any number of projections.

    Parameters
    ----------
    volume
        The density; float32 is used.
    padding
        Size of the padded box over the map's: more is more accurate, and takes memory with the third power.
    order
        Interpolation in Fourier space: 1 linear, 3 cubic B-spline (slower, far more accurate).

    References
    ----------
    Convolution interpolation and its correction: doi:10.1109/42.97598
    """
    if not padding >= 1:
        raise SettingsError(f"padding is {padding:g}; give 1 or more (2 is the default)")
    if order not in (1, 3):
        raise SettingsError(f"order of interpolation is {order}; give 1 (linear) or 3 (cubic)")
    box = volume.density.shape[0]
    padded = 2 * fft.next_fast_len(int(np.ceil(padding * box / 2)), real=False)
    places = torch.arange(box, device=volume.density.device) - box // 2
    correction = torch.special.sinc(places.double() / padded) ** (order + 1)
    density = volume.density.double()
    for axis in range(3):
        density = density / correction.reshape([-1 if axis == other else 1 for other in range(3)])
    around = torch.zeros((padded,) * 3, device=density.device)
    around[:box, :box, :box] = density.float() * volume.pixel_size**3
    around = around.roll((-(box // 2),) * 3, (0, 1, 2))
    radius = max(box / 2, _support_radius(volume)) * volume.pixel_size
    spectrum = _centred(torch.fft.rfftn(around), padded, guard=(order - 1) // 2)
    return Projector(spectrum, padded, volume.pixel_size, radius, order)


def project(projector: Projector, rotations: Float[Tensor, "n 3 3"], shifts: Float[Tensor, "n 2"], box: int,
            pixel_size: float) -> Float[Tensor, "n box box"]:
    """Project a density at given orientations onto images of any box and pixel size.

    The images hold the map's frequencies up to their own Nyquist frequency. Parts of the particle outside the
    box are cut off, not wrapped around; where the box is larger than the map, the images are zero. The result
    does not depend on how many projections are asked for at a time or on the number of threads (that of torch).

    Parameters
    ----------
    projector
        What ``prepare`` made.
    rotations
        Matrices A of the convention above.
    shifts
        (y, x) in pixels of the image; the particle's origin lands at ``box // 2`` + shift.
    box
        Side of the images in pixels, even or odd.
    pixel_size
        Å per pixel of the images.

    Returns
    -------
    Line integrals, density × Å, float32.
    """
    if box < 1 or not pixel_size > 0:
        raise SettingsError(f"box {box} and pixel size {pixel_size:g} make no image; give values above 0")
    device = projector.spectrum.device
    whole = torch.round(shifts.double())
    part = (shifts.double() - whole).to(device, torch.float32)
    corners = (whole.long() + box // 2).cpu()
    turns = rotations.detach().to(device, torch.float32).contiguous()
    width = _working_width(projector, box, pixel_size)
    scale = projector.padded_box * projector.pixel_size / (width * pixel_size)
    radius = min(width / 2, projector.padded_box / 2 / scale)
    images = torch.zeros((len(turns), box, box), device=device)
    count = max(1, CHUNK_BYTES // (8 * width * (width // 2 + 1)))
    guard = (projector.order - 1) // 2
    arguments = (width, scale, radius, pixel_size**-2, projector.order == 3)

    def work(start: int) -> None:
        some = slice(start, start + count)
        if device.type == "cpu":
            spectra = np.empty((len(turns[some]), width, width // 2 + 1), np.complex64)
            fill_slices(projector.spectrum.numpy(), guard, turns[some].numpy(), part[some].numpy(),
                        width, np.float32(scale), radius, pixel_size**-2, projector.order == 3, spectra)
            made = torch.from_numpy(fft.irfft2(spectra, s=(width, width), overwrite_x=True))
        else:
            spectra = slices(projector.spectrum, guard, turns[some], part[some], *arguments)
            made = torch.fft.irfft2(spectra, s=(width, width))
        for image, drawn, corner in zip(images[some], made, corners[some], strict=True):
            _paste(drawn, image, corner[0].item(), corner[1].item())

    starts = range(0, len(turns), count)
    threads = min(torch.get_num_threads(), len(starts)) if device.type == "cpu" else 1
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, starts))
    else:
        for start in starts:
            work(start)
    return images


def _working_width(projector: Projector, box: int, pixel_size: float) -> int:
    """Side of the images to transform, in which nothing that belongs into the box wraps around."""
    reach = projector.radius_angstrom / pixel_size
    needed = min(box, 2 * reach) / 2 + reach
    return 2 * int(fft.next_fast_len(int(np.ceil(needed / 2 - 1e-6)), real=False))


def _paste(drawn: Tensor, image: Tensor, y: int, x: int) -> None:
    """Copy what of a drawn image falls into the box, its origin at (y, x)."""
    width, box = drawn.shape[0], image.shape[0]
    top, left = y - width // 2, x - width // 2
    rows = slice(max(0, top), min(box, top + width))
    columns = slice(max(0, left), min(box, left + width))
    if rows.start < rows.stop and columns.start < columns.stop:
        image[rows, columns] = drawn[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _centred(half: Complex[Tensor, "z y x"], padded: int, guard: int) -> Complex[Tensor, "z2 y2 x2"]:
    """Order a half spectrum with zero in the middle of z and y, with ``guard`` more frequencies on each side."""
    reach = padded // 2 + guard
    order = torch.arange(-reach, reach + 1, device=half.device)
    mirror = (-order) % padded
    centred = half[order % padded][:, order % padded]
    if guard:
        below = half[mirror][:, mirror][:, :, 1 : guard + 1].flip(2).conj()
        above = half[mirror][:, mirror][:, :, -guard - 1 : -1].flip(2).conj()
        centred = torch.cat([below, centred, above], dim=2)
    return centred.contiguous().resolve_conj()


def _support_radius(volume: Volume) -> float:
    """Largest distance of the particle's voxels from the origin, voxels."""
    places = torch.nonzero(support(volume)) - volume.density.shape[0] // 2
    return float(places.double().norm(dim=1).max()) + 1 if len(places) else 0.0


def _about_z(angle: Float[Tensor, "n"]) -> Float[Tensor, "n 3 3"]:
    """Matrices that turn the axes (not the object) about z."""
    c, s, o = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    return torch.stack([c, s, o, -s, c, o, o, o, o + 1], dim=-1).reshape(-1, 3, 3)


def _about_y(angle: Float[Tensor, "n"]) -> Float[Tensor, "n 3 3"]:
    """Matrices that turn the axes about y."""
    c, s, o = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    return torch.stack([c, o, -s, o, o + 1, o, s, o, c], dim=-1).reshape(-1, 3, 3)
