# SPDX-License-Identifier: GPL-3.0-or-later
"""Contaminants: ice crystals, aggregates and carbon edges, cut from real micrographs and laid over generated images.

A contaminant is a region of a real micrograph, with the noise in it. It hides the particles under it.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

__all__ = ["Contaminant", "ContaminantLayer", "FieldPart", "draw_field_part", "hidden_particles", "lay_contaminants",
           "opacity_map"]

MAX_TRIES = 10
"""Largest number of places that are tried for a contaminant. If all are occupied, it is left out."""
MAX_STRETCH = 1.25
"""Largest factor by which a fixed contaminant is stretched together with its micrograph's field."""
STRAGGLING = 4.0
"""Area of a region, in areas of the largest circle inside it, from which it is not one object. Ice crystals and
aggregates have at most 3.7, a network of edges of particles that lie over each other has more."""


@dataclass(frozen=True)
class FieldPart:
    """Part of a real micrograph, rotated and mirrored, from which an image gets its ice and contaminants."""

    index: int
    """Index of the real micrograph, or of its ice map."""
    turns: int
    """Number of rotations by 90°, as in ``torch.rot90``."""
    mirrored: bool
    """Whether x is reversed after the rotation."""
    field: tuple[int, int]
    """Size (y, x) of the rotated micrograph in pixels; at least that of the image."""
    origin: tuple[float, float]
    """Position (y, x) of the image's first pixel in the rotated micrograph."""


@dataclass(frozen=True)
class Contaminant:
    """A region of a real micrograph that contains neither particles nor noise only, but for example an ice crystal."""

    values: Float[Tensor, "y x"]
    """Grey values without ice, in standard deviations of the noise around the background."""
    opacity: Float[Tensor, "y x"]
    """From 0 at the edge to 1."""
    corner: tuple[int, int]
    """Position (y, x) of its first pixel on the real micrograph."""
    fixed: bool
    """Whether it stays at its place: carbon edges, and contaminants that the border of the micrograph cuts."""

    @property
    def movable(self) -> bool:
        """Whether it may lie anywhere on a generated image.

        A network of edges may not: particles that lie over each other differ from single ones at their edges only, and
        these look like nothing real elsewhere.
        """
        mask = self.opacity.numpy() > 0.5
        radius = float(ndimage.distance_transform_edt(np.pad(mask, 1)).max())
        return not self.fixed and float(mask.sum()) < STRAGGLING * math.pi * radius**2

    def turned(self, part: FieldPart, field: tuple[int, int]) -> "Contaminant":
        """Return the contaminant rotated and mirrored as in the part; ``field`` is the micrograph's size."""
        values, opacity, (y, x) = self.values, self.opacity, self.corner
        for _ in range(part.turns):
            y, x = field[1] - x - values.shape[1], y
            values, opacity, field = values.rot90(), opacity.rot90(), (field[1], field[0])
        if part.mirrored:
            values, opacity, x = values.flip(1), opacity.flip(1), field[1] - x - values.shape[1]
        return Contaminant(values, opacity, (y, x), self.fixed)


@dataclass(frozen=True)
class ContaminantLayer:
    """The contaminants of one image as one layer."""

    values: Float[Tensor, "y x"]
    """Grey values without ice, in standard deviations of the noise around the background."""
    opacity: Float[Tensor, "y x"]
    """From 0 to 1."""

    def over(self, image: Float[Tensor, "y x"], ice: Float[Tensor, "y x"],
             background_deviation: float) -> Float[Tensor, "y x"]:
        """Return the image with the contaminants over it.

        Parameters
        ----------
        image, ice
            The image and its ice map, in units of transmission.
        background_deviation
            σ_n: standard deviation of the background divided by its mean.
        """
        contaminants = ice * (1 + background_deviation * self.values.to(image))
        return torch.lerp(image, contaminants, self.opacity.to(image))


def draw_field_part(fields: Sequence[tuple[int, int]], shape: tuple[int, int], generator: torch.Generator,
                    chosen: int | None = None) -> FieldPart:
    """Draw a random part of one of the real micrographs (or of the chosen one), randomly rotated and mirrored.

    A micrograph that is smaller than the image of ``shape`` is stretched to its size.

    Parameters
    ----------
    fields
        Size (y, x) of each real micrograph, pixels.
    chosen
        Index of the real micrograph; None draws one.
    """
    drawn, turns, mirror = (int(torch.randint(n, (), generator=generator)) for n in (len(fields), 4, 2))
    index = drawn if chosen is None else chosen
    field = fields[index] if turns % 2 == 0 else fields[index][::-1]
    field = (max(field[0], shape[0]), max(field[1], shape[1]))
    start = torch.rand(2, generator=generator).tolist()
    origin = (start[0] * (field[0] - shape[0]), start[1] * (field[1] - shape[1]))
    return FieldPart(index, turns, bool(mirror), field, origin)


