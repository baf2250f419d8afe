# SPDX-License-Identifier: GPL-3.0-or-later
"""Generators and discriminators by name, and the projection networks of the contrastive loss."""
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.translator.published_networks import PatchDiscriminator, PublishedGenerator
from cryogem_scipion.engine.translator.residual_networks import MultiscaleDiscriminator, ResidualGenerator

__all__ = ["Discriminator", "Generator", "PatchProjections", "build_discriminator", "build_generator", "latent_noise"]

Generator = PublishedGenerator | ResidualGenerator
Discriminator = PatchDiscriminator | MultiscaleDiscriminator

MAX_WIDTH, MAX_LEVELS = 1024, 14
"""Largest width (channels) and number of levels of a generator. Larger values come from damaged files."""


class PatchProjections(nn.Module):
    """One two-layer network for each encoder layer, which projects features to unit vectors.

    References
    ----------
    doi:10.1007/978-3-030-58545-7_19
    """

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        for layer, count in enumerate(channels):
            first, second = nn.Linear(count, width), nn.Linear(width, width)
            for linear in (first, second):
                nn.init.xavier_normal_(linear.weight, 0.02 * math.sqrt(width))
                nn.init.zeros_(linear.bias)
            self.add_module(f"mlp_{layer}", nn.Sequential(first, nn.ReLU(), second))

    def forward(self, layer: int, features: Float[Tensor, "points channels"]) -> Float[Tensor, "points width"]:
        """Unit vectors for the features of a layer."""
        return nn.functional.normalize(self.get_submodule(f"mlp_{layer}")(features), dim=1, eps=1e-7)


def build_generator(config: dict[str, Any]) -> Generator:
    """Generator with random weights.

    Parameters
    ----------
    config
        ``name``: residual or published. ``width``: number of channels. For published also ``levels``, the logarithm
        to base 2 of the crop, and ``scale``.

    Raises
    ------
    SettingsError
        The name is unknown, or the width or the number of levels is out of range.
    """
    values = dict(config)
    name = values.pop("name", None)
    if not (0 < int(values.get("width", 1)) <= MAX_WIDTH and 0 < int(values.get("levels", 1)) <= MAX_LEVELS):
        raise SettingsError(f"generator {config} is out of range; give a width up to {MAX_WIDTH} and up to "
                            f"{MAX_LEVELS} levels")
    if name == "residual":
        return ResidualGenerator(**values)
    if name == "published":
        return PublishedGenerator(**values)
    raise SettingsError(f"generator {name!r} does not exist; choose residual or published")


def build_discriminator(config: dict[str, Any]) -> Discriminator:
    """Discriminator with random weights.

    Parameters
    ----------
    config
        ``name``: multiscale or patch. ``width``: number of channels of the first layer.

    Raises
    ------
    SettingsError
        The name is unknown.
    """
    values = dict(config)
    name = values.pop("name", None)
    if name == "multiscale":
        return MultiscaleDiscriminator(**values)
    if name == "patch":
        return PatchDiscriminator(**values)
    raise SettingsError(f"discriminator {name!r} does not exist; choose multiscale or patch")


def latent_noise(network: Generator, batch: int, shape: tuple[int, int],
                 generator: torch.Generator) -> list[Tensor] | None:
    """Random latent noise at 1/8 and 1/16 of the image size, or None if the network takes no latent noise.

    Parameters
    ----------
    batch
        Number of images.
    shape
        Size (y, x) of the images in pixels, a multiple of ``network.multiple``.
    generator
        Random generator on the CPU.

    Returns
    -------
    Tensors (batch, channels, y / 8, x / 8) and (batch, channels, y / 16, x / 16) on the device of the network.
    """
    if not network.latent_channels:
        return None
    device = next(network.parameters()).device
    return [torch.randn(batch, network.latent_channels, shape[0] // reduction, shape[1] // reduction,
                        generator=generator).to(device) for reduction in (8, 16)]
