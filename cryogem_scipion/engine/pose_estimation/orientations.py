# SPDX-License-Identifier: GPL-3.0-or-later
"""Grids of orientations and shifts, angles between orientations modulo symmetry, and mean orientations."""
import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.simulation.projection import rotation_matrices
from cryogem_scipion.engine.simulation.symmetry import to_asymmetric_unit

__all__ = ["about_z", "angles_between", "angles_modulo", "rotations_by", "shift_grid", "view_frames"]


def view_frames(spacing_degrees: float, symmetry: str) -> Float[Tensor, "d 3 3"]:
    """Rotations A with psi = 0, one for each viewing direction of the asymmetric unit: a Fibonacci lattice.

    References
    ----------
    doi:10.1007/s11004-009-9257-x
    """
    count = math.ceil(4 * math.pi / math.radians(spacing_degrees) ** 2)
    index = torch.arange(count, dtype=torch.float64)
    tilt = torch.rad2deg(torch.acos(1 - (2 * index + 1) / count))
    rot = (index * 360 / ((1 + math.sqrt(5)) / 2)) % 360
    frames = rotation_matrices(torch.stack([rot, tilt, torch.zeros_like(rot)], 1))
    inside = (frames - to_asymmetric_unit(frames, symmetry)).abs().amax((1, 2)) < 1e-6
    return frames[inside].float()


def about_z(radians: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3 3"]:
    """Rotations that turn an image in the plane from x towards y."""
    c, s, o = torch.cos(radians), torch.sin(radians), torch.zeros_like(radians)
    return torch.stack([c, -s, o, s, c, o, o, o, o + 1], -1).reshape(*radians.shape, 3, 3)


def rotations_by(vectors: Float[Tensor, "*n xyz"]) -> Float[Tensor, "*n 3 3"]:
    """Rotations by rotation vectors (radians)."""
    x, y, z = vectors.unbind(-1)
    o = torch.zeros_like(x)
    cross = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*x.shape, 3, 3)
    angle = vectors.norm(dim=-1)[..., None, None]
    sine, half_sine = torch.sinc(angle / math.pi), torch.sinc(angle / (2 * math.pi))
    rotations: Tensor = torch.eye(3).to(vectors) + sine * cross + half_sine.square() / 2 * (cross @ cross)
    return rotations


def angles_between(first: Float[Tensor, "*n 3 3"], second: Float[Tensor, "*m 3 3"]) -> Float[Tensor, "*out"]:
    """Angles between orientations, degrees; a dimension of 1 fits any number."""
    # From the distance of the matrices: the arc cosine of the trace is not exact at small angles.
    distance = (first - second).square().sum((-1, -2)).sqrt() / math.sqrt(8)
    return torch.rad2deg(2 * torch.asin(distance.clamp(max=1)))


def angles_modulo(first: Float[Tensor, "*n 3 3"], second: Float[Tensor, "*n 3 3"], operators: Float[Tensor, "g 3 3"]
                  ) -> Float[Tensor, "*n"]:
    """Smallest angles between orientations and the symmetric copies of others, degrees."""
    return angles_between(first[..., None, :, :], second[..., None, :, :] @ operators).amin(-1)


def shift_grid(largest: float, step: float) -> Float[Tensor, "t xy"]:
    """Shifts (x, y) on a square grid that reaches the largest shift on each axis; its corners are left out.

    Parameters
    ----------
    step
        Largest distance of two points along an axis.
    """
    count = math.ceil(largest / step - 1e-6) if largest > 0 else 0
    axis = torch.arange(-count, count + 1, dtype=torch.float32) * (largest / count if count else 0.0)
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    shifts = torch.stack([x.flatten(), y.flatten()], 1)
    return shifts[shifts.norm(dim=1) <= 1.25 * largest + 1e-6]
