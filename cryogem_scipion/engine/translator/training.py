# SPDX-License-Identifier: GPL-3.0-or-later
"""Training loop with a record for each step; a stopped training continues exactly from its last checkpoint."""
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from cryogem_scipion.engine.compute.threads import torch_threads
from cryogem_scipion.engine.io.csv_log import CsvLog
from cryogem_scipion.engine.settings.train import TrainSettings
from cryogem_scipion.engine.translator.checkpoint import (
    CHECKPOINT,
    HALFWAY_CHECKPOINT,
    restore_checkpoint,
    save_checkpoint,
)
from cryogem_scipion.engine.translator.crops import RealImages, SimulatedImages
from cryogem_scipion.engine.translator.distributed import SINGLE_PROCESS, ProcessGroup
from cryogem_scipion.engine.translator.model import MODEL, save_model
from cryogem_scipion.engine.translator.preview import PREVIEWS
from cryogem_scipion.engine.translator.tensorboard import TENSORBOARD, TensorBoardWriter
from cryogem_scipion.engine.translator.training_state import ModelProperties, TrainingState, derived_seed
from cryogem_scipion.engine.translator.validation import (
    VALUES,
    HeldOutSet,
    ValidationMetric,
    prepare_validation_metric,
)

__all__ = ["CHECKPOINT", "LOSSES", "MODEL", "PREVIEWS", "REALISM", "ModelProperties", "TrainingRecord", "train"]

log = logging.getLogger("cryogem")

LOSSES, REALISM = "losses.csv", "realism.csv"


@dataclass(frozen=True)
class TrainingRecord:
    """Losses and speed of one step. The field names are the columns of ``losses.csv``."""

    step: int
    """Number of finished steps, from 1."""
    steps: int
    """Number of steps of the whole training."""
    adversarial: float
    """Adversarial loss of the generator; 0 if the discriminator takes its images for real ones."""
    contrastive: float
    discriminator: float
    contrast_drift: float
    """Relative change of the particles' contrast by the translation; 0 if it stays."""
    steps_per_second: float


def train(real: RealImages, simulated: SimulatedImages, properties: ModelProperties, settings: TrainSettings,
          folder: Path, device: torch.device, held_out: HeldOutSet | None = None,
          processes: ProcessGroup = SINGLE_PROCESS) -> Iterator[TrainingRecord]:
    """Train a noise translator, or continue the training in ``folder``; yields a record after each step.

    Writes ``checkpoint.safetensors``, ``losses.csv``, ``realism.csv``, ``tensorboard/``, ``previews/*.png`` and, at
    the end, ``model.safetensors``.

    Parameters
    ----------
    properties
        What the model has besides the network.
    held_out
        Held-out micrographs for the validation. The model then has the weights of the best validation (see
        ``StateChoice``), and a training without improvement stops early. Without them, or validations, the model has
        the weights of the last step.
    processes
        Processes that train together. Only rank 0 writes files, computes the validation metric and yields records.

    Raises
    ------
    DataError
        A micrograph is smaller than the crop.
    CheckpointError
        The checkpoint in the folder is damaged, belongs to another training, or its learning rate has already fallen
        for a training with another number of steps.
    """
    state = TrainingState(settings, properties, device, processes)
    restore_checkpoint(state, folder)
    if state.threads != torch.get_num_threads():
        log.info("continuing on %d threads, as at the start of the training, because the last bits of the results "
                 "depend on this number",
                 state.threads)
    with torch_threads(state.threads):
        if processes.is_rank_zero:
            yield from _train_and_write(state, real, simulated, folder, held_out)
        else:
            while not state.finished:
                state.train_step(real, simulated)
                if state.is_validated:
                    state.share_validation()


def _train_and_write(state: TrainingState, real: RealImages, simulated: SimulatedImages, folder: Path,
                     held_out: HeldOutSet | None) -> Iterator[TrainingRecord]:
    """Train for the remaining steps and write all files."""
    settings = state.settings
    (folder / PREVIEWS).mkdir(exist_ok=True)
    columns = [field.name for field in fields(TrainingRecord)]
    metric = _validation_metric(state, real, held_out, simulated)
    with (CsvLog(folder / LOSSES, columns, state.step) as losses_file,
          CsvLog(folder / REALISM, ["step", *VALUES, "best_step"], state.step) as realism_file,
          TensorBoardWriter(folder / TENSORBOARD, state.step) as tensorboard):
        if metric and not state.step:
            _validate(state, metric, realism_file, tensorboard)
        start_time, first_step = time.monotonic(), state.step
        while not state.finished:
            losses = state.train_step(real, simulated)
            speed = (state.step - first_step) / max(time.monotonic() - start_time, 1e-9)
            record = TrainingRecord(state.step, settings.steps, **losses, steps_per_second=speed)
            losses_file.add(vars(record))
            tensorboard.add(state.step, {**losses, "steps_per_second": speed})
            if metric and (state.finished or state.is_validated):
                _validate(state, metric, realism_file, tensorboard)
            if state.is_validated:
                state.share_validation()
            last = state.finished
            if last or state.step % settings.preview_every == 0:
                state.save_preview(real, simulated, folder / PREVIEWS / f"step_{state.step:07d}.png")
            if state.step == settings.steps // 2:
                save_checkpoint(state, folder / HALFWAY_CHECKPOINT)
            if last or state.step % settings.checkpoint_every == 0:
                save_checkpoint(state, folder / CHECKPOINT)
            yield record
    if state.stopped_early and state.step < settings.steps:
        log.info("stopped early at step %d of %d: no better validation since step %d (patience %d); a larger patience, "
                 "or 0, continues the training", state.step, settings.steps, state.choice.best_step, settings.patience)
    save_model(folder / MODEL, state.model())


def _validation_metric(state: TrainingState, real: RealImages, held_out: HeldOutSet | None,
                       simulated: SimulatedImages) -> ValidationMetric | None:
    if held_out is None or not state.settings.judge_every:
        return None
    random = torch.Generator().manual_seed(derived_seed(state.settings.seed, "realism"))
    return prepare_validation_metric(state.average, held_out, real, simulated, state.properties.physical, random)


def _validate(state: TrainingState, metric: ValidationMetric, realism_file: "CsvLog",
              tensorboard: TensorBoardWriter) -> None:
    """Validate and write the values; before the first step they are those of the physical images."""
    values = metric(state.averaged_generator, "bf16" if state.precision == "bf16" else "float32")
    state.update_best(values)
    realism_file.add({"step": state.step, **values, "best_step": state.choice.best_step})
    tensorboard.add(state.step, {f"realism/{name}": value for name, value in values.items()})
    log.info("step %d: AUC of the critic %.3f, distance metric %.2f; best AUC %.3f at step %d", state.step,
             values["auc"], values["realism"], state.choice.best_auc, state.choice.best_step)
