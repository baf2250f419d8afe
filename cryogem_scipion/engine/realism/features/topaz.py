# SPDX-License-Identifier: GPL-3.0-or-later
"""Topaz's detectors up to their last convolution, built again from a file's tensors.

A detector is a chain of convolutions and blocks of two convolutions beside a straight way; see
Bepler et al., doi:10.1038/s41592-019-0575-8. A file of a whole detector says how far apart each layer's
samples are; of one that holds only weights (as those that Topaz ships) this follows from its architecture.
"""
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryogem_scipion.engine.errors import CheckpointError
from cryogem_scipion.engine.realism.features.stored import Inert, flattened

__all__ = ["TopazFeatures", "topaz_features"]

PREFIX = "features.features."


@dataclass(frozen=True)
class Layer:
    """One step of the chain."""

    kind: Literal["conv", "block", "pool", "average", "norm", "relu", "prelu"]
    place: str = ""
    """Its number in the chain, which its tensors' names begin with."""
    stride: int = 1
    dilation: int = 1
    """Of a block: of its second convolution."""
    size: int = 1
    """Of the window of a pool."""
    padding: int = 0


class Block(nn.Module):
    """Two convolutions beside a straight way, cut to what the convolutions leave."""

    def __init__(self, first: nn.Module, second: nn.Conv2d, projection: nn.Conv2d | None, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.projection, self.norm = first, second, projection, norm

    def forward(self, image: Float[Tensor, "n c y x"]) -> Float[Tensor, "n d v u"]:
        edge = 1 + self.second.dilation[0]
        stride = self.second.stride[0]
        past = image[:, :, edge:-edge, edge:-edge]
        past = past[:, :, ::stride, ::stride] if self.projection is None else self.projection(past)
        result: Tensor = torch.relu(self.norm(self.second(self.first(image)) + past))
        return result


class TopazFeatures(nn.Module):
    """Mean and deviation of each feature map over a piece of image; beyond its borders the detector sees zeros."""

    def __init__(self, chain: nn.Sequential, width: int) -> None:
        super().__init__()
        self.chain, self.width = chain, width

    def maps(self, pieces: Float[Tensor, "n y x"]) -> Float[Tensor, "n c v u"]:
        """The feature maps themselves."""
        margin = self.width // 2
        result: Tensor = self.chain(nn.functional.pad(pieces[:, None], (margin,) * 4))
        return result

    def forward(self, pieces: Float[Tensor, "n y x"]) -> Float[Tensor, "n d"]:
        """The features of each piece."""
        maps = self.maps(pieces)
        return torch.cat([maps.mean((2, 3)), maps.std((2, 3))], 1)


def topaz_features(found: dict[str, Tensor] | Inert, name: str) -> TopazFeatures:
    """Return the detector in what ``read_network`` found.

    Raises
    ------
    CheckpointError
        It is no detector of Topaz, or one of an architecture that is not known; ``name`` says which file.
    """
    try:
        if isinstance(found, Inert):
            tensors, layers = flattened(found), _recorded(found)
        else:
            tensors, layers = found, _deduced(found)
        weights = {key.removeprefix(PREFIX): value.float() for key, value in tensors.items() if key.startswith(PREFIX)}
        chain = nn.Sequential(*(_built(layer, weights) for layer in layers))
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{name} is no Topaz detector that is known here ({type(error).__name__}: {error}); give "
                              "a resnet6, resnet8, resnet16, conv31, conv63 or conv127") from None
    return TopazFeatures(chain.eval().requires_grad_(False), _view(layers, weights))


def _built(layer: Layer, weights: dict[str, Tensor]) -> nn.Module:
    if layer.kind == "pool":
        return nn.MaxPool2d(layer.size, layer.stride, layer.padding)
    if layer.kind == "average":
        return nn.AvgPool2d(layer.size, layer.stride, layer.padding)
    if layer.kind == "relu":
        return nn.ReLU()
    if layer.kind == "prelu":
        activation = nn.PReLU(len(weights[layer.place + ".weight"]))
        activation.weight = nn.Parameter(weights[layer.place + ".weight"])
        return activation
    if layer.kind == "norm":
        return _norm(weights, layer.place)
    if layer.kind == "conv":
        if layer.place + ".weight" in weights:
            return _convolution(weights, layer.place, layer.stride, layer.dilation)
        place = layer.place + "."
        return nn.Sequential(_convolution(weights, place + "conv", layer.stride, layer.dilation),
                             _norm(weights, place + "bn"), nn.ReLU())
    place = layer.place + "."
    first = nn.Sequential(_convolution(weights, place + "conv0"), _norm(weights, place + "bn0"), nn.ReLU())
    projection = _convolution(weights, place + "proj", layer.stride) if place + "proj.weight" in weights else None
    return Block(first, _convolution(weights, place + "conv1", layer.stride, layer.dilation), projection,
                 _norm(weights, place + "bn1"))


