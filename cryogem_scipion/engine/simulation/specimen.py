# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual specimens: the map, orientation, position and height of each particle on a micrograph.

Drawing a specimen gives all its labels and takes almost no time. Its image is formed later.
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
from cryogem_scipion.engine.simulation.poses import preferred_rotations, resampled_rotations, uniform_rotations
from cryogem_scipion.engine.simulation.symmetry import to_asymmetric_unit
from cryogem_scipion.engine.simulation.variation import Variation

__all__ = ["Specimen", "draw_heights", "draw_map_indices", "draw_orientations", "seeded_generator"]


def seeded_generator(*parts: object) -> torch.Generator:
    """Return a random generator whose seed depends on the parts only, such as (run seed, "specimen", index)."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Specimen:
    """The particles of one micrograph, and the microscope state."""

    centres: Float[Tensor, "n 2"]
    """(y, x), pixels; the centre of the first pixel is (0, 0)."""
    heights: Float[Tensor, " n"]
    """Å above the plane at the microscope's defocus; positive towards the electron source."""
    rotations: Float[Tensor, "n 3 3"]
    """Rotation matrices A (see ``projection``)."""
    map_indices: Int[Tensor, " n"]
    """Index of each particle's map."""
    is_whole: Bool[Tensor, " n"]
    """Whether the particle's box lies inside the micrograph; the border cuts the other particles."""
    optics: Optics
    """Microscope state at height 0."""
    requested_count: int
    """Number of particles that were requested. It is larger than the number of particles if some did not fit."""
    variation: Variation | None = None
    """What else differs between the particles; None if they are alike."""

    @property
    def same_optics(self) -> bool:
        """Whether all particles have the same defocus and the same B-factor."""
        return not bool(self.heights.any()) and (self.variation is None or not bool(
            self.variation.extra_b_factors.any()))

    @property
    def particle_optics(self) -> tuple[Optics, ...]:
        """Microscope state for each particle, with the defocus at its height and its own B-factor."""
        optics = tuple(at_height(self.optics, height) for height in self.heights.tolist())
        if self.variation is None:
            return optics
        return tuple(replace(state, b_factor_angstrom2=state.b_factor_angstrom2 + extra)
                     for state, extra in zip(optics, self.variation.extra_b_factors.tolist(), strict=True))

    def subset(self, selected: Bool[Tensor, " n"]) -> "Specimen":
        """The specimen with the selected particles only."""
        return replace(self, centres=self.centres[selected], heights=self.heights[selected],
                       rotations=self.rotations[selected], map_indices=self.map_indices[selected],
                       is_whole=self.is_whole[selected],
                       variation=None if self.variation is None else self.variation.subset(selected))


def draw_orientations(settings: SimulateSettings, count: int, generator: torch.Generator,
                      measured_orientations: Float[Tensor, "m 3 3"] | None = None) -> Float[Tensor, "n 3 3"]:
    """Draw orientations from measured ones, from preferred views or uniformly, and tilt them with the ice.

    A tilt of the ice rotates the particles about the same axis.

    Parameters
    ----------
    settings
        Settings of the simulation.
    count
        Number of particles.
    generator
        Random generator.
    measured_orientations
        Rotation matrices A to draw from; None for the preferred views of the settings, or uniform orientations.

    Returns
    -------
    Rotation matrices A in the asymmetric unit of the settings' symmetry.
    """
    if measured_orientations is not None:
        rotations = resampled_rotations(count, generator, measured_orientations, settings.orientation_spread_degrees)
    elif settings.preferred_views:
        views = settings.parsed_preferred_views()
        uniform_share = settings.preferred_uniform
        weights = [weight for *_, weight in views]
        rotations = preferred_rotations(count, generator, [(rot, tilt) for rot, tilt, _ in views],
                                        [(1 - uniform_share) * weight / sum(weights) for weight in weights],
                                        settings.preferred_cone_degrees, uniform_share)
    else:
        rotations = uniform_rotations(count, generator)
    if settings.ice_tilt_degrees:
        rotations = _tilt_rotation(settings.ice_tilt_degrees, settings.ice_tilt_axis_degrees) @ rotations
    return to_asymmetric_unit(rotations, settings.symmetry) if count else rotations


def draw_map_indices(proportions: tuple[float, ...], count: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """Draw the map of each particle.

    Parameters
    ----------
    proportions
        Relative frequency of each map; need not add up to 1.
    count
        Number of particles.
    generator
        Random generator.

    Returns
    -------
    Index of the map of each particle, from 0.
    """
    edges = torch.tensor(proportions, dtype=torch.float64).cumsum(0)
    chance = torch.rand(count, generator=generator, dtype=torch.float64) * edges[-1]
    return torch.searchsorted(edges, chance, right=True).clamp(max=len(proportions) - 1)


def draw_heights(settings: SimulateSettings, centres: Float[Tensor, "n 2"], pixel_size: float,
                 generator: torch.Generator) -> Float[Tensor, " n"]:
    """Draw the height of each particle (Å), uniform over the thickness of the ice, which may be tilted.

    Parameters
    ----------
    settings
        Settings of the simulation: thickness and tilt of the ice, micrograph size.
    centres
        (y, x), pixels.
    pixel_size
        Å per pixel.
    generator
        Random generator.
    """
    depth_fraction = torch.rand(len(centres), generator=generator, dtype=torch.float64) - 0.5
    plane_height = plane_heights(centres.double(), settings.micrograph_size, pixel_size, settings.ice_tilt_degrees,
                                 settings.ice_tilt_axis_degrees)
    return plane_height + depth_fraction * settings.ice_thickness_angstrom


def _tilt_rotation(tilt_degrees: float, axis_degrees: float) -> Float[Tensor, "3 3"]:
    """Rotation matrix, on (x, y, z), of a tilt about an axis in the image plane."""
    x, y = math.cos(math.radians(axis_degrees)), math.sin(math.radians(axis_degrees))
    cross = torch.tensor([[0, 0, y], [0, 0, -x], [-y, x, 0]], dtype=torch.float64)
    tilt = math.radians(tilt_degrees)
    return torch.eye(3, dtype=torch.float64) + math.sin(tilt) * cross + (1 - math.cos(tilt)) * cross @ cross
