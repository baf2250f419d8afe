# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own networks: a generator that learns only the difference to the physical image, and its discriminator."""
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MultiscaleDiscriminator", "ResidualGenerator"]

LEVELS = 4
LATENT_CHANNELS = 2


class _Block(nn.Module):
    """Residual block of two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        hidden = functional.leaky_relu(self.first(functional.leaky_relu(features, 0.2)), 0.2)
        change: Tensor = self.second(hidden)
        return features + 0.3 * change


class ResidualGenerator(nn.Module):
    """U-Net whose output is image · (1 + gain) + offset; before training, gain and offset are 0.

    It has no normalisation over the image and a finite receptive field, so overlapping tiles agree exactly.
    Upsampling is bilinear interpolation and a convolution, since transposed convolutions leave a lattice. Latent noise
    enters at the two coarsest scales: from it the network makes structures that do not depend on the image.
    """

    latent_channels = LATENT_CHANNELS
    exact_tiles = True

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        channels = [min(width * 2**level, 4 * width) for level in range(LEVELS)]
        self.enter = nn.Conv2d(1, max(8, width // 4), 5, padding=2)
        fine = max(8, width // 4)
        self.down = nn.ModuleList(nn.Conv2d(channels_in, channels_out, 4, 2, 1)
                                  for channels_in, channels_out in zip([fine, *channels[:-1]], channels, strict=True))
        self.latent = nn.ModuleList(nn.Conv2d(LATENT_CHANNELS, channels[level], 3, padding=1) for level in (2, 3))
        self.bottom = nn.Sequential(_Block(channels[-1]), _Block(channels[-1]))
        self.up = nn.ModuleList(nn.Conv2d(below, above, 3, padding=1)
                                for below, above in zip(channels, [fine, *channels[:-1]], strict=True))
        self.leave = nn.Conv2d(fine, 2, 3, padding=1)
        self.multiple = 2**LEVELS
        self.margin = 160  # px; pixels further away have no influence
        self.feature_channels = (fine, *channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, 0.2)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.leave.weight)

    def encode(self, image: Float[Tensor, "b 1 y x"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Features of the five scales of the encoder; the decoder is not computed."""
        features = functional.leaky_relu(self.enter(image), 0.2)
        encoded = [features]
        for down in self.down:
            features = functional.leaky_relu(down(features), 0.2)
            encoded.append(features)
        return encoded

    def forward(self, image: Float[Tensor, "b 1 y x"], latent: list[Tensor] | None = None,
                ) -> tuple[Float[Tensor, "b 1 y x"], list[Float[Tensor, "b _ _ _"]]]:
        """Translated image, and the features that ``encode`` returns for ``image``.

        Parameters
        ----------
        latent
            Result of ``latent_noise``, at 1/8 and 1/16 of the image size; None: no latent noise.
        """
        encoded = self.encode(image)
        features = encoded[-1] if latent is None else encoded[-1] + self.latent[1](latent[1])
        features = self.bottom(features)
        for level in reversed(range(LEVELS)):
            features = functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
            features = functional.leaky_relu(self.up[level](features), 0.2) + encoded[level]
            if level == LEVELS - 1 and latent is not None:
                features = features + self.latent[0](latent[0])
        gain, offset = self.leave(features).chunk(2, 1)
        return image * (1 + gain) + offset, encoded


class MultiscaleDiscriminator(nn.Module):
    """Two patch discriminators: one for the image, one for the image binned by 4 x 4 pixels."""

    def __init__(self, width: int = 32, scales: tuple[int, ...] = (1, 4)) -> None:
        super().__init__()
        self.scales = scales
        self.parts = nn.ModuleList(_patch_discriminator(width) for _ in scales)

    def forward(self, image: Float[Tensor, "b 1 y x"]) -> list[Float[Tensor, "b 1 _ _"]]:
        """One map of scores for each scale."""
        # Binning divides the deviation of white noise by the scale. The factor compensates a part of this, so that the
        # discriminator detects both noise and shapes.
        return [part(functional.avg_pool2d(image, scale) * scale**0.5 if scale > 1 else image)
                for part, scale in zip(self.parts, self.scales, strict=True)]


def _patch_discriminator(width: int) -> nn.Sequential:
    """Convolutions with a receptive field of 54 x 54 pixels, without normalisation, so that it detects grey values."""
    def convolution(channels_in: int, channels_out: int, size: int, stride: int) -> nn.Module:
        return nn.Conv2d(channels_in, channels_out, size, stride, 1)
    return nn.Sequential(convolution(1, width, 4, 2), nn.LeakyReLU(0.2),
                         convolution(width, 2 * width, 4, 2), nn.LeakyReLU(0.2),
                         convolution(2 * width, 4 * width, 4, 2), nn.LeakyReLU(0.2),
                         convolution(4 * width, 4 * width, 3, 1), nn.LeakyReLU(0.2),
                         convolution(4 * width, 1, 3, 1))
