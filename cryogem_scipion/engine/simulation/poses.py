# SPDX-License-Identifier: GPL-3.0-or-later
"""Random orientations of the particles.

Rotations are the matrices A of ``projection``. The viewing direction of a particle, in its map, is the third row of A,
Aᵀ (0, 0, 1). All results are float64 on the CPU. All random numbers come from the generator.
"""
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.errors import SettingsError

__all__ = ["preferred_rotations", "resampled_rotations", "uniform_rotations", "view_directions"]


def uniform_rotations(count: int, generator: torch.Generator) -> Float[Tensor, "n 3 3"]:
    """Rotations uniform on SO(3).

    Four normal deviates, normalised, are a uniform quaternion.

    Parameters
    ----------
    count
        Number of rotations.
    generator
        Random generator.

    Raises
    ------
    SettingsError
        The count is negative.

    References
    ----------
    doi:10.1016/B978-0-08-050755-2.50036-1
    """
    if count < 0:
        raise SettingsError(f"number of poses is {count}; give 0 or more")
    return _from_quaternions(torch.randn(count, 4, generator=generator, dtype=torch.float64))


def _from_quaternions(quaternions: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def view_directions(rot_tilt_degrees: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Viewing directions (x, y, z), unit vectors in the map, of the angles (rot, tilt) in degrees."""
    rot, tilt = torch.deg2rad(rot_tilt_degrees.to(torch.float64)).unbind(-1)
    return torch.stack([torch.sin(tilt) * torch.cos(rot), torch.sin(tilt) * torch.sin(rot), torch.cos(tilt)], dim=-1)


def preferred_rotations(
    count: int,
    generator: torch.Generator,
    views_degrees: Sequence[tuple[float, float]],
    weights: Sequence[float] | None = None,
    cone_degrees: float = 15.0,
    uniform_weight: float = 0.0,
) -> Float[Tensor, "n 3 3"]:
    """Rotations whose viewing directions lie in cones around preferred views.

    Parameters
    ----------
    count
        Number of rotations.
    generator
        Random generator.
    views_degrees
        (rot, tilt) of each preferred view, degrees.
    weights
        Relative frequency of each view; equal by default.
    cone_degrees
        Half the opening angle of the cones, degrees. Directions are uniform in the cone, in-plane angles uniform over
        the circle.
    uniform_weight
        Relative frequency of orientations uniform on SO(3), on the scale of the weights.

    Raises
    ------
    SettingsError
        There is no view, the weights do not match the views or are all 0, or the cone is outside 0 to 180°.
    """
    probabilities = [1.0] * len(views_degrees) if weights is None else list(weights)
    if not views_degrees:
        raise SettingsError("no preferred view: the list is empty; give at least one (rot, tilt)")
    if len(probabilities) != len(views_degrees):
        raise SettingsError(f"{len(probabilities)} weights for {len(views_degrees)} views; give one for each")
    probabilities.append(uniform_weight)
    if not (all(0 <= chance < math.inf for chance in probabilities) and sum(probabilities) > 0):
        raise SettingsError(f"weights of the views are {probabilities}; give numbers of 0 or more, not all 0")
    if not 0 <= cone_degrees <= 180:
        raise SettingsError(f"cone is {cone_degrees}°; give an angle from 0 to 180")
    uniform = uniform_rotations(count, generator)
    if count == 0:
        return uniform
    chosen = torch.multinomial(
        torch.tensor(probabilities, dtype=torch.float64), count, replacement=True, generator=generator
    )
    uniform_draws = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    cosine = 1 - uniform_draws[:, 0] * (1 - math.cos(math.radians(cone_degrees)))
    sine = torch.sqrt((1 - cosine * cosine).clamp(min=0))
    azimuth = 2 * math.pi * uniform_draws[:, 1]
    local = torch.stack([sine * torch.cos(azimuth), sine * torch.sin(azimuth), cosine], dim=-1)
    views = torch.tensor([*views_degrees, (0.0, 0.0)], dtype=torch.float64)[chosen]
    frames = _view_frames(view_directions(views))
    direction = (local[:, None, :] @ frames)[:, 0]
    in_plane = 2 * math.pi * uniform_draws[:, 2]
    rotations = _in_plane_rotations(in_plane) @ _view_frames(direction)
    return torch.where((chosen == len(views_degrees))[:, None, None], uniform, rotations)


def resampled_rotations(
    count: int, generator: torch.Generator, orientations: Float[Tensor, "m 3 3"], spread_degrees: float = 0.0
) -> Float[Tensor, "n 3 3"]:
    """Rotations drawn with replacement from a list of orientations.

    Each rotation gets a new in-plane angle, because no in-plane direction is preferred on a grid. It is also rotated
    about a random axis by an angle of up to ``spread_degrees``.

    Parameters
    ----------
    count
        Number of rotations.
    generator
        Random generator.
    orientations
        Rotation matrices A to draw from.
    spread_degrees
        Largest additional rotation, degrees.

    Raises
    ------
    SettingsError
        The list is empty, or the spread is outside 0 to 180°.
    """
    if orientations.shape[0] == 0:
        raise SettingsError("no orientation to draw from: the list is empty; give particles with poses")
    if not 0 <= spread_degrees <= 180:
        raise SettingsError(f"spread is {spread_degrees}°; give an angle from 0 to 180")
    chosen = torch.randint(orientations.shape[0], (count,), generator=generator)
    uniform_draws = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    axis = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    half = 0.5 * math.radians(spread_degrees) * uniform_draws[:, 1]
    axis = torch.nn.functional.normalize(axis, dim=-1) * torch.sin(half)[:, None]
    tilt = _from_quaternions(torch.cat([torch.cos(half)[:, None], axis], dim=-1))
    chosen_orientations = orientations.detach().cpu().to(torch.float64)[chosen]
    return _in_plane_rotations(2 * math.pi * uniform_draws[:, 0]) @ tilt @ chosen_orientations


def _in_plane_rotations(angles: Float[Tensor, " n"]) -> Float[Tensor, "n 3 3"]:
    """Rotations by angles (radians) about z, the viewing direction."""
    cosine, sine, zero = torch.cos(angles), torch.sin(angles), torch.zeros_like(angles)
    rows = [cosine, sine, zero, -sine, cosine, zero, zero, zero, zero + 1]
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def _view_frames(direction: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Right-handed frames whose third row is ``direction``."""
    least = torch.nn.functional.one_hot(direction.abs().argmin(dim=-1), 3).to(direction.dtype)
    first = torch.nn.functional.normalize(torch.linalg.cross(least, direction), dim=-1)
    return torch.stack([first, torch.linalg.cross(direction, first), direction], dim=-2)
