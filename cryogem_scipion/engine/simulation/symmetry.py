# SPDX-License-Identifier: GPL-3.0-or-later
"""Point groups, oriented as RELION orients them.

C: n-fold axis on z. D: n-fold on z, twofold on x. T: threefold on z, twofold in the y-z plane.
O: fourfold axes on x, y and z. I1 to I4: twofold axes on x, y and z, or fivefold on z; plain I is I2.

A map with V(R r) = V(r) for every operator R looks the same at A and at A R.
"""
import math
import re

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.errors import SettingsError

__all__ = ["operators", "to_asymmetric_unit"]

GOLDEN = (1 + math.sqrt(5)) / 2
ALLOWED = "C1, C2, …; D1, D2, …; T; O; I (which is I2), I1, I2, I3 or I4"
LARGEST_ORDER = 100

# (order of the axis, its direction); two axes generate each group
AXES: dict[str, tuple[tuple[int, tuple[float, float, float]], ...]] = {
    "T": ((3, (0.0, 0.0, 1.0)), (2, (0.0, math.sqrt(2 / 3), math.sqrt(1 / 3)))),
    "O": ((4, (0.0, 0.0, 1.0)), (3, (1.0, 1.0, 1.0))),
    "I1": ((2, (0.0, 0.0, 1.0)), (5, (GOLDEN, 0.0, 1.0))),
    "I2": ((2, (0.0, 0.0, 1.0)), (5, (1.0, 0.0, GOLDEN))),
    "I3": ((5, (0.0, 0.0, 1.0)), (2, (-1.0, 0.0, GOLDEN))),
    "I4": ((5, (0.0, 0.0, 1.0)), (2, (1.0, 0.0, GOLDEN))),
}


def _axes(name: str) -> tuple[tuple[int, tuple[float, float, float]], ...]:
    group = name.strip().upper()
    found = re.fullmatch(r"([CD])(\d+)", group)
    if found and 1 <= int(found[2]) <= LARGEST_ORDER:
        main = (int(found[2]), (0.0, 0.0, 1.0))
        return (main,) if found[1] == "C" else (main, (2, (1.0, 0.0, 0.0)))
    axes = AXES.get("I2" if group == "I" else group)
    if axes is None:
        raise SettingsError(f"symmetry is {name!r}; give one of {ALLOWED}")
    return axes


def operators(name: str) -> Float[Tensor, "g 3 3"]:
    """All rotations of a point group, the identity first.

    Parameters
    ----------
    name
        C1, C2, …, D1, D2, …, T, O, I, I1, I2, I3 or I4, in upper or lower case.

    Raises
    ------
    SettingsError
        Any other name.
    """
    cyclic = [_powers(order, direction) for order, direction in _axes(name)]
    group = cyclic[0]
    while len(cyclic) > 1:
        # every element is a product of turns about the two axes; each round makes them one turn longer
        larger = _distinct((cyclic[1][:, None] @ group).reshape(-1, 3, 3))
        if len(larger) == len(group):
            break
        group = larger
        cyclic.reverse()
    return group


def _powers(order: int, direction: tuple[float, float, float]) -> Float[Tensor, "n 3 3"]:
    """All turns about one axis, the identity first."""
    x, y, z = (value / math.hypot(*direction) for value in direction)
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    angles = (2 * math.pi / order * torch.arange(order, dtype=torch.float64))[:, None, None]
    return torch.eye(3, dtype=torch.float64) + torch.sin(angles) * cross + (1 - torch.cos(angles)) * (cross @ cross)


def _distinct(matrices: Float[Tensor, "n 3 3"]) -> Float[Tensor, "m 3 3"]:
    """The matrices without repetitions, each at its first place."""
    # rounded to eight digits, the rotations of a group differ and their rounding errors do not; + 0 turns -0 to 0
    keys = (matrices.reshape(-1, 9) * 1e8).round() + 0.0
    _, first = np.unique(keys.numpy(), axis=0, return_index=True)
    return matrices[torch.from_numpy(np.sort(first))]


def to_asymmetric_unit(matrices: Float[Tensor, "n 3 3"], name: str) -> Float[Tensor, "n 3 3"]:
    """Replace each orientation by its symmetric copy in the asymmetric unit.

    The unit holds the view directions that are nearer to one fixed direction than to any of its
    symmetric copies; for C and D groups these are the rot within ±180°/n and, for D, tilt up to 90°.
    """
    group = operators(name).to(matrices)
    centre = torch.tensor((math.sqrt(0.5), 0.0, math.sqrt(0.5)), dtype=matrices.dtype, device=matrices.device)
    if name.strip().upper()[0] in "TOI":
        centre = torch.nn.functional.normalize(torch.tensor((0.2, 0.1, 1.0)).to(matrices), dim=0)
    copies = matrices[:, None] @ group
    nearness = copies[:, :, 2] @ centre
    best = nearness.argmax(dim=1)
    return copies[torch.arange(len(matrices), device=matrices.device), best]
