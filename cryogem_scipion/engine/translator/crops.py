# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpaired pieces of real and simulated micrographs, cut, turned and mirrored on the fly."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.exposure import Exposure

__all__ = ["Image", "RealMicrographs", "SimulatedCrops", "SimulatedMicrographs", "draw_real_crops", "draw_simulated_crops"]

BRIGHT, DARK = 10.0, -40.0
"""Deviations of the noise to which pixels are cut: hot pixels above; contaminants are darker than anything else."""


@runtime_checkable
class Image(Protocol):
    """An array, or something on disk that gives parts of itself as arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(y, x)."""

    def __getitem__(self, window: tuple[slice, slice], /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class RealMicrographs:
    """Real micrographs to cut from; the arrays may stay on disk."""

    images: Sequence[Image]
    """(y, x), grey values."""
    medians: Sequence[float]
    spreads: Sequence[float]
    """Grey values of one deviation of the noise, for each micrograph."""


@dataclass(frozen=True)
class SimulatedMicrographs:
    """Clean images 1 - s, with their masks; the arrays may stay on disk."""

    clean: Sequence[Image]
    masks: Sequence[Image]
    contrast: float = 1.0
    """s is multiplied by this."""
    exposures: Sequence[Exposure] = ()
    """Of each image, where they are known."""


@dataclass(frozen=True)
class SimulatedCrops:
    """Pieces of clean images."""

    clean: Float[Tensor, "b y x"]
    masks: Float[Tensor, "b y x"]
    exposures: tuple[Exposure | None, ...]
    """Turned and mirrored with their pieces."""


def draw_real_crops(pieces: RealMicrographs, crop: int, batch: int, generator: torch.Generator) -> Float[Tensor, "b y x"]:
    """Pieces of real micrographs, in deviations of the noise around the background."""
    result = []
    for _ in range(batch):
        number, cut = _draw(pieces.images, crop, generator)
        piece = _piece(pieces.images[number], cut)
        values = (piece - pieces.medians[number]) / pieces.spreads[number]
        result.append(values.nan_to_num(0.0, BRIGHT, DARK).clamp(DARK, BRIGHT))
    return torch.stack(result)


def draw_simulated_crops(pieces: SimulatedMicrographs, crop: int, batch: int, generator: torch.Generator) -> SimulatedCrops:
    """Pieces of clean images, with their masks and exposures."""
    clean, masks, exposures = [], [], []
    for _ in range(batch):
        number, cut = _draw(pieces.clean, crop, generator)
        clean.append(1 - pieces.contrast * (1 - _piece(pieces.clean[number], cut)))
        masks.append(_piece(pieces.masks[number], cut))
        exposures.append(pieces.exposures[number].turned(cut.turns, cut.mirrored) if pieces.exposures else None)
    return SimulatedCrops(torch.stack(clean), torch.stack(masks), tuple(exposures))


@dataclass(frozen=True)
class _Cut:
    rows: slice
    columns: slice
    turns: int
    mirrored: bool


def _draw(images: Sequence[Image], crop: int, generator: torch.Generator) -> tuple[int, _Cut]:
    """An image, the more often the larger it is, and a place in it."""
    sizes = [image.shape for image in images]
    if not sizes or min(min(size) for size in sizes) < crop:
        smallest = min(sizes, key=min) if sizes else "none"
        raise DataError(f"the smallest of {len(sizes)} micrographs has {smallest} pixels; pieces of {crop} need a "
                        "smaller crop, or larger micrographs")
    areas = torch.tensor([float(y * x) for y, x in sizes])
    number = int(torch.multinomial(areas, 1, generator=generator))
    y, x = sizes[number]
    corner = [int(torch.randint(size - crop + 1, (), generator=generator)) for size in (y, x)]
    turns, mirrored = (int(torch.randint(n, (), generator=generator)) for n in (4, 2))
    return number, _Cut(slice(corner[0], corner[0] + crop), slice(corner[1], corner[1] + crop), turns, bool(mirrored))


def _piece(image: Image, cut: _Cut) -> Float[Tensor, "y x"]:
    piece = torch.from_numpy(np.array(image[cut.rows, cut.columns], np.float32))
    piece = torch.rot90(piece, cut.turns)
    return piece.flip(1) if cut.mirrored else piece
