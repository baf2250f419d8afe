# SPDX-License-Identifier: GPL-3.0-or-later
"""Texture features by fixed random filters, without a trained network."""
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cryogem_scipion.engine.errors import DataError

__all__ = ["SQUARE_EDGE", "random_filter_features"]

SQUARE_EDGE = 64
"""Edge (px) of the squares that have a feature vector each."""
CHANNELS = (8, 12, 16)
"""Number of filters at each of three scales."""


def random_filter_features(image: Float[Tensor, "y x"]) -> Float[Tensor, "squares features"]:
    """Mean and standard deviation of the responses of random filters at three scales, for each square of an image.

    The filters are always the same. Random filters distinguish textures about as well as trained ones
    (arXiv:1606.01286), and no training has adapted them to one kind of image.

    Raises
    ------
    DataError
        The image is smaller than a square.
    """
    if min(image.shape) < SQUARE_EDGE:
        raise DataError(f"the image has {' x '.join(map(str, image.shape))} pixels (y x), but at least {SQUARE_EDGE} "
                        "on each side are needed; give larger images")
    height, width = (size // SQUARE_EDGE * SQUARE_EDGE for size in image.shape)
    maps = image[None, None, :height, :width].to(torch.float32)
    features, edge = [], SQUARE_EDGE
    for weights in _filters():
        maps = functional.conv2d(functional.pad(maps, (2, 2, 2, 2), mode="reflect"), weights.to(maps), stride=2)
        edge //= 2
        mean, mean_square = (functional.avg_pool2d(values, edge)[0].flatten(1)
                             for values in (maps.abs(), maps.square()))
        features += [mean, (mean_square - mean.square()).clamp(min=0).sqrt()]
        maps = maps.abs()
    return torch.cat(features).T


def _filters() -> list[Float[Tensor, "_ _ 5 5"]]:
    """Weights of the three scales. Each filter has mean 0 and norm 1: it does not respond to a constant image."""
    generator = torch.Generator().manual_seed(0)
    weights = []
    for channels_in, channels_out in zip((1, *CHANNELS), CHANNELS, strict=False):
        drawn = torch.randn(channels_out, channels_in, 5, 5, generator=generator)
        drawn = drawn - drawn.mean((2, 3), keepdim=True)
        weights.append(drawn / drawn.square().sum((1, 2, 3), keepdim=True).sqrt())
    return weights
