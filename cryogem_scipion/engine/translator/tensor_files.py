# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of tensors and JSON, and nothing else: written whole or not at all, checked when read."""
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cryogem_scipion.engine.errors import CheckpointError
from cryogem_scipion.engine.io.files import replacing

__all__ = ["FORMAT_VERSION", "load_tensors", "mismatches", "part", "save_tensors"]

FORMAT_VERSION = 1


def save_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
    """Write tensors and JSON values under a temporary name, then rename."""
    content = json.dumps({"format": f"cryogem {kind}", "format_version": FORMAT_VERSION, **values})
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(save(plain, {"cryogem": content}))
        file.flush()
        os.fsync(file.fileno())


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote, on the CPU.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, of another program or kind, or newer than this program.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            # Copies begin at even places in memory, on which the last bit of what is computed with them can depend.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); give an existing model file") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}); make it again") from None
    try:
        values = json.loads(metadata["cryogem"])
        found, version = values["format"], int(values["format_version"])
    except (KeyError, ValueError, TypeError):
        raise CheckpointError(f"{path} is a safetensors file of another program; give one that cryogem made") from None
    if found != f"cryogem {kind}":
        raise CheckpointError(f"{path} is a {found!r} file where a 'cryogem {kind}' is needed; give the right file")
    if version > FORMAT_VERSION:
        raise CheckpointError(f"{path} has format {version} and this program reads up to {FORMAT_VERSION}; "
                              "update cryogem")
    return tensors, values


def mismatches(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor]) -> list[str]:
    """What is missing, surplus or misshapen, a phrase for each."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in expected]
    return problems + [f"{name} has shape {tuple(found[name].shape)}, not {shape}" for name, shape in expected.items()
                       if name in found and tuple(found[name].shape) != shape]


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
