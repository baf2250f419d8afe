# SPDX-License-Identifier: GPL-3.0-or-later
"""Random crops of real and simulated micrographs, rotated and mirrored when they are read."""
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

__all__ = ["ImageArray", "RealImages", "SimulatedCrops", "SimulatedImages", "draw_real_crops",
           "draw_simulated_crops"]

MAX_DEVIATION, MIN_DEVIATION = 10.0, -40.0
"""Limits to which grey values are clipped, in standard deviations of the noise. Hot pixels lie above the upper limit.
The lower limit leaves room for contaminants, which are darker than everything else."""


@runtime_checkable
class ImageArray(Protocol):
    """Two-dimensional array, or an image on disk that is read window by window."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(y, x)."""

    def __getitem__(self, window: tuple[slice, slice], /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class RealImages:
    """Images of real micrographs and the grey scale of each; the images can stay on disk."""

    images: Sequence[ImageArray]
    """(y, x), grey values."""
    medians: Sequence[float]
    """Median grey value of each micrograph."""
    spreads: Sequence[float]
    """Grey-value difference of one standard deviation of the noise, for each micrograph."""


@dataclass(frozen=True)
class SimulatedImages:
    """Clean images 1 - s and their masks; the images can stay on disk."""

    clean: Sequence[ImageArray]
    """(y, x)."""
    masks: Sequence[ImageArray]
    """(y, x), 1 inside particles."""
    signal_factor: float = 1.0
    """Factor by which the signal s is multiplied; ``SimulatedSet.signal_factor``."""
    exposures: Sequence[Exposure] = ()
    """Exposure of each image; empty if they are not known."""


@dataclass(frozen=True)
class SimulatedCrops:
    """Batch of crops of clean images."""

    clean: Float[Tensor, "b y x"]
    masks: Float[Tensor, "b y x"]
    exposures: tuple[Exposure | None, ...]
    """Exposure of each crop, rotated and mirrored with it."""


def draw_real_crops(micrographs: RealImages, edge: int, batch: int,
                    generator: torch.Generator) -> Float[Tensor, "b y x"]:
    """Random crops of real micrographs, in standard deviations of the noise around the median.

    Parameters
    ----------
    edge
        Edge (px) of the crops.
    batch
        Number of crops.
    generator
        Random generator of the places and orientations.

    Raises
    ------
    DataError
        A micrograph is smaller than the crops, or there is none.
    """
    crops = []
    for _ in range(batch):
        index, window = _draw_window(micrographs.images, edge, generator)
        crop = _read_crop(micrographs.images[index], window)
        deviations = (crop - micrographs.medians[index]) / micrographs.spreads[index]
        crops.append(deviations.nan_to_num(0.0, MAX_DEVIATION, MIN_DEVIATION).clamp(MIN_DEVIATION, MAX_DEVIATION))
    return torch.stack(crops)


def draw_simulated_crops(micrographs: SimulatedImages, edge: int, batch: int,
                         generator: torch.Generator) -> SimulatedCrops:
    """Random crops of clean images, with their masks and exposures.

    Parameters
    ----------
    edge
        Edge (px) of the crops.
    batch
        Number of crops.
    generator
        Random generator of the places and orientations.

    Raises
    ------
    DataError
        A micrograph is smaller than the crops, or there is none.
    """
    clean, masks, exposures = [], [], []
    for _ in range(batch):
        index, window = _draw_window(micrographs.clean, edge, generator)
        clean.append(1 - micrographs.signal_factor * (1 - _read_crop(micrographs.clean[index], window)))
        masks.append(_read_crop(micrographs.masks[index], window))
        exposures.append(micrographs.exposures[index].turned(window.quarter_turns, window.mirrored)
                         if micrographs.exposures else None)
    return SimulatedCrops(torch.stack(clean), torch.stack(masks), tuple(exposures))


@dataclass(frozen=True)
class _CropWindow:
    """Place of a crop in its micrograph, and how it is rotated and mirrored."""

    rows: slice
    columns: slice
    quarter_turns: int
    mirrored: bool


def _draw_window(images: Sequence[ImageArray], edge: int, generator: torch.Generator) -> tuple[int, _CropWindow]:
    """Index of an image, drawn with a probability proportional to its area, and a window in it."""
    shapes = [image.shape for image in images]
    if not shapes or min(min(shape) for shape in shapes) < edge:
        smallest = min(shapes, key=min) if shapes else "none"
        raise DataError(f"the smallest of {len(shapes)} micrographs has {smallest} pixels (y x), less than a crop of "
                        f"{edge}; give a smaller crop, or larger micrographs")
    areas = torch.tensor([float(y * x) for y, x in shapes])
    index = int(torch.multinomial(areas, 1, generator=generator))
    y, x = shapes[index]
    top, left = (int(torch.randint(size - edge + 1, (), generator=generator)) for size in (y, x))
    quarter_turns, mirrored = (int(torch.randint(n, (), generator=generator)) for n in (4, 2))
    return index, _CropWindow(slice(top, top + edge), slice(left, left + edge), quarter_turns, bool(mirrored))


def _read_crop(image: ImageArray, window: _CropWindow) -> Float[Tensor, "y x"]:
    crop = torch.from_numpy(np.array(image[window.rows, window.columns], np.float32))
    crop = torch.rot90(crop, window.quarter_turns)
    return crop.flip(1) if window.mirrored else crop
