# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoint of a training, from which it continues exactly."""
import hashlib
from pathlib import Path

import torch

from cryogem_scipion.engine.errors import CheckpointError
from cryogem_scipion.engine.settings.train import TrainSettings
from cryogem_scipion.engine.translator.networks import PatchProjections, build_discriminator, build_generator
from cryogem_scipion.engine.translator.tensor_files import load_tensors, save_tensors
from cryogem_scipion.engine.translator.training_state import TrainingState, generator_config

__all__ = ["CHECKPOINT", "HALFWAY_CHECKPOINT", "checkpoint_disk_bytes", "restore_checkpoint", "save_checkpoint"]

CHECKPOINT, HALFWAY_CHECKPOINT = "checkpoint.safetensors", "checkpoint_half.safetensors"
"""Checkpoint of the last step, and of the step after which the learning rate falls. A longer training can continue from
the second one."""


def save_checkpoint(state: TrainingState, path: Path) -> None:
    """Write a checkpoint, with which the training can continue exactly."""
    save_tensors(path, "checkpoint", state.tensors(), {
        **state.values(), "steps": state.settings.steps, "digest": _settings_digest(state.settings)})


def restore_checkpoint(state: TrainingState, folder: Path) -> None:
    """Continue from the checkpoint in a folder, if there is one.

    If the number of steps has changed, a checkpoint from before the learning rate falls is used. Then the result is the
    same as that of a new training with this number of steps.

    Raises
    ------
    CheckpointError
        The checkpoint is damaged, belongs to another training, or its learning rate has already fallen for a training
        with another number of steps.
    """
    paths = [folder / name for name in (CHECKPOINT, HALFWAY_CHECKPOINT) if (folder / name).is_file()]
    for path in paths:
        tensors, values = load_tensors(path, "checkpoint")
        if values.get("digest") != _settings_digest(state.settings):
            raise CheckpointError(f"{path} belongs to a training with other networks, data or seed; "
                                  "choose another out, or delete the folder")
        steps, step = int(values["steps"]), int(values["step"])
        if steps == state.settings.steps or 2 * (step - 1) <= min(steps, state.settings.steps):
            try:
                return state.load(tensors, values)
            except (RuntimeError, KeyError, ValueError, TypeError) as error:
                raise CheckpointError(f"{path} is damaged ({error}); delete it to begin again") from None
    if paths:
        raise CheckpointError(f"{folder} holds a training of {steps} steps, which cannot be changed to "
                              f"{state.settings.steps} steps, because its learning rate has already fallen. Give "
                              f"{steps} or more steps, or choose another out")


def _settings_digest(settings: TrainSettings) -> str:
    """Digest of the settings that must not change when a training continues."""
    may_change = {"out", "device", "threads", "steps", "preview_every", "checkpoint_every", "real", "simulation",
                  *(["processes"] if settings.processes == 1 else []),
                  # Not in the digests of older checkpoints; the run's folder keeps the second one.
                  "patience", "adaptive_rate"}
    return hashlib.sha256(settings.model_dump_json(exclude=may_change).encode()).hexdigest()


def checkpoint_disk_bytes(settings: TrainSettings) -> int:
    """Disk space in bytes for two checkpoints, a third one that is being written, and the model."""
    with torch.device("meta"):
        generator = build_generator(generator_config(settings))
        discriminator = build_discriminator({"name": settings.discriminator, "width": settings.discriminator_width})
        projections = PatchProjections(generator.feature_channels)
    of_generator, *of_others = (sum(parameter.numel() for parameter in network.parameters())
                                for network in (generator, discriminator, projections))
    # Adam has two moments of each weight. The generator is stored three times: current, average and best weights.
    checkpoint = 5 * of_generator + 3 * sum(of_others)
    return (8 if settings.precision == "float64" else 4) * (3 * checkpoint + of_generator)
