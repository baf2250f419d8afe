# SPDX-License-Identifier: GPL-3.0-or-later
"""Fourier shell correlation of two maps, and the resolution where it falls below a threshold."""
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import DataError

__all__ = ["fsc_resolution", "shell_correlation"]


def shell_correlation(one: Float[Tensor, "_ _ _"], other: Float[Tensor, "_ _ _"]) -> Float[Tensor, " shells"]:
    """Correlation of two maps in each shell of frequency, from 0 to Nyquist.

    Shell i holds the frequencies nearest to i / n cycles per voxel.

    References
    ----------
    doi:10.1016/0304-3991(86)90095-0
    """
    if one.shape != other.shape or len(set(one.shape)) != 1:
        raise DataError(f"maps of {tuple(one.shape)} and {tuple(other.shape)} voxels; compare cubes of one size")
    edge = one.shape[0]
    axis, half = fourier.fftfreq(edge) * edge, torch.arange(edge // 2 + 1)
    shell = (axis[:, None, None].square() + axis[:, None].square() + half.square()).sqrt().round().long().flatten()
    a, b = (fourier.rfft3(volume.detach().cpu().double()).flatten() for volume in (one, other))
    # Frequencies off the plane x = 0 (and the Nyquist one) stand for their conjugates as well.
    twice = torch.full((edge // 2 + 1,), 2.0, dtype=torch.float64)
    twice[0] = 1
    if edge % 2 == 0:
        twice[-1] = 1
    weight = twice.expand(edge, edge, -1).flatten()

    def total(values: Tensor) -> Tensor:
        return torch.bincount(shell, weight * values)[:edge // 2 + 1]

    return total((a * b.conj()).real) / (total(a.abs().square()) * total(b.abs().square())).sqrt().clamp(min=1e-300)


def fsc_resolution(correlation: Float[Tensor, " shells"], edge: int, pixel_size: float, threshold: float
                   ) -> float | None:
    """Resolution (Å) at which the correlation first falls below a threshold; None where it never does.

    Parameters
    ----------
    correlation
        From ``shell_correlation``.
    edge
        Of the maps, voxels.
    """
    below = (correlation[1:] < threshold).nonzero()
    if not len(below):
        return None
    place = int(below[0]) + 1
    high, low = float(correlation[place - 1]), float(correlation[place])
    crossing = place - 1 + (high - threshold) / (high - low) if place > 1 else float(place)
    return edge * pixel_size / crossing