def lay_contaminants(contaminants: Sequence[Contaminant], field: tuple[int, int], part: FieldPart,
                     shape: tuple[int, int], generator: torch.Generator) -> ContaminantLayer | None:
    """Lay out the contaminants of a real micrograph: fixed contaminants in their places, the others at random places.

    Parameters
    ----------
    contaminants
        Contaminants of the part's micrograph, or the movable contaminants of another micrograph.
    field
        Size (y, x) in pixels of the micrograph that they were cut from.

    Returns
    -------
    One layer; None if no contaminant reaches into the image.
    """
    values, opacity = torch.zeros(shape), torch.zeros(shape)
    turned = field if part.turns % 2 == 0 else field[::-1]
    for contaminant in contaminants:
        placed = _stretched(contaminant.turned(part, field), turned, part) if contaminant.fixed else None
        if placed is not None:
            _put(placed, part, values, opacity)
    occupied = opacity > 0
    for contaminant in contaminants:
        if contaminant.fixed:
            continue
        movable = contaminant.turned(part, field)
        for _ in range(MAX_TRIES):
            fractions = torch.rand(2, generator=generator).tolist()
            corner = [int(fraction * max(0, whole - edge + 1)) for fraction, whole, edge in
                      zip(fractions, part.field, movable.values.shape, strict=True)]
            placed = replace(movable, corner=(corner[0], corner[1]))
            windows = _windows(placed, part, shape)
            # A contaminant includes the background around it, which does not fit on carbon.
            if windows is None or not bool(occupied[windows[1]].any()):
                _put(placed, part, values, opacity)
                break
    return ContaminantLayer(values, opacity) if bool(opacity.any()) else None


def hidden_particles(layer: ContaminantLayer | None, centres: Float[Tensor, "n 2"]) -> Bool[Tensor, " n"]:
    """Return for each particle whether a contaminant lies over its centre (y, x)."""
    if layer is None:
        return torch.zeros(len(centres), dtype=torch.bool)
    y, x = (centres[:, axis].round().long().clamp(0, edge - 1).cpu() for axis, edge in enumerate(layer.opacity.shape))
    return layer.opacity[y, x] > 0.5


def opacity_map(contaminants: Sequence[Contaminant], shape: tuple[int, int]) -> Float[Tensor, "y x"]:
    """Return the opacity of contaminants at their places on their own micrograph."""
    opacity = torch.zeros(shape)
    for contaminant in contaminants:
        window = tuple(slice(start, start + edge) for start, edge in
                       zip(contaminant.corner, contaminant.opacity.shape, strict=True))
        opacity[window] = torch.maximum(opacity[window], contaminant.opacity)
    return opacity


def _stretched(contaminant: Contaminant, field: tuple[int, int], part: FieldPart) -> Contaminant | None:
    """A fixed contaminant stretched to the part's field; None if the factor is too large."""
    factors = [after / before for before, after in zip(field, part.field, strict=True)]
    if max(factors) == 1.0:
        return contaminant
    if max(factors) > MAX_STRETCH:
        return None
    starts = [round(corner * factor) for corner, factor in zip(contaminant.corner, factors, strict=True)]
    ends = [round((corner + edge) * factor) for corner, edge, factor in
            zip(contaminant.corner, contaminant.values.shape, factors, strict=True)]
    size = [max(1, end - start) for start, end in zip(starts, ends, strict=True)]
    values, opacity = (torch.nn.functional.interpolate(image[None, None], size, mode="nearest-exact")[0, 0]
                      for image in (contaminant.values, contaminant.opacity))
    return Contaminant(values, opacity, (starts[0], starts[1]), True)


def _put(contaminant: Contaminant, part: FieldPart, values: Float[Tensor, "y x"],
         opacity: Float[Tensor, "y x"]) -> None:
    """Write a contaminant into the layer. Where two overlap, the one with the higher opacity is visible."""
    windows = _windows(contaminant, part, (values.shape[0], values.shape[1]))
    if windows is None:
        return
    source, target = windows
    above = contaminant.opacity[source] > opacity[target]
    values[target] = torch.where(above, contaminant.values[source], values[target])
    opacity[target] = torch.where(above, contaminant.opacity[source], opacity[target])


def _windows(contaminant: Contaminant, part: FieldPart,
             shape: tuple[int, int]) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """The part of a contaminant inside the image, and its place there; None if all of it lies outside."""
    first = [corner - int(start) for corner, start in
             zip(contaminant.corner, part.origin, strict=True)]
    low = [max(0, -start) for start in first]
    high = [min(edge, whole - start) for edge, whole, start in
            zip(contaminant.values.shape, shape, first, strict=True)]
    if any(end <= start for start, end in zip(low, high, strict=True)):
        return None
    source = tuple(slice(start, end) for start, end in zip(low, high, strict=True))
    return source, tuple(slice(start + offset, end + offset) for start, end, offset in
                         zip(low, high, first, strict=True))
