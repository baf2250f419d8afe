# SPDX-License-Identifier: GPL-3.0-or-later
"""Broken particles: the part of a density on one side of a plane."""
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.simulation.volume import Volume

__all__ = ["cut_volume"]

EDGE_ANGSTROM = 10.0
"""Å; the density falls to zero over this distance, so that the cut adds no ripples to the image."""


def cut_volume(volume: Volume, normal: Float[Tensor, "3"], remaining: float) -> Volume:
    """Cut a density with a plane and keep a given fraction of its mass.

    Parameters
    ----------
    volume
        The density of the whole particle.
    normal
        Unit vector (x, y, z) perpendicular to the plane; the side to which it points is removed.
    remaining
        Fraction of the positive density that is left, from 0 to 1.

    Returns
    -------
    The density that is left, in the same box: its origin is still that of the whole particle. The edge has the shape of
    a cosine and is 10 Å wide, or two voxels if they are larger.
    """
    box, device = volume.density.shape[0], volume.density.device
    steps = (torch.arange(box, device=device) - box // 2).double() * volume.pixel_size
    x, y, z = normal.double().tolist()
    height = z * steps[:, None, None] + y * steps[:, None] + x * steps
    plane = _plane_height(height, volume.density.clamp(min=0).double(), remaining)
    edge = max(EDGE_ANGSTROM, 2 * volume.pixel_size)
    phase = ((height - plane) / edge + 0.5).clamp(0, 1) * torch.pi
    kept = 0.5 * (1 + torch.cos(phase))
    return replace(volume, density=volume.density * kept.to(volume.density.dtype))


def _plane_height(height: Float[Tensor, "z y x"], mass: Float[Tensor, "z y x"], remaining: float) -> float:
    """Height of the plane below which the fraction ``remaining`` of the mass lies."""
    order = height.ravel().argsort(stable=True)
    below = mass.ravel()[order].cumsum(0)
    place = int(torch.searchsorted(below, remaining * below[-1]))
    return float(height.ravel()[order[min(place, len(order) - 1)]])
