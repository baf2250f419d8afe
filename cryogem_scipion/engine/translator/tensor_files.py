# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of tensors and JSON values: written completely or not at all, and checked when they are read."""
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

__all__ = ["FORMAT_VERSION", "load_tensors", "mismatches", "save_tensors", "strip_prefix"]

FORMAT_VERSION = 1


def save_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> None:
    """Write tensors and JSON values to a temporary file, then rename it.

    Parameters
    ----------
    kind
        model or checkpoint.
    values
        Values for JSON, stored in the header.
    """
    content = json.dumps({"format": f"cryogem {kind}", "format_version": FORMAT_VERSION, **values})
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(save(contiguous, {"cryogem": content}))
        file.flush()
        os.fsync(file.fileno())


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU and JSON values of a file that ``save_tensors`` wrote.

    Parameters
    ----------
    kind
        model or checkpoint.

    Raises
    ------
    CheckpointError
        The file is missing, is damaged, has another kind, comes from another program or from a newer version.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            # Copies have aligned addresses; the last bit of a result can depend on the alignment.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); give an existing model file") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or is not a safetensors file ({error}); make it again") from None
    try:
        values = json.loads(metadata["cryogem"])
        file_format, version = values["format"], int(values["format_version"])
    except (KeyError, ValueError, TypeError):
        raise CheckpointError(f"{path} is a safetensors file of another program; give one that cryogem made") from None
    if file_format != f"cryogem {kind}":
        raise CheckpointError(f"{path} is a {file_format!r} file, but a 'cryogem {kind}' file is needed; give the "
                              "right file")
    if version > FORMAT_VERSION:
        raise CheckpointError(f"{path} has format {version}, but this program reads formats up to {FORMAT_VERSION}; "
                              "update cryogem")
    return tensors, values


def mismatches(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> list[str]:
    """Messages about missing tensors, unknown tensors and wrong shapes.

    Parameters
    ----------
    expected
        Shape of each tensor by name.
    """
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is unknown" for name in tensors if name not in expected]
    return problems + [f"{name} has shape {tuple(tensors[name].shape)}, not {shape}"
                       for name, shape in expected.items()
                       if name in tensors and tuple(tensors[name].shape) != shape]


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with a prefix; the new names do not have it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
