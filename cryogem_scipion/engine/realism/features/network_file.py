# SPDX-License-Identifier: GPL-3.0-or-later
"""Safe reading of network files from other programs: no code in a file is run.

Such files are pickles, and a pickle can hold any program. The restricted reader of torch loads only tensors and plain
containers. The file of a whole Topaz detector also names the classes of its layers. For these names the reader gets
empty stand-in classes: they store the attributes of an object and have no methods.
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

__all__ = ["flatten_state", "read_network"]


class StandIn:
    """An object of a file: its attributes and nothing else."""


def _stand_in(qualified_name: str) -> type:
    module, _, name = qualified_name.rpartition(".")
    return type(name, (StandIn,), {"__module__": module})


STAND_INS: list[Any] = [_stand_in(name) for name in (
    "topaz.model.classifier.LinearClassifier", "topaz.model.features.resnet.ResNet6",
    "topaz.model.features.resnet.ResNet8", "topaz.model.features.resnet.ResNet16",
    "topaz.model.features.resnet.BasicConv2d", "topaz.model.features.resnet.ResidA",
    "topaz.model.features.resnet.MaxPool", "topaz.model.features.basic.BasicConv",
    "topaz.model.features.basic.Conv127", "topaz.model.features.basic.Conv63",
    "torch.nn.modules.container.Sequential", "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.batchnorm.BatchNorm2d", "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.activation.PReLU", "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.pooling.AvgPool2d", "torch.nn.modules.dropout.Dropout")]


def read_network(path: Path) -> dict[str, Tensor] | StandIn:
    """Tensors of a file by name, or the detector in it as stand-in objects.

    Raises
    ------
    CheckpointError
        The file is missing, is damaged, or holds more than tensors, plain containers and the layers of a Topaz
        detector.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; give the file of a network")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with _stand_ins_allowed():
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError,
            TypeError, AttributeError, IndexError, OSError) as error:
        causes = [line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line]
        cause = (causes or str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged, or cannot be read without running its code ({cause}); give a Topaz "
                              "detector, or the weights of an Inception network") from None
    if isinstance(contents, StandIn):
        return contents
    if isinstance(contents, dict) and isinstance(contents.get("state_dict"), dict):
        contents = contents["state_dict"]
    if not isinstance(contents, dict) or not all(isinstance(value, Tensor) for value in contents.values()):
        raise CheckpointError(f"{path} holds a {type(contents).__name__}, not a network; give a Topaz detector, or the "
                              "weights of an Inception network")
    return {str(name).removeprefix("module."): value for name, value in contents.items()}


@contextmanager
def _stand_ins_allowed() -> Iterator[None]:
    """Let the restricted reader of torch use the stand-in classes inside the context only."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(STAND_INS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def flatten_state(module: Any, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers of a stand-in module and its submodules, named as in a ``state_dict`` after ``prefix``."""
    values = vars(module)
    tensors = {prefix + str(name): value.detach() for kind in ("_parameters", "_buffers")
               for name, value in dict(values.get(kind) or {}).items() if isinstance(value, Tensor)}
    for name, child in dict(values.get("_modules") or {}).items():
        if isinstance(child, StandIn):
            tensors |= flatten_state(child, f"{prefix}{name}.")
    return tensors
