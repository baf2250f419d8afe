# SPDX-License-Identifier: GPL-3.0-or-later
"""Projections of a density as central slices of its spectrum, and the convention of rotations.

**Convention of rotations, for the whole program.** A rotation is RELION's matrix ``A`` of the Euler angles (rot, tilt,
psi) about z, the new y and the new z. It acts on vectors (x, y, z) in Å or pixels. Arrays are ``[z, y, x]`` and
``[y, x]``, with the origin at index N // 2. The image is I(x, y) = ∫ V(Aᵀ (x, y, z)) dz. So a point c of the density
appears at (A c)ₓ, (A c)ᵧ, and the spectrum of the image at (kx, ky) is that of the density at Aᵀ (kx, ky, 0). A shift
(y, x), in pixels of the image, moves the particle from the origin to origin + shift.
"""
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation.slices import SliceGrid, compiled_slices, neighbours_before, torch_slices
from cryogem_scipion.engine.simulation.volume import Volume, particle_voxels

__all__ = ["Projector", "euler_angles", "prepare_projector", "project", "rotation_matrices"]

CHUNK_BYTES = {True: 1 << 19, False: 1 << 26}
"""Bytes of spectra to work on at a time: for a thread of the CPU (they fit its cache), or for a GPU."""


def rotation_matrices(euler_degrees: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices A of Euler angles (rot, tilt, psi) in degrees, as RELION defines them.

    References
    ----------
    doi:10.1016/j.jsb.2012.09.006
    """
    rot, tilt, psi = torch.deg2rad(euler_degrees.double()).unbind(-1)
    matrices = _about_z(psi) @ _about_y(tilt) @ _about_z(rot)
    return matrices.to(euler_degrees.dtype)


def euler_angles(matrices: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3"]:
    """Euler angles (rot, tilt, psi) in degrees of rotation matrices A.

    The tilt lies in [0, 180]. If it is 0 or 180, only the sum or the difference of rot and psi is defined; then rot
    is 0.
    """
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
    """A density prepared for projection by ``prepare_projector``; projections are computed on its device."""

    spectrum: Complex[Tensor, "z y x"]
    """Spectrum of the padded density, density × Å³, corrected for the interpolation; see ``slices`` for its layout."""
    padded_box: int
    """Edge of the padded density in voxels, even."""
    pixel_size: float
    """Å per voxel of the map."""
    radius_angstrom: float
    """Radius of a sphere around the origin that holds the particle, Å."""
    order: Literal[1, 3]
    """Interpolation: 1 linear, 3 cubic B-spline."""


def prepare_projector(volume: Volume, padding: float = 1.5, order: Literal[1, 3] = 3) -> Projector:
    """Fourier transform a density, once for any number of projections.

    The relative error of the projections (L2 norm, for a particle within 0.35 of the box) is below 0.005 with the
    defaults, and below 0.002 with padding 2. Linear interpolation is a third faster, but needs padding 4 for an error
    of 0.015.

    Parameters
    ----------
    volume
        The density; computed with in float32.
    padding
        Edge of the padded box relative to that of the map. A larger one is more accurate; the memory grows with its
        third power.
    order
        Interpolation in Fourier space: 1 linear, 3 cubic B-spline.

    Raises
    ------
    SettingsError
        The padding is below 1, or the order is neither 1 nor 3.

    References
    ----------
    Interpolation by convolution and its correction in real space: doi:10.1109/42.97598; cubic B-splines:
    doi:10.1109/79.799930
    """
    if not padding >= 1:
        raise SettingsError(f"padding is {padding:g}; give 1 or more (1.5 is the default)")
    if order not in (1, 3):
        raise SettingsError(f"order of interpolation is {order}; give 1 (linear) or 3 (cubic)")
    box, device = volume.density.shape[0], volume.density.device
    radius = _particle_radius(volume)
    padded_box = _even_fast_length(2 * padding * radius)
    density = volume.density.float() * volume.pixel_size**3
    correction = torch.special.sinc((torch.arange(box, device=device).double() - box // 2) / padded_box) ** -(order + 1)
    for shape in ((-1, 1, 1), (-1, 1), (-1,)):
        density = density * correction.float().reshape(shape)
    padded_density = torch.zeros((padded_box, padded_box, padded_box), device=device)
    padded_density[:box, :box, :box] = density
    padded_density = padded_density.roll((-(box // 2),) * 3, (0, 1, 2))
    spectrum = _centred(fourier.rfft3(padded_density), padded_box, neighbours_before(order))
    return Projector(spectrum, padded_box, volume.pixel_size, radius * volume.pixel_size, order)


def project(projector: Projector, rotations: Float[Tensor, "n 3 3"], shifts: Float[Tensor, "n 2"], box: int,
            pixel_size: float) -> Float[Tensor, "n box box"]:
    """Project a density at given orientations onto images of any box size and pixel size.

    The images hold the frequencies of the map up to their own Nyquist frequency. Parts of the particle outside the box
    are cut off; they do not wrap around. Outside the map, the image is zero. The result does not depend, not even in
    the last bit, on how many projections are computed at a time, or on the number of torch's threads.

    Parameters
    ----------
    projector
        Result of ``prepare_projector``.
    rotations
        Rotation matrices A; the module states the convention.
    shifts
        (y, x) in pixels of the image; the particle's origin lies at ``box // 2`` + shift.
    box
        Edge of the images in pixels, even or odd.
    pixel_size
        Å per pixel of the images.

    Returns
    -------
    Line integrals, density × Å, float32.

    Raises
    ------
    SettingsError
        The box or the pixel size is not positive.
    """
    if box < 1 or not pixel_size > 0:
        raise SettingsError(f"box {box} and pixel size {pixel_size:g} make no image; give values above 0")
    device = projector.spectrum.device
    matrices = rotations.detach().to(device, torch.float32).contiguous()
    whole_shifts = shifts.detach().double().round()
    fractions = (shifts.detach().double() - whole_shifts).to(device, torch.float32)
    origins = (whole_shifts.long() + box // 2).tolist()
    width = _even_fast_length(2 * projector.radius_angstrom / pixel_size)
    scale = projector.padded_box * projector.pixel_size / (width * pixel_size)
    radius = min(width / 2, projector.padded_box / 2 / scale)
    grid = SliceGrid(width, scale, radius, pixel_size**-2, projector.order)
    compiled = _has_kernel(device)
    images = torch.from_numpy(np.zeros((len(matrices), box, box), np.float32)).to(device)
    chunk_size = max(1, CHUNK_BYTES[compiled] // (8 * width * (width // 2 + 1)))

    def project_chunk(start: int) -> None:
        chunk = slice(start, start + chunk_size)
        pose = (matrices[chunk], fractions[chunk])
        if compiled:  # NumPy from here on, because torch would start its own threads in each thread
            spectra = compiled_slices(projector.spectrum, *pose, grid)
            _paste(fourier.each_irfft2(spectra, width), width, origins[chunk], images.numpy()[chunk])
        else:
            projections = fourier.irfft2(torch_slices(projector.spectrum, *pose, grid), (width, width))
            _paste(projections, width, origins[chunk], images[chunk])

    starts = range(0, len(matrices), chunk_size)
    if compiled:
        parallel_map(project_chunk, starts)
    else:
        for start in starts:
            project_chunk(start)
    return images


def _has_kernel(device: torch.device) -> bool:
    """Whether the compiled kernel can be used on a device."""
    return device.type == "cpu"


def _paste(projections: Iterable[Any], width: int, origins: list[list[int]], images: Any) -> None:
    """Copy the part of each projection that lies in the box, so that the projection's origin comes to (y, x)."""
    box = images.shape[-1]
    for image, projection, (y, x) in zip(images, projections, origins, strict=True):
        top, left = y - width // 2, x - width // 2
        rows, columns = slice(max(0, top), min(box, top + width)), slice(max(0, left), min(box, left + width))
        if rows.start < rows.stop and columns.start < columns.stop:
            image[rows, columns] = projection[
                rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _even_fast_length(length: float) -> int:
    """The next even length with a fast Fourier transform; rounding errors above a whole number are ignored."""
    return 2 * fourier.fast_length(int(np.ceil(length / 2 - 1e-6)), real=False)


def _centred(half: Complex[Tensor, "z y x"], padded_box: int, margin: int) -> Complex[Tensor, "z2 y2 x2"]:
    """Bring zero frequency to the middle of z and y in a half spectrum; add ``margin`` frequencies on each side."""
    steps = torch.arange(-padded_box // 2 - margin, padded_box // 2 + margin + 1, device=half.device)
    centred = half[steps % padded_box][:, steps % padded_box]
    if margin:
        opposite = half[-steps % padded_box][:, -steps % padded_box].conj()
        below, above = opposite[..., 1 : margin + 1].flip(2), opposite[..., -margin - 1 : -1].flip(2)
        centred = torch.cat([below, centred, above], dim=2)
    return centred.resolve_conj().contiguous()


def _particle_radius(volume: Volume) -> float:
    """Radius of a sphere that holds the particle, voxels: half the box, or more if the particle reaches its corners."""
    box = volume.density.shape[0]
    squares = (torch.arange(box, device=volume.density.device) - box // 2).double() ** 2
    radius = (squares[:, None, None] + squares[:, None] + squares).sqrt()
    outside = volume.density[radius > box / 2]
    if not len(outside) or bool(outside.abs().max() < 0.05 * volume.density.abs().max()):
        return box / 2
    particle = particle_voxels(volume)
    return max(box / 2, float(radius[particle].max()) + 1) if bool(particle.any()) else box / 2


def _about_z(angle: Float[Tensor, " n"]) -> Float[Tensor, "n 3 3"]:
    """Matrices that rotate the axes (not the object) about z, by angles in radians."""
    c, s, o = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    return torch.stack([c, s, o, -s, c, o, o, o, o + 1], dim=-1).reshape(-1, 3, 3)


def _about_y(angle: Float[Tensor, " n"]) -> Float[Tensor, "n 3 3"]:
    """Matrices that rotate the axes (not the object) about y, by angles in radians."""
    c, s, o = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    return torch.stack([c, o, -s, o, o + 1, o, s, o, c], dim=-1).reshape(-1, 3, 3)
