# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of both sets at each scale, kept in a limited amount of memory, and squares drawn from them."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute.parallel import map_in_order
from cryogem_scipion.engine.compute.resampling import fourier_crop
from cryogem_scipion.engine.compute.robust import robust_deviation
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.real_micrograph import evenly_spaced
from cryogem_scipion.engine.realism.micrograph_sets import MicrographSet
from cryogem_scipion.engine.realism.two_sample.scales import Scale
from cryogem_scipion.engine.runs.progress import track_progress

__all__ = ["CLIPPED_AT", "ImageStack", "draw_squares", "read_stacks", "square_positions"]

MAX_MICROGRAPHS = 32
"""Largest number of micrographs of a set; they are spread evenly over it."""
WINDOW_EDGE = 1536
"""Largest edge (px) that is kept of an image at one scale. Larger images are cut to one of their corners."""
CLIPPED_AT = 8.0
"""Grey values are clipped at this many robust deviations, so that hot pixels decide nothing."""


@dataclass(frozen=True)
class ImageStack:
    """Micrographs of one set at one scale. Each was brought to median 0 and robust deviation 1 before resampling."""

    files: tuple[Path, ...]
    images: tuple[Tensor, ...]
    """float16, (y, x), all divided by the same number for both sets."""
    band_statistics: Tensor | None = None
    """(micrograph, v, u, statistics): statistics of frequency bands of each image, at the scale of bands only."""


def read_stacks(sets: Sequence[MicrographSet], scales: Sequence[Scale], threads: int) -> list[list[ImageStack]]:
    """Read the micrographs of both sets, each file once.

    Parameters
    ----------
    sets
        Generated and real set, with the same working pixel size.
    scales
        Pixel sizes of the images.
    threads
        Number of micrographs that are read at the same time.

    Returns
    -------
    For each scale, one stack for each set. Scales with the same pixel size share their images. Images of a scale have
    standard deviation 1 over both sets.

    Raises
    ------
    DataError
        A micrograph has no contents.
    """
    pixel_sizes = list(dict.fromkeys(scale.pixel_size for scale in scales))
    images: list[list[list[Tensor]]] = []
    chosen = [tuple(evenly_spaced(micrographs.files, MAX_MICROGRAPHS)) for micrographs in sets]
    for micrographs, files in zip(sets, chosen, strict=True):
        def resampled(item: tuple[int, Path], source: MicrographSet = micrographs) -> list[Tensor]:
            image = _standardised(source.image(item[1]), item[1])
            return [_corner(_resampled(image, pixel_size / source.working_pixel_size), item[0]).half()
                    for pixel_size in pixel_sizes]

        results = map_in_order(resampled, enumerate(files), threads)
        images.append(list(track_progress(results, len(files), f"two-sample test: reading {micrographs.name}")))
    stacks = {}
    for index, pixel_size in enumerate(pixel_sizes):
        of_scale = [[image[index] for image in one_set] for one_set in images]
        factor = 1 / _deviation(of_scale)
        stacks[pixel_size] = [ImageStack(files, tuple((image.float() * factor).half() for image in one_set))
                              for files, one_set in zip(chosen, of_scale, strict=True)]
    return [stacks[scale.pixel_size] for scale in scales]


def square_positions(shape: tuple[int, int], edge: int, count: int, generator: torch.Generator
                     ) -> list[tuple[int, int]]:
    """First pixels (y, x) of random squares.

    Positions outside the image are moved to its border. So squares that touch the border are not rare.

    Parameters
    ----------
    shape
        Size (y, x) of the image in pixels.
    edge
        Edge of a square in pixels.
    count
        Number of squares.
    generator
        Random generator of the positions.
    """
    margin = edge // 4
    axes = []
    for size in shape:
        drawn = torch.randint(-margin, size - edge + margin + 1, (count,), generator=generator)
        axes.append(drawn.clamp(0, size - edge).tolist())
    return list(zip(*axes, strict=True))


def draw_squares(images: Sequence[Tensor], edge: int, count: int, generator: torch.Generator
                 ) -> Float[Tensor, "count 1 edge edge"]:
    """Random squares of random images, in one of the eight orientations of a square each; float32.

    Parameters
    ----------
    images
        Images (y, x) of one set.
    edge
        Edge of a square in pixels.
    count
        Number of squares.
    generator
        Random generator of images, positions and orientations.
    """
    squares = []
    for index in torch.randint(len(images), (count,), generator=generator).tolist():
        image = images[index]
        ((y, x),) = square_positions((image.shape[0], image.shape[1]), edge, 1, generator)
        turn = int(torch.randint(8, (), generator=generator))
        square = image[y:y + edge, x:x + edge].rot90(turn % 4)
        squares.append(square.flip(1) if turn >= 4 else square)
    return torch.stack(squares)[:, None].float()


def _standardised(image: Float[Tensor, "y x"], path: Path) -> Float[Tensor, "y x"]:
    deviation = robust_deviation(image)
    if not deviation > 0:
        raise DataError(f"more than half of the pixels of {path} have the same value; give a micrograph with contents")
    return ((image - image.median()) / deviation).clamp(-CLIPPED_AT, CLIPPED_AT)


def _resampled(image: Float[Tensor, "y x"], ratio: float) -> Float[Tensor, "v u"]:
    """The image with pixels that are ``ratio`` times as large."""
    if ratio <= 1:
        return image
    return fourier_crop(image, (round(image.shape[0] / ratio), round(image.shape[1] / ratio)))


def _corner(image: Float[Tensor, "y x"], index: int) -> Float[Tensor, "v u"]:
    """The whole image, or one of its corners if it is too large; the corners take turns."""
    y, x = image.shape
    rows = slice(0, WINDOW_EDGE) if index % 2 == 0 else slice(max(0, y - WINDOW_EDGE), y)
    columns = slice(0, WINDOW_EDGE) if index // 2 % 2 == 0 else slice(max(0, x - WINDOW_EDGE), x)
    return image[rows, columns].clone()


def _deviation(images: Sequence[Sequence[Tensor]]) -> float:
    """Root of the mean variance over all images of both sets."""
    variances = [float(image.float().var()) for one_set in images for image in one_set]
    return math.sqrt(sum(variances) / len(variances))
