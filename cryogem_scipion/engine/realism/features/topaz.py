# SPDX-License-Identifier: GPL-3.0-or-later
"""Topaz detectors up to their last convolution, built from the tensors of a file.

A detector is a sequence of convolutions and residual blocks with two convolutions each (Bepler et al.,
doi:10.1038/s41592-019-0575-8). The file of a whole detector has the strides and dilations of its layers. A file with
weights only, such as the pretrained detectors of Topaz, does not have them: they follow from the architecture.
"""
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryogem_scipion.engine.errors import CheckpointError
from cryogem_scipion.engine.realism.features.network_file import StandIn, flatten_state

__all__ = ["TopazFeatures", "topaz_features"]

PREFIX = "features.features."


@dataclass(frozen=True)
class Layer:
    """Description of one layer of a detector."""

    kind: Literal["conv", "block", "pool", "average", "norm", "relu", "prelu"]
    name: str = ""
    """Number of the layer, with which the names of its tensors begin."""
    stride: int = 1
    dilation: int = 1
    """In a residual block: dilation of the second convolution."""
    size: int = 1
    """Edge (px) of a pooling window."""
    padding: int = 0


class ResidualBlock(nn.Module):
    """Residual block of two convolutions without padding; the shortcut is cropped to the size of their result."""

    def __init__(self, first: nn.Module, second: nn.Conv2d, projection: nn.Conv2d | None, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.projection, self.norm = first, second, projection, norm

    def forward(self, image: Float[Tensor, "n c y x"]) -> Float[Tensor, "n d v u"]:
        edge = 1 + self.second.dilation[0]
        stride = self.second.stride[0]
        shortcut = image[:, :, edge:-edge, edge:-edge]
        shortcut = shortcut[:, :, ::stride, ::stride] if self.projection is None else self.projection(shortcut)
        result: Tensor = torch.relu(self.norm(self.second(self.first(image)) + shortcut))
        return result


class TopazFeatures(nn.Module):
    """Mean and standard deviation of each feature map of a detector over a patch, which is padded with zeros."""

    def __init__(self, layers: nn.Sequential, receptive_field: int) -> None:
        super().__init__()
        self.layers, self.receptive_field = layers, receptive_field

    def maps(self, patches: Float[Tensor, "n y x"]) -> Float[Tensor, "n c v u"]:
        """Feature maps of each patch."""
        margin = self.receptive_field // 2
        result: Tensor = self.layers(nn.functional.pad(patches[:, None], (margin,) * 4))
        return result

    def forward(self, patches: Float[Tensor, "n y x"]) -> Float[Tensor, "n d"]:
        """Feature vector of each patch."""
        maps = self.maps(patches)
        return torch.cat([maps.mean((2, 3)), maps.std((2, 3))], 1)


def topaz_features(contents: dict[str, Tensor] | StandIn, name: str) -> TopazFeatures:
    """Feature network from a Topaz detector.

    Parameters
    ----------
    contents
        Result of ``read_network``.
    name
        Name of the file, for messages.

    Raises
    ------
    CheckpointError
        The file holds no Topaz detector, or a detector of an unknown architecture.
    """
    try:
        if isinstance(contents, StandIn):
            tensors, layers = flatten_state(contents), _layers_of_detector(contents)
        else:
            tensors, layers = contents, _layers_from_weights(contents)
        weights = {key.removeprefix(PREFIX): value.float() for key, value in tensors.items() if key.startswith(PREFIX)}
        modules = nn.Sequential(*(_build_layer(layer, weights) for layer in layers))
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{name} holds no known Topaz detector ({type(error).__name__}: {error}); give a "
                              "resnet6, resnet8, resnet16, conv31, conv63 or conv127") from None
    return TopazFeatures(modules.eval().requires_grad_(False), _receptive_field(layers, weights))


def _build_layer(layer: Layer, weights: dict[str, Tensor]) -> nn.Module:
    if layer.kind == "pool":
        return nn.MaxPool2d(layer.size, layer.stride, layer.padding)
    if layer.kind == "average":
        return nn.AvgPool2d(layer.size, layer.stride, layer.padding)
    if layer.kind == "relu":
        return nn.ReLU()
    if layer.kind == "prelu":
        activation = nn.PReLU(len(weights[layer.name + ".weight"]))
        activation.weight = nn.Parameter(weights[layer.name + ".weight"])
        return activation
    if layer.kind == "norm":
        return _norm(weights, layer.name)
    if layer.kind == "conv":
        if layer.name + ".weight" in weights:
            return _convolution(weights, layer.name, layer.stride, layer.dilation)
        prefix = layer.name + "."
        return nn.Sequential(_convolution(weights, prefix + "conv", layer.stride, layer.dilation),
                             _norm(weights, prefix + "bn"), nn.ReLU())
    prefix = layer.name + "."
    first = nn.Sequential(_convolution(weights, prefix + "conv0"), _norm(weights, prefix + "bn0"), nn.ReLU())
    projection = _convolution(weights, prefix + "proj", layer.stride) if prefix + "proj.weight" in weights else None
    return ResidualBlock(first, _convolution(weights, prefix + "conv1", layer.stride, layer.dilation), projection,
                         _norm(weights, prefix + "bn1"))


