# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own generator: it adds to the physical image what real micrographs have and the physics has not."""
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MultiscaleDiscriminator", "ResidualGenerator"]

LEVELS = 4
LATENT = 2


class _Block(nn.Module):
    """Two convolutions beside a straight way."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        hidden = functional.leaky_relu(self.first(functional.leaky_relu(features, 0.2)), 0.2)
        change: Tensor = self.second(hidden)
        return features + 0.3 * change


class ResidualGenerator(nn.Module):
    """U-Net whose output is image · (1 + a) + r, both a and r zero at first: it starts as the physical image.

    There is no norm over the field and its view is finite, so that overlapping tiles agree exactly.
    It goes up by bilinear interpolation and convolution, since transposed convolution leaves a
    lattice. Fresh noise enters at its two coarse scales: structures that the image gives no reason
    for come from there.
    """

    latent_channels = LATENT
    exact_tiles = True

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        channels = [min(width * 2**level, 4 * width) for level in range(LEVELS)]
        self.enter = nn.Conv2d(1, max(8, width // 4), 5, padding=2)
        fine = max(8, width // 4)
        self.down = nn.ModuleList(nn.Conv2d(before, after, 4, 2, 1)
                                  for before, after in zip([fine, *channels[:-1]], channels, strict=True))
        self.latent = nn.ModuleList(nn.Conv2d(LATENT, channels[level], 3, padding=1) for level in (2, 3))
        self.bottom = nn.Sequential(_Block(channels[-1]), _Block(channels[-1]))
        self.up = nn.ModuleList(nn.Conv2d(below, above, 3, padding=1)
                                for below, above in zip(channels, [fine, *channels[:-1]], strict=True))
        self.leave = nn.Conv2d(fine, 2, 3, padding=1)
        self.multiple = 2**LEVELS
        self.margin = 160
        self.feature_channels = (fine, *channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, 0.2)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.leave.weight)

    def encode(self, image: Float[Tensor, "b 1 y x"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Features of the five scales on the way down, without running the rest."""
        features = functional.leaky_relu(self.enter(image), 0.2)
        found = [features]
        for down in self.down:
            features = functional.leaky_relu(down(features), 0.2)
            found.append(features)
        return found

    def forward(self, image: Float[Tensor, "b 1 y x"], latent: list[Tensor] | None = None,
                ) -> tuple[Float[Tensor, "b 1 y x"], list[Float[Tensor, "b _ _ _"]]]:
        """The translated image, and the features that ``encode`` returns; latent noise at 1/8 and 1/16 of the size."""
        found = self.encode(image)
        features = found[-1] if latent is None else found[-1] + self.latent[1](latent[1])
        features = self.bottom(features)
        for level in reversed(range(LEVELS)):
            features = functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = functional.leaky_relu(self.up[level](features), 0.2) + found[level]
            if level == LEVELS - 1 and latent is not None:
                features = features + self.latent[0](latent[0])
        gain, offset = self.leave(features).chunk(2, 1)
        return image * (1 + gain) + offset, found


class MultiscaleDiscriminator(nn.Module):
    """A small patch discriminator at full size, and others on the image averaged over 4 x 4 pixels."""

    def __init__(self, width: int = 32, scales: tuple[int, ...] = (1, 4)) -> None:
        super().__init__()
        self.scales = scales
        self.parts = nn.ModuleList(_judge(width) for _ in scales)

    def forward(self, image: Float[Tensor, "b 1 y x"]) -> list[Float[Tensor, "b 1 _ _"]]:
        """A map of judgements for each scale."""
        # Averaging lowers white noise by the number of pixels: brought back half way to see both noise and shapes.
        return [part(functional.avg_pool2d(image, scale) * scale**0.5 if scale > 1 else image)
                for part, scale in zip(self.parts, self.scales, strict=True)]


def _judge(width: int) -> nn.Sequential:
    """Convolutions without norm, for grey levels count: views of 54 x 54 pixels."""
    def layer(before: int, after: int, size: int, stride: int) -> nn.Module:
        return nn.Conv2d(before, after, size, stride, 1)
    return nn.Sequential(layer(1, width, 4, 2), nn.LeakyReLU(0.2), layer(width, 2 * width, 4, 2), nn.LeakyReLU(0.2),
                         layer(2 * width, 4 * width, 4, 2), nn.LeakyReLU(0.2), layer(4 * width, 4 * width, 3, 1),
                         nn.LeakyReLU(0.2), layer(4 * width, 1, 3, 1))
