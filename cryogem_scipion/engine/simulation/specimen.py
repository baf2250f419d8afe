# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual specimens: which particles there are, how they are turned, where and how high they lie.

What is drawn of a specimen is all that its labels tell, and costs next to nothing; the image comes later.
"""
import hashlib
import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.composition import plane_heights
from cryogem_scipion.engine.simulation.ctf import Optics, at_height
from cryogem_scipion.engine.simulation.poses import drawn_rotations, preferred_rotations, uniform_rotations
from cryogem_scipion.engine.simulation.symmetry import to_asymmetric_unit

__all__ = ["Specimen", "drawn_heights", "drawn_poses", "drawn_sources", "seeded"]


def seeded(*parts: object) -> torch.Generator:
    """Return a generator that depends on the parts alone, such as (run seed, "specimen", micrograph index)."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Specimen:
    """Where the particles of one micrograph are, how they are turned, and the microscope's state."""

    centres: Float[Tensor, "n 2"]
    """(y, x), pixels; the first pixel's centre is 0, 0."""
    heights: Float[Tensor, " n"]
    """Å above the plane that has the microscope's defocus, towards the electron source."""
    rotations: Float[Tensor, "n 3 3"]
    sources: Int[Tensor, " n"]
    """Index of each particle's map."""
    whole: Bool[Tensor, " n"]
    """Whether the box lies inside the micrograph."""
    optics: Optics
    wanted: int
    """How many particles were drawn; more than there are when they did not fit."""

    @property
    def level(self) -> bool:
        """Whether all particles have the same defocus."""
        return not bool(self.heights.any())

    @property
    def states(self) -> tuple[Optics, ...]:
        """The microscope's state as each particle sees it."""
        return tuple(at_height(self.optics, height) for height in self.heights.tolist())

    def part(self, chosen: Bool[Tensor, " n"]) -> "Specimen":
        """The specimen with some of its particles only."""
        return replace(self, centres=self.centres[chosen], heights=self.heights[chosen],
                       rotations=self.rotations[chosen], sources=self.sources[chosen], whole=self.whole[chosen])


def drawn_poses(settings: SimulateSettings, count: int, draw: torch.Generator,
                measured: Float[Tensor, "m 3 3"] | None = None) -> Float[Tensor, "n 3 3"]:
    """Draw orientations: as measured ones, in preferred views, or uniform; then tilt them with the ice.

    A tilt of the ice turns its particles about the same axis. The result lies in the asymmetric unit.
    """
    if measured is not None:
        rotations = drawn_rotations(count, draw, measured, settings.orientation_spread_degrees)
    elif settings.preferred_views:
        views = settings.parsed_preferred_views()
        free = settings.preferred_uniform
        weights = [weight for *_, weight in views]
        rotations = preferred_rotations(count, draw, [(rot, tilt) for rot, tilt, _ in views],
                                        [(1 - free) * weight / sum(weights) for weight in weights],
                                        settings.preferred_cone_degrees, free)
    else:
        rotations = uniform_rotations(count, draw)
    if settings.ice_tilt_degrees:
        rotations = _tilted(settings.ice_tilt_degrees, settings.ice_tilt_axis_degrees) @ rotations
    return to_asymmetric_unit(rotations, settings.symmetry) if count else rotations


def drawn_sources(proportions: tuple[float, ...], count: int, draw: torch.Generator) -> Int[Tensor, " n"]:
    """Draw each particle's map with chances in these proportions."""
    edges = torch.tensor(proportions, dtype=torch.float64).cumsum(0)
    chance = torch.rand(count, generator=draw, dtype=torch.float64) * edges[-1]
    return torch.searchsorted(edges, chance, right=True).clamp(max=len(proportions) - 1)


def drawn_heights(settings: SimulateSettings, centres: Float[Tensor, "n 2"], pixel_size: float,
                  draw: torch.Generator) -> Float[Tensor, " n"]:
    """Draw each particle's height (Å): anywhere in the ice, which may be tilted."""
    within = torch.rand(len(centres), generator=draw, dtype=torch.float64) - 0.5
    plane = plane_heights(centres.double(), settings.micrograph_size, pixel_size, settings.ice_tilt_degrees,
                          settings.ice_tilt_axis_degrees)
    return plane + within * settings.ice_thickness_angstrom


def _tilted(tilt_degrees: float, axis_degrees: float) -> Float[Tensor, "3 3"]:
    """The rotation by the tilt about an axis in the plane of the image, (x, y, z)."""
    x, y = math.cos(math.radians(axis_degrees)), math.sin(math.radians(axis_degrees))
    cross = torch.tensor([[0, 0, y], [0, 0, -x], [-y, x, 0]], dtype=torch.float64)
    tilt = math.radians(tilt_degrees)
    return torch.eye(3, dtype=torch.float64) + math.sin(tilt) * cross + (1 - math.cos(tilt)) * cross @ cross
