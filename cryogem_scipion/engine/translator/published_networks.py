# SPDX-License-Identifier: GPL-3.0-or-later
"""The published networks (arXiv:2312.02235), with the parameter names of the published checkpoints."""
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PatchDiscriminator", "PublishedGenerator"]


class _Level(nn.Module):
    """One level of the U-Net, which contains all deeper levels."""

    def __init__(self, outer: int, inner: int, submodule: "_Level | None", outermost: bool) -> None:
        super().__init__()
        down = nn.Conv2d(outer if not outermost else 1, inner, 4, 2, 1)
        up = nn.ConvTranspose2d(inner if submodule is None else 2 * inner, outer, 4, 2, 1)
        # The placeholders give the parameters their published names (down.1, up.1): in the published program an
        # activation stands before these convolutions.
        self.down = nn.Sequential(down) if outermost else nn.Sequential(nn.Identity(), down)
        if submodule is not None:
            self.submodule = submodule
        self.up = nn.Sequential(nn.Identity(), up)
        self.normed_down = not outermost and submodule is not None
        self.outermost = outermost

    def descend(self, features: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        """Features for the next level and for the contrastive loss."""
        features = self.down(features)
        if self.normed_down:
            features = functional.instance_norm(features)
        return functional.leaky_relu(features, 0.2)

    def ascend(self, features: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        """Features for the next outer level, from those of the next inner level."""
        features = self.up(functional.relu(features))
        return torch.tanh(features) if self.outermost else functional.instance_norm(features)


class PublishedGenerator(nn.Module):
    """U-Net with log2(crop) levels: 4 x 4 convolutions with stride 2, instance norm, tanh at the output.

    The layers work on grey values in [-1, 1]. Images are divided by ``scale``, in standard deviations of the noise,
    before them and multiplied by it after them.

    References
    ----------
    arXiv:2312.02235
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
        """Features of the five outermost levels; the other levels are not computed."""
        features, encoded, level = image / self.scale, [], self.model
        for _ in range(len(self.feature_channels)):
            features = level.descend(features)
            encoded.append(features)
            if len(encoded) < len(self.feature_channels):
                level = level.submodule
        return encoded

    def forward(self, image: Float[Tensor, "b 1 y x"], latent: list[Tensor] | None = None,
                ) -> tuple[Float[Tensor, "b 1 y x"], list[Float[Tensor, "b _ _ _"]]]:
        """Translated image, and the features that ``encode`` returns for ``image``; ``latent`` is not used."""
        features, skips, blocks = image / self.scale, [], [self.model]
        for level in range(self.levels):
            features = blocks[-1].descend(features)
            skips.append(features)
            if level + 1 < self.levels:
                blocks.append(blocks[-1].submodule)
        # The innermost level has no skip connection.
        decoded = blocks[-1].ascend(skips[-1])
        for block, skip in zip(reversed(blocks[:-1]), reversed(skips[:-1]), strict=True):
            decoded = block.ascend(torch.cat([skip, decoded], 1))
        return decoded * self.scale, skips[:len(self.feature_channels)]


class PatchDiscriminator(nn.Module):
    """PatchGAN discriminator with a receptive field of 70 x 70 pixels.

    References
    ----------
    doi:10.1109/CVPR.2017.632
    """

    def __init__(self, width: int = 128, layers: int = 3, norm: bool = True) -> None:
        super().__init__()
        modules: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        channels_in = width
        for layer in range(1, layers + 1):
            channels_out = width * min(2**layer, 8)
            modules.append(nn.Conv2d(channels_in, channels_out, 4, 2 if layer < layers else 1, 1))
            modules += [nn.InstanceNorm2d(channels_out)] if norm else []
            modules.append(nn.LeakyReLU(0.2))
            channels_in = channels_out
        self.model = nn.Sequential(*modules, nn.Conv2d(channels_in, 1, 4, 1, 1))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, 0.02)

    def forward(self, image: Float[Tensor, "b 1 y x"]) -> list[Float[Tensor, "b 1 _ _"]]:
        """One map of scores; in a trained discriminator near 1 for real and near 0 for generated images."""
        return [self.model(image)]
