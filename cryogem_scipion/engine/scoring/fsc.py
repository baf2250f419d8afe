# SPDX-License-Identifier: GPL-3.0-or-later
"""Fourier shell correlation of two maps, and the resolution at which it falls below a threshold."""
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import DataError

__all__ = ["fourier_shell_correlation", "fsc_resolution"]


def fourier_shell_correlation(first: Float[Tensor, "_ _ _"], second: Float[Tensor, "_ _ _"]
                              ) -> Float[Tensor, " shells"]:
    """Correlation of two maps in each Fourier shell, from zero frequency to Nyquist.

    Shell i holds the frequencies nearest to i / n cycles per voxel, where n is the edge of the maps in voxels.

    Parameters
    ----------
    first, second
        Cubic maps of the same size (n, n, n).

    Returns
    -------
    Correlation of each shell (n // 2 + 1,), float64, from -1 to 1.

    Raises
    ------
    DataError
        The maps are not cubes of the same size.

    References
    ----------
    doi:10.1016/0304-3991(86)90095-0
    """
    if first.shape != second.shape or len(set(first.shape)) != 1:
        raise DataError(f"maps of {tuple(first.shape)} and {tuple(second.shape)} voxels; compare cubes of one size")
    edge = first.shape[0]
    axis, half_axis = fourier.fftfreq(edge) * edge, torch.arange(edge // 2 + 1)
    shell = (axis[:, None, None].square() + axis[:, None].square() + half_axis.square()).sqrt().round().long().flatten()
    a, b = (fourier.rfft3(volume.detach().cpu().double()).flatten() for volume in (first, second))
    # The half spectrum holds a frequency once for itself and its conjugate, except in the planes at 0 and Nyquist.
    multiplicity = torch.full((edge // 2 + 1,), 2.0, dtype=torch.float64)
    multiplicity[0] = 1
    if edge % 2 == 0:
        multiplicity[-1] = 1
    weight = multiplicity.expand(edge, edge, -1).flatten()

    def shell_sum(values: Tensor) -> Tensor:
        return torch.bincount(shell, weight * values)[:edge // 2 + 1]

    power = (shell_sum(a.abs().square()) * shell_sum(b.abs().square())).sqrt()
    return shell_sum((a * b.conj()).real) / power.clamp(min=1e-300)


def fsc_resolution(correlation: Float[Tensor, " shells"], edge: int, pixel_size: float, threshold: float
                   ) -> float | None:
    """Resolution at which the correlation first falls below a threshold.

    Parameters
    ----------
    correlation
        Result of ``fourier_shell_correlation``.
    edge
        Edge of the maps, voxels.
    pixel_size
        Å per voxel.
    threshold
        0.143 for half maps, 0.5 for a map against its model.

    Returns
    -------
    Resolution, Å, interpolated between shells; None if the correlation never falls below the threshold.

    References
    ----------
    Thresholds: doi:10.1016/j.jmb.2003.07.013
    """
    below = (correlation[1:] < threshold).nonzero()
    if not len(below):
        return None
    shell = int(below[0]) + 1
    high, low = float(correlation[shell - 1]), float(correlation[shell])
    crossing = shell - 1 + (high - threshold) / (high - low) if shell > 1 else float(shell)
    return edge * pixel_size / crossing
