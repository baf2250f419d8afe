# SPDX-License-Identifier: GPL-3.0-or-later
"""The small network that learns to tell squares of two sets apart."""
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cryogem_scipion.engine.realism.two_sample.image_stack import draw_squares
from cryogem_scipion.engine.realism.two_sample.scales import Layer, Scale

__all__ = ["map_step", "square_evidence", "square_logits", "train_classifier"]

BATCH = 32
"""Squares of a step, half of them from each set."""
PEAK_LEARNING_RATE = 4e-3
WEIGHT_DECAY = 1e-2
SLOPE = 0.1
"""Slope of the leaky ReLU for negative values."""
LARGEST_GRADIENT = 1.0
"""Norm at which gradients are clipped."""


def train_classifier(scale: Scale, positive: Sequence[Tensor], negative: Sequence[Tensor], steps: int,
                     generator: torch.Generator, device: torch.device, precision: str) -> nn.Sequential:
    """Train a network whose output is positive for squares of one set and negative for the other.

    The network has no padding, and its normalisation is fixed after the training. So a square is judged by its own
    pixels only, and a whole micrograph is judged as its squares are. While it learns, each batch has equal parts of
    both sets. Without normalisation, 300 steps learn hardly anything. Squares are turned and mirrored at random.

    Parameters
    ----------
    scale
        Size of the squares, and layers of the network.
    positive, negative
        Images of the two sets.
    steps
        Training steps of 32 squares each.
    generator
        Random generator of weights and squares.
    device
        Where the network computes.
    precision
        bf16 or float32.
    """
    def batch() -> Tensor:
        return torch.cat([draw_squares(images, scale.edge, BATCH // 2, generator)
                          for images in (positive, negative)]).to(device, memory_format=torch.channels_last)

    network = _new_network(scale, generator).to(device)
    labels = torch.cat([torch.ones(BATCH // 2), torch.zeros(BATCH // 2)]).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), PEAK_LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LEARNING_RATE, steps)
    for _ in range(steps):
        loss = binary_cross_entropy_with_logits(square_logits(network, batch(), precision), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def square_logits(network: nn.Module, squares: Float[Tensor, "n 1 y x"], precision: str) -> Float[Tensor, " n"]:
    """Evidence for the positive set in each square."""
    with torch.autocast(squares.device.type, torch.bfloat16, enabled=precision == "bf16"):
        evidence: Tensor = network(squares)
    return evidence.float().flatten()


def map_step(scale: Scale) -> int:
    """Distance (px) of neighbouring squares of ``square_evidence``: about a quarter of their edge."""
    return scale.stride * _places(scale)[1]


def square_evidence(network: nn.Module, image: Float[Tensor, "y x"], precision: str) -> Float[Tensor, "v u"]:
    """Evidence for the positive set in overlapping squares of an image, ``map_step`` pixels apart."""
    with torch.no_grad(), torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bf16"):
        evidence: Tensor = network(image[None, None].float())
    return evidence.float()[0, 0]


def _places(scale: Scale) -> tuple[int, int]:
    """Places of the network along the edge of a square, and a quarter of them."""
    count = (scale.edge - scale.receptive_field) // scale.stride + 1
    return count, max(1, count // 4)


def _new_network(scale: Scale, generator: torch.Generator) -> nn.Sequential:
    """Convolutions, mean and maximum of their channels over a square, and a linear layer that judges these."""
    layers: list[nn.Module] = []
    channels = 1
    for layer in scale.layers:
        layers += [_convolution(channels, layer, generator), nn.BatchNorm2d(layer.channels), nn.LeakyReLU(SLOPE)]
        channels = layer.channels
    layers += [_MeanAndMaximum(*_places(scale)), _convolution(2 * channels, Layer(1, 1, 1), generator)]
    return nn.Sequential(*layers)


class _MeanAndMaximum(nn.Module):
    """Mean and maximum of each channel over the places of a square."""

    def __init__(self, edge: int, step: int) -> None:
        super().__init__()
        self.edge, self.step = edge, step

    def forward(self, values: Tensor) -> Tensor:
        """Twice as many channels: the means, then the maxima."""
        return torch.cat([nn.functional.avg_pool2d(values, self.edge, self.step),
                          nn.functional.max_pool2d(values, self.edge, self.step)], 1)


def _convolution(channels: int, layer: Layer, generator: torch.Generator) -> nn.Conv2d:
    """Convolution with uniform random weights of deviation 1 / sqrt(3 inputs)."""
    convolution = nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride)
    limit = (channels * layer.kernel**2) ** -0.5
    with torch.no_grad():
        for values in convolution.parameters():
            values.copy_((2 * torch.rand(values.shape, generator=generator) - 1) * limit)
    return convolution
