# SPDX-License-Identifier: GPL-3.0-or-later
"""An artificial protein complex, a sum of Gaussians whose projections are known exactly.

It has eight lobes of different sizes; each lobe is a group of round beads. No rotation and no mirror maps the complex
onto itself. Therefore an error in any sign or convention of the projection changes its images.
"""
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation.volume import Volume

__all__ = ["Gaussians", "exact_projections", "gaussian_density", "phantom", "phantom_gaussians"]

# Lobes in units of about the diameter: centre (x, y, z), radius, number of beads, density.
LOBES = (
    ((-0.05, -0.03, 0.02), 0.19, 26, 1.00),
    ((0.17, 0.08, -0.10), 0.14, 14, 1.15),
    ((-0.12, 0.20, 0.06), 0.12, 10, 0.90),
    ((-0.23, -0.16, -0.07), 0.11, 9, 1.20),
    ((0.08, -0.20, 0.18), 0.10, 8, 1.00),
    ((0.24, 0.20, 0.10), 0.08, 5, 1.30),
    ((0.03, 0.10, 0.30), 0.09, 6, 0.85),
    ((-0.04, -0.09, -0.33), 0.07, 4, 1.40),
)
BEAD_RADIUS = 0.65
"""Standard deviation of a bead, relative to the radius of a sphere with the bead's share of the lobe's volume."""
EXTENT = 0.92
"""Largest extent of the complex in units of LOBES, measured where the density is a tenth of its strong values."""


@dataclass(frozen=True)
class Gaussians:
    """Isotropic Gaussians; vectors are (x, y, z), the order in which rotation matrices act."""

    centres: Float[Tensor, "n 3"]
    """Å from the origin."""
    sigmas: Float[Tensor, " n"]
    """Standard deviations, Å."""
    weights: Float[Tensor, " n"]
    """Density at each centre."""


def phantom_gaussians(diameter_angstrom: float = 180.0) -> Gaussians:
    """The beads of the phantom, with the centre of mass at the origin.

    Parameters
    ----------
    diameter_angstrom
        Largest extent of the particle, Å, to within a few per cent.

    Raises
    ------
    SettingsError
        The diameter is not positive.
    """
    if not diameter_angstrom > 0:
        raise SettingsError(f"the phantom's diameter is {diameter_angstrom:g} Å; give a value above 0")
    centres, sigmas, weights = [], [], []
    for lobe, (centre, radius, count, weight) in enumerate(LOBES):
        centres.append(torch.tensor(centre) + radius * _spiral(count, 1.0 + lobe))
        sigmas.append(torch.full((count,), BEAD_RADIUS * radius * count ** (-1 / 3)))
        weights.append(torch.full((count,), weight))
    positions, all_sigmas, all_weights = torch.cat(centres), torch.cat(sigmas), torch.cat(weights)
    mass = all_weights * all_sigmas**3
    positions = positions - (mass[:, None] * positions).sum(0) / mass.sum()
    unit = diameter_angstrom / EXTENT
    return Gaussians(positions * unit, all_sigmas * unit, all_weights)


def phantom(box: int, pixel_size: float, diameter_angstrom: float = 180.0) -> Volume:
    """The phantom as a density map; each call gives the same one.

    Parameters
    ----------
    box
        Edge in voxels, even or odd.
    pixel_size
        Å per voxel.
    diameter_angstrom
        Largest extent of the particle, Å; the box should be about 1.4 times as large.

    Raises
    ------
    SettingsError
        A value is not positive.
    """
    return gaussian_density(phantom_gaussians(diameter_angstrom), box, pixel_size)


def gaussian_density(beads: Gaussians, box: int, pixel_size: float) -> Volume:
    """Density map of a sum of Gaussians, sampled at the voxel centres, with the origin at ``box // 2``.

    Parameters
    ----------
    beads
        The Gaussians.
    box
        Edge in voxels, even or odd.
    pixel_size
        Å per voxel.

    Raises
    ------
    SettingsError
        The box or the pixel size is not positive.
    """
    if box < 1 or not pixel_size > 0:
        raise SettingsError(f"box {box} and pixel size {pixel_size:g} make no grid; give values above 0")
    x, y, z = (_profile(beads.centres[:, axis], beads.sigmas, box, pixel_size) for axis in range(3))
    return Volume(torch.einsum("n,nz,ny,nx->zyx", beads.weights, z, y, x), pixel_size)


def exact_projections(beads: Gaussians, rotations: Float[Tensor, "n 3 3"], shifts: Float[Tensor, "n 2"],
                      box: int, pixel_size: float) -> Float[Tensor, "n box box"]:
    """Exact projections of a sum of Gaussians, by formula.

    Parameters
    ----------
    beads
        The Gaussians.
    rotations, shifts, box, pixel_size
        As for ``projection.project``.

    Returns
    -------
    Line integrals, density × Å.
    """
    heights = beads.weights * beads.sigmas * math.sqrt(2 * math.pi)
    rotated_centres = torch.einsum("nij,mj->nmi", rotations, beads.centres)
    images = []
    for position, (dy, dx) in zip(rotated_centres, shifts * pixel_size, strict=True):
        x = _profile(position[:, 0] + dx, beads.sigmas, box, pixel_size)
        y = _profile(position[:, 1] + dy, beads.sigmas, box, pixel_size)
        images.append((heights[:, None] * y).T @ x)
    return torch.stack(images) if images else rotations.new_zeros((0, box, box))


def _profile(centres: Float[Tensor, " n"], sigmas: Float[Tensor, " n"], box: int, pixel_size: float
             ) -> Float[Tensor, "n box"]:
    """Gaussians of height 1 along one axis, sampled at the pixel centres."""
    positions = (torch.arange(box, device=centres.device) - box // 2) * pixel_size
    return torch.exp(-0.5 * ((positions - centres[:, None]) / sigmas[:, None]) ** 2)


def _spiral(count: int, start: float) -> Float[Tensor, "count 3"]:
    """Points spread evenly through the unit ball along a golden spiral."""
    step = (torch.arange(count) + 0.5) / count
    height = 1 - 2 * step
    turn = math.pi * (1 + math.sqrt(5)) * torch.arange(count) + start
    radius = (0.15 + 0.85 * torch.frac(step * 7.13 + 0.37 * start)) ** (1 / 3)
    flat = torch.sqrt(1 - height**2)
    return radius[:, None] * torch.stack([flat * torch.cos(turn), flat * torch.sin(turn), height], dim=1)
