# SPDX-License-Identifier: GPL-3.0-or-later
"""Point groups in the orientation that RELION uses (doi:10.1016/j.jsb.2012.09.006).

C: n-fold axis on z. D: n-fold on z, twofold on x. T: threefold on z, twofold in the y-z plane.
O: fourfold axes on x, y and z. I1 to I4: twofold axes on x, y and z, or fivefold on z; plain I is I2.

If V(R r) = V(r) for each operator R, the projections at the rotations A and A R are the same.
"""
import math
import re

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.errors import SettingsError

__all__ = ["symmetry_operators", "to_asymmetric_unit"]

GOLDEN = (1 + math.sqrt(5)) / 2
ALLOWED = "C1, C2, …; D1, D2, …; T; O; I (which is I2), I1, I2, I3 or I4"
MAX_ORDER = 100
"""Largest n of the groups Cn and Dn."""

# Order and direction (x, y, z) of two axes that generate the group.
AXES: dict[str, tuple[tuple[int, tuple[float, float, float]], ...]] = {
    "T": ((3, (0.0, 0.0, 1.0)), (2, (0.0, math.sqrt(2 / 3), math.sqrt(1 / 3)))),
    "O": ((4, (0.0, 0.0, 1.0)), (3, (1.0, 1.0, 1.0))),
    "I1": ((2, (0.0, 0.0, 1.0)), (5, (GOLDEN, 0.0, 1.0))),
    "I2": ((2, (0.0, 0.0, 1.0)), (5, (1.0, 0.0, GOLDEN))),
    "I3": ((5, (0.0, 0.0, 1.0)), (2, (-1.0, 0.0, GOLDEN))),
    "I4": ((5, (0.0, 0.0, 1.0)), (2, (1.0, 0.0, GOLDEN))),
}


def _generating_axes(name: str) -> tuple[tuple[int, tuple[float, float, float]], ...]:
    group = name.strip().upper()
    matched = re.fullmatch(r"([CD])(\d+)", group)
    if matched and 1 <= int(matched[2]) <= MAX_ORDER:
        main = (int(matched[2]), (0.0, 0.0, 1.0))
        return (main,) if matched[1] == "C" else (main, (2, (1.0, 0.0, 0.0)))
    axes = AXES.get("I2" if group == "I" else group)
    if axes is None:
        raise SettingsError(f"symmetry is {name!r}; give one of {ALLOWED}")
    return axes


def symmetry_operators(name: str) -> Float[Tensor, "g 3 3"]:
    """Rotation matrices of all operators of a point group, the identity first.

    Parameters
    ----------
    name
        C1, C2, …, D1, D2, …, T, O, I, I1, I2, I3 or I4, in upper or lower case.

    Returns
    -------
    Matrices, float64; g is the order of the group.

    Raises
    ------
    SettingsError
        The name is none of these.
    """
    cyclic = [_cyclic_group(order, direction) for order, direction in _generating_axes(name)]
    group = cyclic[0]
    while len(cyclic) > 1:
        # Every operator is a product of rotations about the two axes; each round adds one rotation to the products.
        larger = _distinct((cyclic[1][:, None] @ group).reshape(-1, 3, 3))
        if len(larger) == len(group):
            break
        group = larger
        cyclic.reverse()
    return group


def _cyclic_group(order: int, direction: tuple[float, float, float]) -> Float[Tensor, "n 3 3"]:
    """All rotations about one axis, the identity first."""
    x, y, z = (value / math.hypot(*direction) for value in direction)
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    angles = (2 * math.pi / order * torch.arange(order, dtype=torch.float64))[:, None, None]
    return torch.eye(3, dtype=torch.float64) + torch.sin(angles) * cross + (1 - torch.cos(angles)) * (cross @ cross)


def _distinct(matrices: Float[Tensor, "n 3 3"]) -> Float[Tensor, "m 3 3"]:
    """The matrices without repetitions, in the order of their first occurrence."""
    # Rounding to eight digits removes numerical errors and keeps the operators of a group apart; + 0 turns -0 into 0.
    keys = (matrices.reshape(-1, 9) * 1e8).round() + 0.0
    _, first = np.unique(keys.numpy(), axis=0, return_index=True)
    return matrices[torch.from_numpy(np.sort(first))]


def to_asymmetric_unit(matrices: Float[Tensor, "n 3 3"], name: str) -> Float[Tensor, "n 3 3"]:
    """Replace each orientation by its symmetric copy in the asymmetric unit.

    The asymmetric unit holds the viewing directions that are nearer to one fixed direction than to the symmetric copies
    of that direction. For C and D groups these are the directions with rot within ±180°/n and, for D, tilt up to 90°.

    Parameters
    ----------
    matrices
        Rotation matrices A (see ``projection``).
    name
        The point group, as for ``symmetry_operators``.

    Raises
    ------
    SettingsError
        The name is not that of a point group.
    """
    group = symmetry_operators(name).to(matrices)
    centre = torch.tensor((math.sqrt(0.5), 0.0, math.sqrt(0.5)), dtype=matrices.dtype, device=matrices.device)
    if name.strip().upper()[0] in "TOI":
        centre = torch.nn.functional.normalize(torch.tensor((0.2, 0.1, 1.0)).to(matrices), dim=0)
    copies = matrices[:, None] @ group
    nearness = copies[:, :, 2] @ centre
    best = nearness.argmax(dim=1)
    return copies[torch.arange(len(matrices), device=matrices.device), best]
