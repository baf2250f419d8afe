# SPDX-License-Identifier: GPL-3.0-or-later
"""The small network that learns to tell squares of two sets apart."""
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cryogem_scipion.engine.realism.two_sample.image_stack import draw_squares
from cryogem_scipion.engine.realism.two_sample.scales import Scale

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
    """Train a network whose mean output is positive for squares of one set and negative for the other.

    The network has no padding and no normalisation. So a square is judged by its own pixels only, and a whole
    micrograph is judged as its squares are. Squares are turned and mirrored at random.

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

    network = _new_network(scale, batch(), generator)
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
    return network.requires_grad_(False)


def square_logits(network: nn.Module, squares: Float[Tensor, "n 1 y x"], precision: str) -> Float[Tensor, " n"]:
    """Evidence for the positive set in each square: the mean over the square's places."""
    with torch.autocast(squares.device.type, torch.bfloat16, enabled=precision == "bf16"):
        places = network(squares)
    mean: Tensor = places.float().mean((1, 2, 3))
    return mean


def map_step(scale: Scale) -> int:
    """Distance (px) of neighbouring squares of ``square_evidence``: about a quarter of their edge."""
    return scale.stride * _places(scale)[1]


def square_evidence(network: nn.Module, scale: Scale, image: Float[Tensor, "y x"], precision: str
                    ) -> Float[Tensor, "v u"]:
    """Evidence for the positive set in overlapping squares of an image, ``map_step`` pixels apart."""
    with torch.no_grad(), torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bf16"):
        places = network(image[None, None].float())
    return nn.functional.avg_pool2d(places.float(), *_places(scale))[0, 0]


def _places(scale: Scale) -> tuple[int, int]:
    """Places of the network along the edge of a square, and a quarter of them."""
    count = (scale.edge - scale.receptive_field) // scale.stride + 1
    return count, max(1, count // 4)


def _new_network(scale: Scale, squares: Float[Tensor, "n 1 y x"], generator: torch.Generator) -> nn.Sequential:
    """Network with random weights, scaled so that every channel has mean 0 and deviation 1 in the given squares.

    The last layer starts at zero. Source of the idea: Mishkin & Matas, "All you need is a good init", ICLR 2016.
    """
    layers: list[nn.Module] = []
    channels, values = 1, squares
    for layer in scale.layers:
        convolution = nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride)
        weights = torch.randn(convolution.weight.shape, generator=generator)
        with torch.no_grad():
            convolution.weight.copy_(weights - weights.mean((1, 2, 3), keepdim=True) * (channels > 1))
            convolution.to(squares.device).bias.zero_()  # type: ignore[union-attr]
            values = convolution(values)
            deviation, mean = torch.std_mean(values, (0, 2, 3))
            convolution.weight /= deviation[:, None, None, None] + 1e-6
            convolution.bias.copy_(-mean / (deviation + 1e-6))  # type: ignore[union-attr]
            values = nn.functional.leaky_relu((values - mean[:, None, None]) / (deviation[:, None, None] + 1e-6), SLOPE)
        layers += [convolution, nn.LeakyReLU(SLOPE)]
        channels = layer.channels
    last = nn.Conv2d(channels, 1, 1).to(squares.device)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, last)