def _convolution(weights: dict[str, Tensor], name: str, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    weight, bias = weights[name + ".weight"], weights.get(name + ".bias")
    channels_out, channels_in, size, _ = weight.shape
    layer = nn.Conv2d(channels_in, channels_out, size, stride, dilation=dilation, bias=bias is not None)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer


def _norm(weights: dict[str, Tensor], name: str) -> nn.Module:
    if name + ".running_mean" not in weights:
        return nn.Identity()
    layer = nn.BatchNorm2d(len(weights[name + ".running_mean"]))
    layer.load_state_dict({key: weights[f"{name}.{key}"] for key in
                           ("weight", "bias", "running_mean", "running_var")}, strict=False)
    return layer


def _layers_of_detector(detector: Any) -> list[Layer]:
    """Layers of a whole detector, with the strides and dilations in its file."""
    layers: list[Layer] = []
    for name, module in detector._modules["features"]._modules["features"]._modules.items():
        kind, parts = type(module).__name__, module._modules
        if kind == "BasicConv2d":
            if type(parts["act"]).__name__ != "ReLU":
                raise ValueError(f"activation {type(parts['act']).__name__}")
            layers.append(Layer("conv", name, _single_number(parts["conv"].stride),
                                _single_number(parts["conv"].dilation)))
        elif kind == "Conv2d":
            layers.append(Layer("conv", name, _single_number(module.stride), _single_number(module.dilation)))
        elif kind == "ResidA":
            layers.append(Layer("block", name, _single_number(parts["conv1"].stride),
                                _single_number(parts["conv1"].dilation)))
        elif kind in ("MaxPool", "MaxPool2d", "AvgPool2d"):
            pool = parts["pool"] if kind == "MaxPool" else module
            layers.append(Layer("average" if kind == "AvgPool2d" else "pool", name, _single_number(pool.stride),
                                size=_single_number(pool.kernel_size), padding=_single_number(pool.padding)))
        elif kind in ("BatchNorm2d", "ReLU", "PReLU"):
            layers.append(Layer("norm" if kind == "BatchNorm2d" else "relu" if kind == "ReLU" else "prelu", name))
        elif kind != "Dropout":
            raise ValueError(f"layer {kind}")
    return layers


def _single_number(value: Any) -> int:
    """Size, stride or dilation of a square window, which a file gives as a number or as a tuple of equal numbers."""
    numbers = set(value) if isinstance(value, tuple | list) else {value}
    if len(numbers) != 1 or not isinstance(number := numbers.pop(), int) or not 0 <= number <= 64:
        raise ValueError(f"window {value!r}")
    return number


def _layers_from_weights(tensors: dict[str, Tensor]) -> list[Layer]:
    """Layers of a detector in a file of weights, with the default strides and dilations of Topaz."""
    parts: dict[str, set[str]] = {}
    for key in tensors:
        if match := re.match(re.escape(PREFIX) + r"(\d+)\.(\w+)", key):
            parts.setdefault(match[1], set()).add(match[2])
    names = sorted(parts, key=int)
    blocks = [name for name in names if "conv0" in parts[name]]
    if len(blocks) not in (2, 3, 7) or (len(blocks) != 2 and names != [*map(str, range(len(names)))]):
        raise ValueError(f"layers {', '.join(names) or 'none'}, {len(blocks)} of them blocks; a file of weights alone "
                         "has to be a resnet6, 8 or 16 without pooling or dropout")
    if len(blocks) == 2:
        pools = [Layer("pool", size=3, stride=2)]
        return [Layer("conv", names[0]), *pools, Layer("block", blocks[0], dilation=4), *pools,
                Layer("block", blocks[1], dilation=2), Layer("conv", names[-1])]
    with_stride = blocks[1:2] if len(blocks) == 3 else [blocks[0], blocks[4]]
    first = Layer("conv", names[0], 2 if len(blocks) == 3 else 1)
    return [first, *(Layer("block", name, 2 if name in with_stride else 1, 2 if len(blocks) == 3 else 1)
                     for name in blocks), Layer("conv", names[-1])]


def _receptive_field(layers: list[Layer], weights: dict[str, Tensor]) -> int:
    """Edge (px) of the receptive field of the last feature maps."""
    size = 1
    for layer in reversed(layers):
        reach = 0
        if layer.kind == "conv":
            weight = weights.get(layer.name + ".conv.weight", weights.get(layer.name + ".weight"))
            assert weight is not None
            reach = (weight.shape[-1] - 1) * layer.dilation
        elif layer.kind == "block":
            reach = 2 + 2 * layer.dilation
        elif layer.kind in ("pool", "average"):
            reach = layer.size - 1 - 2 * layer.padding
        size = (size - 1) * layer.stride + 1 + reach
    return size
