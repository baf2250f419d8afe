# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints of the published program, turned into models of ours; read as tensors, never run as code."""
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryogem_scipion.engine.errors import CheckpointError
from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise
from cryogem_scipion.engine.translator.model import Translator
from cryogem_scipion.engine.translator.networks import PatchProjections
from cryogem_scipion.engine.translator.networks import generator as named_generator
from cryogem_scipion.engine.translator.tensor_files import mismatches

__all__ = ["import_published"]

RANGE = 5.0
"""Deviations of the noise that its input range of -1 to 1 stands for: about the extremes of a million pixels."""
UNREADABLE = (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, LookupError, ValueError, TypeError,
              AttributeError, AssertionError, OverflowError, struct.error)
"""What torch raises at damaged files: its reader of pickles trusts them to be well-formed, not to be harmless."""
BACKGROUND = 0.05
"""σ_n where no real micrographs tell."""


def import_published(generator_path: Path, features_path: Path | None, pixel_size: float,
                     snr: float = 0.1) -> Translator:
    """Return the model in a ``*_net_G.pth``; it has no ice, and its images have mean 0 and deviation 1.

    Parameters
    ----------
    features_path
        The ``*_net_F.pth`` beside it, kept for further training.
    pixel_size
        Å per pixel of the micrographs it was trained on.
    snr
        Signal-to-noise ratio of the physical images it was trained on.

    Raises
    ------
    CheckpointError
        A file is no checkpoint of tensors, or does not fit the published layout: all that is wrong is named.
    """
    weights = _read(generator_path)
    levels = _levels(weights)
    first = weights.get("model.down.0.weight")
    if first is None or first.dim() != 4 or levels < 2:
        raise CheckpointError(f"{generator_path} has no model.down.0.weight of four axes, or no levels below it; "
                              "give a *_net_G.pth of the published program")
    config: dict[str, Any] = {"name": "published", "levels": levels, "width": first.shape[0], "scale": RANGE}
    with torch.device("meta"):
        network = named_generator(config)
    _check(generator_path, {name: tuple(value.shape) for name, value in network.state_dict().items()}, weights)
    network.load_state_dict(weights, assign=True)
    features = {} if features_path is None else _read(features_path)
    if features_path is not None:
        with torch.device("meta"):
            projections = PatchProjections(network.feature_channels)
        _check(features_path, {name: tuple(value.shape) for name, value in projections.state_dict().items()}, features)
    return Translator(network.eval(), config, PhysicalNoise(BACKGROUND), GreyScale(0.0, 1.0), pixel_size, snr, 1.0,
                      {"imported": str(generator_path)}, standardised=True, features=features)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, in float32 and without the name that a wrapper for several GPUs puts before them."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); give an existing file") from None
    except UNREADABLE as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or holds more than tensors ({cause}); give a state_dict") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path} holds a {type(found).__name__} and not tensors by name; give a state_dict")
    return {str(name).removeprefix("module."): value.float() for name, value in found.items()}


def _levels(weights: dict[str, Tensor]) -> int:
    depths = [name.count("submodule.") for name in weights if name.startswith("model.")]
    return max(depths, default=-1) + 1


def _check(path: Path, expected: dict[str, tuple[int, ...]], found: dict[str, Tensor]) -> None:
    problems = mismatches(expected, found)
    if problems:
        raise CheckpointError(f"{path} does not have the published layout: {', '.join(problems)}; give "
                              "a *_net_G.pth, or for the features a *_net_F.pth, as the published program wrote it")
    broken = [name for name, tensor in found.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(f"{path} holds values that are not finite in {', '.join(broken)}; give an earlier one")
