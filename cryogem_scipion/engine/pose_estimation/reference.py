# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference that is learned: a density for each class, whose central slices are compared with particles."""
import math

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from cryogem_scipion.engine.pose_estimation.polar_spectra import PolarGrid

__all__ = ["Reference", "density_edge"]


def density_edge(grid: PolarGrid) -> int:
    """Edge (voxels) of a density that holds all rings, with a margin."""
    return 2 * grid.rings + 4


class Reference(nn.Module):
    """Densities in real space; their spectra are sampled on rings.

    Parameters
    ----------
    grid
        The rings, and the diameter outside which the density is 0.
    classes
        Number of densities.
    """

    transform: Tensor
    mask: Tensor
    points: Tensor

    def __init__(self, grid: PolarGrid, classes: int) -> None:
        super().__init__()
        self.grid, self.classes = grid, classes
        edge = density_edge(grid)
        voxel = grid.period_angstrom / edge
        self.density = nn.Parameter(torch.zeros(classes, edge, edge, edge))
        positions = (torch.arange(edge, dtype=torch.float64) - edge // 2) * voxel
        frequencies = (torch.arange(2 * edge, dtype=torch.float64) - edge) / (2 * edge * voxel)
        phase = 2 * math.pi * frequencies[:, None] * positions
        radius = torch.sqrt(positions[:, None, None] ** 2 + positions[:, None] ** 2 + positions**2)
        mask = ((grid.diameter_angstrom / 2 + voxel - radius) / (2 * voxel)).clamp(0, 1)
        self.register_buffer("transform", torch.complex(torch.cos(phase), -torch.sin(phase)).to(torch.complex64), False)
        # Values of about 1 in the density give about 1 in the spectrum.
        self.register_buffer("mask", (mask / mask.sum().sqrt()).float(), False)
        self.register_buffer("points", grid.frequencies().flatten(1).float() * 2 * edge * voxel, False)

    def spectra(self) -> Float[Tensor, "classes part z y x"]:
        """Real and imaginary part of the spectra on a grid that is twice as fine as the density needs."""
        values = (self.density * self.mask).to(torch.complex64)
        for axis in "zyx":
            order = "zyx".replace(axis, "f")
            values = torch.einsum(f"czyx,f{axis}->c{order}", values, self.transform)
        return torch.stack([values.real, values.imag], 1)

    def slices(self, spectra: Float[Tensor, "classes part z y x"], rotations: Float[Tensor, "n 3 3"],
               classes: Int[Tensor, " n"] | None = None) -> Complex[Tensor, "n rings half"]:
        """Spectra of the projections at rotations A.

        Parameters
        ----------
        spectra
            Result of ``spectra()``.
        classes
            Class of each projection; None takes the first class for all.
        """
        rings, half = self.grid.rings, self.grid.angles // 2
        if classes is not None and self.classes > 1:
            out = torch.zeros(len(rotations), rings, half, dtype=torch.complex64, device=rotations.device)
            for index in range(self.classes):
                chosen = (classes == index).nonzero()[:, 0]
                if len(chosen):
                    out = out.index_copy(0, chosen, self.slices(spectra[index:index + 1], rotations[chosen]))
            return out
        # The spectrum of the projection at k is that of the density at the transposed rotation times k.
        points = torch.einsum("is,nij->nsj", self.points, rotations[:, :2])
        edge = spectra.shape[-1]
        normalised = (points + edge // 2) / (edge - 1) * 2 - 1
        values = functional.grid_sample(spectra[:1], normalised[None, :, :, None], align_corners=True)[0, ..., 0]
        return torch.complex(values[0], values[1]).reshape(len(rotations), rings, half)
