# SPDX-License-Identifier: GPL-3.0-or-later
"""Features of textures that no data has shaped: what fixed random filters see."""
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cryogem_scipion.engine.errors import DataError

__all__ = ["SQUARE", "textures"]

SQUARE = 64
"""Edge (px) of the squares that are described."""
CHANNELS = (8, 12, 16)
"""Filters at each of three scales."""


def textures(image: Float[Tensor, "y x"]) -> Float[Tensor, "squares features"]:
    """Mean and deviation of the responses of random filters, at three scales, in each square of an image.

    The filters are always the same: random weights tell textures apart about as well as trained ones (arXiv
    1606.01286), and nothing can be trained to please them.

    Raises
    ------
    DataError
        The image is smaller than a square.
    """
    if min(image.shape) < SQUARE:
        raise DataError(f"image of {' x '.join(map(str, image.shape))} pixels (y x); {SQUARE} a side are needed")
    height, width = (size // SQUARE * SQUARE for size in image.shape)
    maps = image[None, None, :height, :width].to(torch.float32)
    found, edge = [], SQUARE
    for weights in _filters():
        maps = functional.conv2d(functional.pad(maps, (2, 2, 2, 2), mode="reflect"), weights.to(maps), stride=2)
        edge //= 2
        mean, square = (functional.avg_pool2d(values, edge)[0].flatten(1) for values in (maps.abs(), maps.square()))
        found += [mean, (square - mean.square()).clamp(min=0).sqrt()]
        maps = maps.abs()
    return torch.cat(found).T


def _filters() -> list[Float[Tensor, "_ _ 5 5"]]:
    """Weights of the three scales; each filter has mean 0 and norm 1, so that flat grey says nothing."""
    random = torch.Generator().manual_seed(0)
    weights = []
    for before, after in zip((1, *CHANNELS), CHANNELS, strict=False):
        drawn = torch.randn(after, before, 5, 5, generator=random)
        drawn = drawn - drawn.mean((2, 3), keepdim=True)
        weights.append(drawn / drawn.square().sum((1, 2, 3), keepdim=True).sqrt())
    return weights
