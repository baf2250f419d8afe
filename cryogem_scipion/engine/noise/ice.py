# SPDX-License-Identifier: GPL-3.0-or-later
"""Measured ice maps, drawn and enlarged: what part of which map lies over an image."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.noise.contaminants import Frame, draw_frame

__all__ = ["IceMap", "draw_ice", "framed_ice"]


@dataclass(frozen=True)
class IceMap:
    """Smooth transmission of one real micrograph, as a grid of cells."""

    grid: Float[Tensor, "gy gx"]
    """Mean 1; two or more cells a side."""
    field: tuple[int, int]
    """Pixels (y, x), at the working pixel size, that the grid spans."""

    def window(self, origin: tuple[float, float], shape: tuple[int, int]) -> Float[Tensor, "y x"]:
        """Transmission of the pixels from ``origin`` on, by cubic interpolation between the cells' middles."""
        rows, columns = (_weights(cells, field, start, count).to(self.grid) for cells, field, start, count in
                         zip(self.grid.shape, self.field, origin, shape, strict=True))
        if self.grid.is_cuda:
            return rows @ self.grid @ columns.T
        # The last bit of a matrix product depends on the number of threads; that of einsum does not.
        values = np.einsum("yj,ji->yi", rows.numpy(), self.grid.detach().numpy())
        return torch.from_numpy(np.einsum("yi,ix->yx", values, columns.T.contiguous().numpy()))


def draw_ice(maps: Sequence[IceMap], shape: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "y x"]:
    """Transmission for an image of ``shape``: one of the maps, turned and mirrored, and a random part of it.

    A map keeps its physical scale; one that is smaller than the image is stretched to its size.
    Without maps the transmission is 1.
    """
    if not maps:
        return torch.ones(shape)
    return framed_ice(maps, draw_frame([one.field for one in maps], shape, generator), shape)


def framed_ice(maps: Sequence[IceMap], frame: Frame, shape: tuple[int, int]) -> Float[Tensor, "y x"]:
    """Transmission of the frame's map for an image of ``shape``."""
    grid = torch.rot90(maps[frame.number].grid, frame.turns)
    return IceMap(grid.flip(1) if frame.mirrored else grid, frame.field).window(frame.origin, shape)


def _weights(cells: int, field: int, start: float, count: int) -> Float[Tensor, "count cells"]:
    """Matrix from cells to pixels: Catmull-Rom splines, straight beyond the outermost middles."""
    place = (torch.arange(count, dtype=torch.float64) + start + 0.5) / field * cells - 0.5
    first = place.floor().clamp(0, max(cells - 2, 0))
    t = place - first
    inside = t.clamp(0, 1)
    cubes = torch.stack([-inside**3 + 2 * inside**2 - inside, 3 * inside**3 - 5 * inside**2 + 2,
                         -3 * inside**3 + 4 * inside**2 + inside, inside**3 - inside**2]) / 2
    beyond = (t < 0) | (t > 1)
    straight = torch.stack([torch.zeros_like(t), 1 - t, t, torch.zeros_like(t)])
    taps = torch.where(beyond, straight, cubes)
    # One cell more on each side continues the slope of the outermost two.
    extended = torch.zeros(count, cells + 2, dtype=torch.float64)
    extended.scatter_(1, first.long()[:, None] + torch.arange(4), taps.T)
    weights = extended[:, 1:-1].clone()
    weights[:, 0] += 2 * extended[:, 0]
    weights[:, 1] -= extended[:, 0]
    weights[:, -1] += 2 * extended[:, -1]
    weights[:, -2] -= extended[:, -1]
    return weights
