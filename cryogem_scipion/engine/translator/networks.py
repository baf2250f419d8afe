# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks by name: generators, discriminators, and the projection of features to contrast them."""
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.translator.published_networks import PatchDiscriminator, PublishedGenerator
from cryogem_scipion.engine.translator.residual_networks import MultiscaleDiscriminator, ResidualGenerator

__all__ = ["PatchProjections", "discriminator", "generator", "latent_noise"]

Generator = PublishedGenerator | ResidualGenerator
Discriminator = PatchDiscriminator | MultiscaleDiscriminator

WIDEST, DEEPEST = 1024, 14
"""Channels and levels beyond which a description is taken for damaged rather than built."""


class PatchProjections(nn.Module):
    """One two-layer network for each encoder layer; its results are unit vectors."""

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        for layer, count in enumerate(channels):
            first, second = nn.Linear(count, width), nn.Linear(width, width)
            for part in (first, second):
                nn.init.xavier_normal_(part.weight, 0.02 * math.sqrt(width))
                nn.init.zeros_(part.bias)
            self.add_module(f"mlp_{layer}", nn.Sequential(first, nn.ReLU(), second))

    def forward(self, layer: int, features: Float[Tensor, "points channels"]) -> Float[Tensor, "points width"]:
        """Unit vectors of the features of a layer."""
        return nn.functional.normalize(self.get_submodule(f"mlp_{layer}")(features), dim=1, eps=1e-7)


def generator(config: dict[str, Any]) -> Generator:
    """Return the generator that a configuration describes, with fresh weights.

    Parameters
    ----------
    config
        ``name``: residual or published; ``width``; for published also ``levels`` = log2 of the crop,
        and ``scale``.

    Raises
    ------
    SettingsError
        There is no such network.
    """
    values = dict(config)
    name = values.pop("name", None)
    if not (0 < int(values.get("width", 1)) <= WIDEST and 0 < int(values.get("levels", 1)) <= DEEPEST):
        raise SettingsError(f"generator {config} is out of range; give a width up to {WIDEST} and up to {DEEPEST} "
                            "levels")
    if name == "residual":
        return ResidualGenerator(**values)
    if name == "published":
        return PublishedGenerator(**values)
    raise SettingsError(f"generator {name!r} does not exist; choose residual or published")


def discriminator(config: dict[str, Any]) -> Discriminator:
    """Return the discriminator that a configuration describes: ``name`` multiscale or patch, and ``width``."""
    values = dict(config)
    name = values.pop("name", None)
    if name == "multiscale":
        return MultiscaleDiscriminator(**values)
    if name == "patch":
        return PatchDiscriminator(**values)
    raise SettingsError(f"discriminator {name!r} does not exist; choose multiscale or patch")


def latent_noise(network: Generator, batch: int, shape: tuple[int, int],
                 random: torch.Generator) -> list[Tensor] | None:
    """Fresh noise for an image of ``shape`` (a multiple of the network's), or None where it takes none."""
    if not network.latent_channels:
        return None
    device = next(network.parameters()).device
    return [torch.randn(batch, network.latent_channels, shape[0] // reduction, shape[1] // reduction,
                        generator=random).to(device) for reduction in (8, 16)]
