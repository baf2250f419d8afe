# SPDX-License-Identifier: GPL-3.0-or-later
"""Import of checkpoints of the published program (arXiv:2312.02235). Code in their pickles is not run."""
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
from cryogem_scipion.engine.translator.networks import PatchProjections, build_generator
from cryogem_scipion.engine.translator.tensor_files import mismatches

__all__ = ["import_published"]

INPUT_RANGE = 5.0
"""Standard deviations of the noise that the limit 1 of the input range stands for: about the largest of a million
pixels."""
UNREADABLE = (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, LookupError, ValueError, TypeError,
              AttributeError, AssertionError, OverflowError, struct.error)
"""Exceptions that torch raises for damaged files: its restricted reader does not check whether a pickle is complete."""
DEFAULT_BACKGROUND_DEVIATION = 0.05
"""σ_n of an imported model; no real micrographs are known from which it could be measured."""


def import_published(generator_path: Path, features_path: Path | None, pixel_size: float,
                     snr: float = 0.1) -> Translator:
    """Translator from a published checkpoint. It has no ice, and its images have mean 0 and standard deviation 1.

    Parameters
    ----------
    generator_path
        The generator, ``*_net_G.pth``.
    features_path
        The projection networks of the contrastive loss, ``*_net_F.pth``; None: without them.
    pixel_size
        Å per pixel of the micrographs that it was trained on.
    snr
        Signal-to-noise ratio of the physical images that it was trained on.

    Raises
    ------
    CheckpointError
        A file holds more than tensors, or does not have the published layout; the message names all wrong tensors.
    """
    weights = _read(generator_path)
    levels = _levels(weights)
    outermost = weights.get("model.down.0.weight")
    if outermost is None or outermost.dim() != 4 or levels < 2:
        raise CheckpointError(f"{generator_path} has no model.down.0.weight with four axes, or only one level; "
                              "give a *_net_G.pth of the published program")
    config: dict[str, Any] = {"name": "published", "levels": levels, "width": outermost.shape[0],
                              "scale": INPUT_RANGE}
    with torch.device("meta"):
        network = build_generator(config)
    _check(generator_path, {name: tuple(value.shape) for name, value in network.state_dict().items()}, weights)
    network.load_state_dict(weights, assign=True)
    features = {} if features_path is None else _read(features_path)
    if features_path is not None:
        with torch.device("meta"):
            projections = PatchProjections(network.feature_channels)
        _check(features_path, {name: tuple(value.shape) for name, value in projections.state_dict().items()}, features)
    return Translator(network.eval(), config, PhysicalNoise(DEFAULT_BACKGROUND_DEVIATION), GreyScale(0.0, 1.0),
                      pixel_size, snr, 1.0, {"imported": str(generator_path)}, standardised=True, features=features)


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors of a file in float32, with names without the prefix ``module.`` of a training on several GPUs."""
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); give an existing file") from None
    except UNREADABLE as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or holds more than tensors ({cause}); give a state_dict") from None
    if not isinstance(contents, dict) or not all(isinstance(value, Tensor) for value in contents.values()):
        raise CheckpointError(f"{path} holds a {type(contents).__name__}, not tensors with names; give a state_dict")
    return {str(name).removeprefix("module."): value.float() for name, value in contents.items()}


def _levels(weights: dict[str, Tensor]) -> int:
    """Number of levels of the U-Net."""
    depths = [name.count("submodule.") for name in weights if name.startswith("model.")]
    return max(depths, default=-1) + 1


def _check(path: Path, expected: dict[str, tuple[int, ...]], tensors: dict[str, Tensor]) -> None:
    """Refuse tensors with wrong names, shapes or values."""
    problems = mismatches(expected, tensors)
    if problems:
        raise CheckpointError(f"{path} does not have the published layout: {', '.join(problems)}; give "
                              "a *_net_G.pth of the published program, or for the features a *_net_F.pth")
    not_finite = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if not_finite:
        raise CheckpointError(f"{path} holds values that are not finite in {', '.join(not_finite)}; give an earlier "
                              "one")
