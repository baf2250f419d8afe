# SPDX-License-Identifier: GPL-3.0-or-later
"""Translation of images of any size in overlapping tiles, without seams."""
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.translator.networks import Generator, latent_noise

__all__ = ["TILE", "largest_tile", "translate_in_tiles"]

TILE = 512
"""Edge (px) of the tiles, without their margin, for networks with a finite receptive field."""


@torch.no_grad()
def translate_in_tiles(network: Generator, image: Float[Tensor, "y x"],
                       generator: torch.Generator) -> Float[Tensor, "y x"]:
    """Translate an image of any size; it is mirrored at its borders.

    A network with a finite receptive field gives exactly the translation of the whole image. A network that
    normalises over its input gets tiles of the size that it was trained on; their translations are blended where they
    overlap.

    Parameters
    ----------
    image
        Physical image, in standard deviations of the noise.
    generator
        Random generator of the latent noise.
    """
    if network.exact_tiles:
        return _translate_exact_tiles(network, image, generator)
    return _translate_blended_tiles(network, image)


def largest_tile(network: Generator) -> int:
    """Edge (px) of the largest tile, with its margin, that the network translates at once."""
    return TILE + 2 * _round_up(network.margin, network.multiple) if network.exact_tiles else network.multiple


def _translate_exact_tiles(network: Generator, image: Float[Tensor, "y x"],
                           generator: torch.Generator) -> Float[Tensor, "y x"]:
    multiple = network.multiple
    margin = _round_up(network.margin, multiple)
    padded = _mirror(image, (margin, margin), tuple(_round_up(size + 2 * margin, multiple) for size in image.shape))
    latent = latent_noise(network, 1, (padded.shape[0], padded.shape[1]), generator)
    device = next(network.parameters()).device
    result = torch.empty_like(padded)
    tile = _round_up(TILE, multiple)
    for corner in ((top, left) for top in range(margin, margin + image.shape[0], tile)
                   for left in range(margin, margin + image.shape[1], tile)):
        inner = [slice(start, min(size, start + tile)) for start, size in zip(corner, padded.shape, strict=True)]
        outer = [slice(window.start - margin, min(size, window.stop + margin))
                 for window, size in zip(inner, padded.shape, strict=True)]
        tile_latent = None if latent is None else [
            noise[..., outer[0].start // step:outer[0].stop // step, outer[1].start // step:outer[1].stop // step]
            for noise, step in zip(latent, (8, 16), strict=True)]
        translated, _ = network(padded[outer[0], outer[1]][None, None].to(device), tile_latent)
        rows, columns = (slice(margin, margin + window.stop - window.start) for window in inner)
        result[inner[0], inner[1]] = translated[0, 0, rows, columns].to(result)
    return result[margin:margin + image.shape[0], margin:margin + image.shape[1]]


def _translate_blended_tiles(network: Generator, image: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
    edge = network.multiple
    # The zero padding of the convolutions changes the outermost pixels of a tile. At the border of the image these
    # pixels lie in the mirrored margin, which is cut off.
    margin = edge // 16
    padded = _mirror(image, (margin, margin), tuple(max(edge, size + 2 * margin) for size in image.shape))
    device = next(network.parameters()).device
    ramp = (torch.arange(edge) + 0.5 - margin).clamp(min=0) / max(edge // 8 - margin, 1)
    ramp = torch.minimum(ramp, ramp.flip(0)).clamp(1e-6, 1)
    window = torch.outer(ramp, ramp).to(padded)
    total, weight = torch.zeros_like(padded), torch.zeros_like(padded)
    for top in _starts(padded.shape[0], edge, edge // 8):
        for left in _starts(padded.shape[1], edge, edge // 8):
            rows, columns = slice(top, top + edge), slice(left, left + edge)
            translated, _ = network(padded[rows, columns][None, None].to(device), None)
            total[rows, columns] += window * translated[0, 0].to(padded)
            weight[rows, columns] += window
    return (total / weight)[margin:margin + image.shape[0], margin:margin + image.shape[1]]


def _starts(size: int, edge: int, overlap: int) -> list[int]:
    """First pixels of evenly spaced tiles that cover ``size`` pixels and overlap by ``overlap`` or more."""
    count = 1 + max(0, -(-(size - edge) // (edge - overlap)))
    return [round(i * (size - edge) / max(count - 1, 1)) for i in range(count)]


def _mirror(image: Float[Tensor, "y x"], before: tuple[int, int], shape: tuple[int, ...]) -> Float[Tensor, "v u"]:
    """Extend an image to ``shape`` by reflection, with ``before`` pixels above and to the left of it."""
    result = image
    for axis in (0, 1):
        size = image.shape[axis]
        index = (torch.arange(shape[axis]) - before[axis]) % max(2 * size - 2, 1)
        result = result.index_select(axis, torch.minimum(index, 2 * size - 2 - index).clamp(min=0).to(image.device))
    return result


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
