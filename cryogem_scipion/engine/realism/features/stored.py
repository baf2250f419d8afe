# SPDX-License-Identifier: GPL-3.0-or-later
"""Network files of others, read without running anything in them.

Such files are pickles, which can hold any program. torch's own restricted reader takes tensors and
plain containers only. Whole Topaz detectors also name the classes they were made of: here these names
stand for empty classes, which hold what the file says of an object and can do nothing.
"""
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cryogem_scipion.engine.errors import CheckpointError

__all__ = ["flattened", "read_network"]


class Inert:
    """An object of a file, as attributes and nothing more."""


def _inert(place: str) -> type:
    module, _, name = place.rpartition(".")
    return type(name, (Inert,), {"__module__": module})


STAND_INS: list[Any] = [_inert(place) for place in (
    "topaz.model.classifier.LinearClassifier", "topaz.model.features.resnet.ResNet6",
    "topaz.model.features.resnet.ResNet8", "topaz.model.features.resnet.ResNet16",
    "topaz.model.features.resnet.BasicConv2d", "topaz.model.features.resnet.ResidA",
    "topaz.model.features.resnet.MaxPool", "topaz.model.features.basic.BasicConv",
    "topaz.model.features.basic.Conv127", "topaz.model.features.basic.Conv63",
    "torch.nn.modules.container.Sequential", "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.batchnorm.BatchNorm2d", "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.activation.PReLU", "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.pooling.AvgPool2d", "torch.nn.modules.dropout.Dropout")]


def read_network(path: Path) -> dict[str, Tensor] | Inert:
    """Return the tensors of a file by name, or the detector in it as inert objects.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or asks for anything else to be loaded.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; give a network's file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with _stand_ins():
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError,
            TypeError, AttributeError, IndexError, OSError) as error:
        causes = [line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line]
        cause = (causes or str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged, or would have to be run as a program to be read ({cause}); give a "
                              "Topaz detector, or the weights of an Inception network") from None
    if isinstance(found, Inert):
        return found
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path} holds a {type(found).__name__} and no network; give a Topaz detector, or the "
                              "weights of an Inception network")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Let torch's restricted reader know the empty classes, for as long as it takes."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(STAND_INS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def flattened(node: Any, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers of inert modules, by the names that a state_dict gives them."""
    values = vars(node)
    found = {prefix + str(name): value.detach() for kind in ("_parameters", "_buffers")
             for name, value in dict(values.get(kind) or {}).items() if isinstance(value, Tensor)}
    for name, child in dict(values.get("_modules") or {}).items():
        if isinstance(child, Inert):
            found |= flattened(child, f"{prefix}{name}.")
    return found
