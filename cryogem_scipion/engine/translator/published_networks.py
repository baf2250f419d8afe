# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks in the published layout, parameter names and all (arXiv 2312.02235)."""
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PatchDiscriminator", "PublishedGenerator"]


class _Level(nn.Module):
    """One level of the U-Net, which holds all deeper ones."""

    def __init__(self, outer: int, inner: int, submodule: "_Level | None", outermost: bool) -> None:
        super().__init__()
        down = nn.Conv2d(outer if not outermost else 1, inner, 4, 2, 1)
        up = nn.ConvTranspose2d(inner if submodule is None else 2 * inner, outer, 4, 2, 1)
        # The names of the parameters count: an activation stands before the convolutions of all inner levels.
        self.down = nn.Sequential(down) if outermost else nn.Sequential(nn.Identity(), down)
        if submodule is not None:
            self.submodule = submodule
        self.up = nn.Sequential(nn.Identity(), up)
        self.normed_down = not outermost and submodule is not None
        self.outermost = outermost

    def descend(self, features: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        """What the next level takes, and the contrastive loss sees."""
        features = self.down(features)
        if self.normed_down:
            features = functional.instance_norm(features)
        return functional.leaky_relu(features, 0.2)

    def ascend(self, features: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        """From what lies below to what the level above takes."""
        features = self.up(functional.relu(features))
        return torch.tanh(features) if self.outermost else functional.instance_norm(features)


class PublishedGenerator(nn.Module):
    """U-Net of log2(crop) levels; 4 x 4 convolutions of stride 2, instance norm, output by tanh.

    It takes and returns images in [-1, 1]. ``scale`` is what 1 means: so many deviations of the noise.
    """

    latent_channels = 0
    exact_tiles = False

    def __init__(self, levels: int, width: int = 64, scale: float = 6.0) -> None:
        super().__init__()
        channels = [min(width * 2**level, width * 8) for level in range(levels)]
        block: _Level | None = None
        for level in reversed(range(levels)):
            outer = 1 if level == 0 else channels[level - 1]
            block = _Level(outer, channels[level], block, outermost=level == 0)
        assert block is not None
        self.model = block
        self.levels, self.scale, self.multiple = levels, scale, 2**levels
        self.margin = self.multiple // 4
        self.feature_channels = tuple(channels[:5])
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, 0.02)
            else:
                nn.init.zeros_(parameter)

    def encode(self, image: Float[Tensor, "b 1 y x"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Features of the five outermost levels, without running the rest."""
        features, found, level = image / self.scale, [], self.model
        for _ in range(len(self.feature_channels)):
            features = level.descend(features)
            found.append(features)
            if len(found) < len(self.feature_channels):
                level = level.submodule
        return found

    def forward(self, image: Float[Tensor, "b 1 y x"], latent: list[Tensor] | None = None,
                ) -> tuple[Float[Tensor, "b 1 y x"], list[Float[Tensor, "b _ _ _"]]]:
        """The translated image, and the features that ``encode`` would return for ``image``."""
        features, skips, blocks = image / self.scale, [], [self.model]
        for level in range(self.levels):
            features = blocks[-1].descend(features)
            skips.append(features)
            if level + 1 < self.levels:
                blocks.append(blocks[-1].submodule)
        # Innermost: what comes up is not joined with anything; its features are used by relu alone.
        rising = blocks[-1].ascend(skips[-1])
        for block, skip in zip(reversed(blocks[:-1]), reversed(skips[:-1]), strict=True):
            rising = block.ascend(torch.cat([skip, rising], 1))
        return rising * self.scale, skips[:len(self.feature_channels)]


class PatchDiscriminator(nn.Module):
    """Judges overlapping pieces of 70 x 70 pixels, each by a number."""

    def __init__(self, width: int = 128, layers: int = 3, norm: bool = True) -> None:
        super().__init__()
        stages: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        before = width
        for layer in range(1, layers + 1):
            after = width * min(2**layer, 8)
            stages.append(nn.Conv2d(before, after, 4, 2 if layer < layers else 1, 1))
            stages += [nn.InstanceNorm2d(after)] if norm else []
            stages.append(nn.LeakyReLU(0.2))
            before = after
        self.model = nn.Sequential(*stages, nn.Conv2d(before, 1, 4, 1, 1))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, 0.02)

    def forward(self, image: Float[Tensor, "b 1 y x"]) -> list[Float[Tensor, "b 1 _ _"]]:
        """One map of judgements."""
        return [self.model(image)]