def _convolution(weights: dict[str, Tensor], place: str, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    weight, bias = weights[place + ".weight"], weights.get(place + ".bias")
    after, before, size, _ = weight.shape
    layer = nn.Conv2d(before, after, size, stride, dilation=dilation, bias=bias is not None)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer


def _norm(weights: dict[str, Tensor], place: str) -> nn.Module:
    if place + ".running_mean" not in weights:
        return nn.Identity()
    layer = nn.BatchNorm2d(len(weights[place + ".running_mean"]))
    layer.load_state_dict({name: weights[f"{place}.{name}"] for name in
                           ("weight", "bias", "running_mean", "running_var")}, strict=False)
    return layer


def _recorded(detector: Any) -> list[Layer]:
    """The chain as a whole detector's file records it."""
    layers: list[Layer] = []
    for place, node in detector._modules["features"]._modules["features"]._modules.items():
        kind, parts = type(node).__name__, node._modules
        if kind == "BasicConv2d":
            if type(parts["act"]).__name__ != "ReLU":
                raise ValueError(f"activation {type(parts['act']).__name__}")
            layers.append(Layer("conv", place, _number(parts["conv"].stride), _number(parts["conv"].dilation)))
        elif kind == "Conv2d":
            layers.append(Layer("conv", place, _number(node.stride), _number(node.dilation)))
        elif kind == "ResidA":
            layers.append(Layer("block", place, _number(parts["conv1"].stride), _number(parts["conv1"].dilation)))
        elif kind in ("MaxPool", "MaxPool2d", "AvgPool2d"):
            pool = parts["pool"] if kind == "MaxPool" else node
            layers.append(Layer("average" if kind == "AvgPool2d" else "pool", place, _number(pool.stride),
                                size=_number(pool.kernel_size), padding=_number(pool.padding)))
        elif kind in ("BatchNorm2d", "ReLU", "PReLU"):
            layers.append(Layer("norm" if kind == "BatchNorm2d" else "relu" if kind == "ReLU" else "prelu", place))
        elif kind != "Dropout":
            raise ValueError(f"layer {kind}")
    return layers


def _number(value: Any) -> int:
    """One number of a square window."""
    found = set(value) if isinstance(value, tuple | list) else {value}
    if len(found) != 1 or not isinstance(number := found.pop(), int) or not 0 <= number <= 64:
        raise ValueError(f"window {value!r}")
    return number


def _deduced(tensors: dict[str, Tensor]) -> list[Layer]:
    """The chain of weights alone, made as Topaz makes it by default."""
    names: dict[str, set[str]] = {}
    for key in tensors:
        if match := re.match(re.escape(PREFIX) + r"(\d+)\.(\w+)", key):
            names.setdefault(match[1], set()).add(match[2])
    places = sorted(names, key=int)
    blocks = [place for place in places if "conv0" in names[place]]
    if len(blocks) not in (2, 3, 7) or (len(blocks) != 2 and places != [*map(str, range(len(places)))]):
        raise ValueError(f"layers {', '.join(places) or 'none'}, {len(blocks)} of them blocks; a file of weights alone "
                         "has to be a resnet6, 8 or 16 without pooling or dropout")
    if len(blocks) == 2:
        pools = [Layer("pool", size=3, stride=2)]
        return [Layer("conv", places[0]), *pools, Layer("block", blocks[0], dilation=4), *pools,
                Layer("block", blocks[1], dilation=2), Layer("conv", places[-1])]
    coarse = blocks[1:2] if len(blocks) == 3 else [blocks[0], blocks[4]]
    first = Layer("conv", places[0], 2 if len(blocks) == 3 else 1)
    return [first, *(Layer("block", place, 2 if place in coarse else 1, 2 if len(blocks) == 3 else 1)
                     for place in blocks), Layer("conv", places[-1])]


def _view(layers: list[Layer], weights: dict[str, Tensor]) -> int:
    """Edge (px) of the field that one value of the last maps sees."""
    size = 1
    for layer in reversed(layers):
        reach = 0
        if layer.kind == "conv":
            weight = weights.get(layer.place + ".conv.weight", weights.get(layer.place + ".weight"))
            assert weight is not None
            reach = (weight.shape[-1] - 1) * layer.dilation
        elif layer.kind == "block":
            reach = 2 + 2 * layer.dilation
        elif layer.kind in ("pool", "average"):
            reach = layer.size - 1 - 2 * layer.padding
        size = (size - 1) * layer.stride + 1 + reach
    return size
