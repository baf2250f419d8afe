# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of any size through a network, piece by piece and without seams."""
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.translator.networks import Generator, latent_noise

__all__ = ["TILE", "largest_tile", "tiled"]

TILE = 512
"""Edge (px) of the pieces that networks of finite view take, the margin apart."""


@torch.no_grad()
def translate_in_tiles(network: Generator, image: Float[Tensor, "y x"], generator: torch.Generator) -> Float[Tensor, "y x"]:
    """Translate an image of any size; beyond its borders the network sees it mirrored.

    A network of finite view gives exactly what the whole image would have given. One that
    normalises over its field is run on fields of the size it was trained on, which overlap and fade
    into each other.
    """
    return _exact(network, image, generator) if network.exact_tiles else _faded(network, image)


def largest_tile(network: Generator) -> int:
    """Edge (px) of the largest piece that a network is given at a time."""
    return TILE + 2 * _up(network.margin, network.multiple) if network.exact_tiles else network.multiple


def _exact(network: Generator, image: Float[Tensor, "y x"], generator: torch.Generator) -> Float[Tensor, "y x"]:
    multiple = network.multiple
    margin = _up(network.margin, multiple)
    canvas = _mirrored(image, (margin, margin), tuple(_up(size + 2 * margin, multiple) for size in image.shape))
    latent = latent_noise(network, 1, (canvas.shape[0], canvas.shape[1]), generator)
    device = next(network.parameters()).device
    result = torch.empty_like(canvas)
    tile = _up(TILE, multiple)
    for corner in ((top, left) for top in range(margin, margin + image.shape[0], tile)
                   for left in range(margin, margin + image.shape[1], tile)):
        inner = [slice(start, min(size, start + tile)) for start, size in zip(corner, canvas.shape, strict=True)]
        outer = [slice(part.start - margin, min(size, part.stop + margin))
                 for part, size in zip(inner, canvas.shape, strict=True)]
        seen = None if latent is None else [
            noise[..., outer[0].start // step:outer[0].stop // step, outer[1].start // step:outer[1].stop // step]
            for noise, step in zip(latent, (8, 16), strict=True)]
        made, _ = network(canvas[outer[0], outer[1]][None, None].to(device), seen)
        rows, columns = (slice(margin, margin + part.stop - part.start) for part in inner)
        result[inner[0], inner[1]] = made[0, 0, rows, columns].to(result)
    return result[margin:margin + image.shape[0], margin:margin + image.shape[1]]


def _faded(network: Generator, image: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
    edge = network.multiple
    # The outermost pixels of a field see the padding of the convolutions: they lie beyond the border.
    margin = edge // 16
    canvas = _mirrored(image, (margin, margin), tuple(max(edge, size + 2 * margin) for size in image.shape))
    device = next(network.parameters()).device
    ramp = (torch.arange(edge) + 0.5 - margin).clamp(min=0) / max(edge // 8 - margin, 1)
    ramp = torch.minimum(ramp, ramp.flip(0)).clamp(1e-6, 1)
    window = torch.outer(ramp, ramp).to(canvas)
    total, weight = torch.zeros_like(canvas), torch.zeros_like(canvas)
    for top in _starts(canvas.shape[0], edge, edge // 8):
        for left in _starts(canvas.shape[1], edge, edge // 8):
            rows, columns = slice(top, top + edge), slice(left, left + edge)
            made, _ = network(canvas[rows, columns][None, None].to(device), None)
            total[rows, columns] += window * made[0, 0].to(canvas)
            weight[rows, columns] += window
    return (total / weight)[margin:margin + image.shape[0], margin:margin + image.shape[1]]


def _starts(size: int, edge: int, overlap: int) -> list[int]:
    """Evenly spread first pixels of fields that cover ``size`` and overlap at least so much."""
    count = 1 + max(0, -(-(size - edge) // (edge - overlap)))
    return [round(i * (size - edge) / max(count - 1, 1)) for i in range(count)]


def _mirrored(image: Float[Tensor, "y x"], before: tuple[int, int], shape: tuple[int, ...]) -> Float[Tensor, "v u"]:
    """The image within a larger one, mirrored at its borders as often as it takes."""
    result = image
    for axis in (0, 1):
        size = image.shape[axis]
        place = (torch.arange(shape[axis]) - before[axis]) % max(2 * size - 2, 1)
        result = result.index_select(axis, torch.minimum(place, 2 * size - 2 - place).clamp(min=0).to(image.device))
    return result


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
