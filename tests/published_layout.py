# SPDX-License-Identifier: GPL-3.0-or-later
"""A second, independent implementation of the published generator: its checkpoints' layout and its forward pass."""
import torch
from torch.nn import functional as F


def generator_shapes(levels, width):
    """Return the names and shapes of the tensors in a ``*_net_G.pth``."""
    channels = [min(width * 2**k, 8 * width) for k in range(levels)]
    shapes = {}
    for k in range(levels):
        prefix = "model." + "submodule." * k
        outer = 1 if k == 0 else channels[k - 1]
        down = "down.0" if k == 0 else "down.1"
        shapes[f"{prefix}{down}.weight"] = (channels[k], outer, 4, 4)
        shapes[f"{prefix}{down}.bias"] = (channels[k],)
        channels_in = channels[k] if k == levels - 1 else 2 * channels[k]
        shapes[f"{prefix}up.1.weight"] = (channels_in, outer, 4, 4)
        shapes[f"{prefix}up.1.bias"] = (outer,)
    return shapes


def projection_shapes(width):
    """Names and shapes of a ``*_net_F.pth``: a two-layer network for each of the five contrastive layers."""
    shapes = {}
    for layer, channels in enumerate(width * factor for factor in (1, 2, 4, 8, 8)):
        shapes[f"mlp_{layer}.0.weight"] = (256, channels)
        shapes[f"mlp_{layer}.2.weight"] = (256, 256)
        shapes[f"mlp_{layer}.0.bias"] = shapes[f"mlp_{layer}.2.bias"] = (256,)
    return shapes


def state_dict(shapes, generator):
    """Random weights with which the output of every layer has a standard deviation near 1."""
    return {name: torch.randn(shape, generator=generator) * (
        0.1 if len(shape) == 1 else (2 / (shape[1] * shape[2] * shape[3] if len(shape) == 4 else shape[1])) ** 0.5)
        for name, shape in shapes.items()}


def layer_outputs(state, levels, image):
    """Output of every convolution of the published network by name, of its contrastive layers, and the image.

    The activation before a convolution works in place, so the skip connections have passed through it.
    """
    outputs, skips, features = {}, [], image
    for k in range(levels):
        name = "model." + "submodule." * k + ("down.0" if k == 0 else "down.1")
        features = F.conv2d(F.leaky_relu(features, 0.2) if k else features, state[name + ".weight"],
                            state[name + ".bias"], 2, 1)
        outputs[name] = features
        if 0 < k < levels - 1:
            features = F.instance_norm(features)
        skips.append(features)
    features = skips[-1]
    for k in reversed(range(levels)):
        name = "model." + "submodule." * k + "up.1"
        features = F.conv_transpose2d(F.relu(features), state[name + ".weight"], state[name + ".bias"], 2, 1)
        outputs[name] = features
        if k:
            features = torch.cat([F.leaky_relu(skips[k - 1], 0.2), F.instance_norm(features)], 1)
    outputs["contrastive"] = [F.leaky_relu(skip, 0.2) for skip in skips[:5]]
    outputs["image"] = torch.tanh(features)
    return outputs
