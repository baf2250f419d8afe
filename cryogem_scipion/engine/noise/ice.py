# SPDX-License-Identifier: GPL-3.0-or-later
"""Ice of a generated image: a random part of a measured ice map, interpolated to the image's pixels."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.noise.contaminants import FieldPart, draw_field_part

__all__ = ["IceMap", "draw_ice", "ice_of_part"]


@dataclass(frozen=True)
class IceMap:
    """Smooth transmission of one real micrograph on a grid of cells."""

    grid: Float[Tensor, "gy gx"]
    """Transmission with mean 1; at least two cells a side."""
    field: tuple[int, int]
    """Size (y, x) of the micrograph in pixels of the working pixel size."""

    def window(self, origin: tuple[float, float], shape: tuple[int, int]) -> Float[Tensor, "y x"]:
        """Return the transmission of ``shape`` pixels from ``origin`` on, by cubic interpolation of the cells."""
        rows, columns = (_weights(cells, field, start, count).to(self.grid) for cells, field, start, count in
                         zip(self.grid.shape, self.field, origin, shape, strict=True))
        if self.grid.is_cuda:
            return rows @ self.grid @ columns.T
        # The last bit of a matrix product may depend on the processor's instructions; einsum adds in plain order.
        values = np.einsum("yj,ji->yi", rows.numpy(), self.grid.detach().numpy())
        return torch.from_numpy(np.einsum("yi,ix->yx", values, columns.T.contiguous().numpy()))


def draw_ice(maps: Sequence[IceMap], shape: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "y x"]:
    """Draw the transmission of an image: a random part of a random map, randomly rotated and mirrored.

    A map keeps its physical scale. A map that is smaller than the image is stretched to its size. Without maps the
    transmission is 1.
    """
    if not maps:
        return torch.ones(shape)
    return ice_of_part(maps, draw_field_part([ice.field for ice in maps], shape, generator), shape)


def ice_of_part(maps: Sequence[IceMap], part: FieldPart, shape: tuple[int, int]) -> Float[Tensor, "y x"]:
    """Return the transmission of an image of ``shape`` that shows this part of a micrograph."""
    grid = torch.rot90(maps[part.index].grid, part.turns)
    return IceMap(grid.flip(1) if part.mirrored else grid, part.field).window(part.origin, shape)


def _weights(cells: int, field: int, start: float, count: int) -> Float[Tensor, "count cells"]:
    """Matrix from cells to pixels: Catmull-Rom splines, straight lines beyond the centres of the outermost cells.

    Source of the splines: doi:10.1016/B978-0-12-079050-0.50020-5.
    """
    position = (torch.arange(count, dtype=torch.float64) + start + 0.5) / field * cells - 0.5
    first = position.floor().clamp(0, max(cells - 2, 0))
    t = position - first
    inside = t.clamp(0, 1)
    cubes = torch.stack([-inside**3 + 2 * inside**2 - inside, 3 * inside**3 - 5 * inside**2 + 2,
                         -3 * inside**3 + 4 * inside**2 + inside, inside**3 - inside**2]) / 2
    beyond = (t < 0) | (t > 1)
    straight = torch.stack([torch.zeros_like(t), 1 - t, t, torch.zeros_like(t)])
    taps = torch.where(beyond, straight, cubes)
    # One more cell on each side continues the slope of the two outermost cells.
    extended = torch.zeros(count, cells + 2, dtype=torch.float64)
    extended.scatter_(1, first.long()[:, None] + torch.arange(4), taps.T)
    weights = extended[:, 1:-1].clone()
    weights[:, 0] += 2 * extended[:, 0]
    weights[:, 1] -= extended[:, 0]
    weights[:, -1] += 2 * extended[:, -1]
    weights[:, -2] -= extended[:, -1]
    return weights
