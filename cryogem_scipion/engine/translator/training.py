# SPDX-License-Identifier: GPL-3.0-or-later
"""The training loop, yielding a record a step; a stopped run continues exactly where its checkpoint was written."""
import csv
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from cryogem_scipion.engine.compute.threads import torch_threads
from cryogem_scipion.engine.io.files import replacing
from cryogem_scipion.engine.settings.train import TrainSettings
from cryogem_scipion.engine.translator.crops import RealMicrographs, SimulatedMicrographs
from cryogem_scipion.engine.translator.distributed import ALONE, ProcessGroup
from cryogem_scipion.engine.translator.model import MODEL, save_model
from cryogem_scipion.engine.translator.preview import PREVIEWS
from cryogem_scipion.engine.translator.tensorboard import FOLDER, TensorBoardWriter
from cryogem_scipion.engine.translator.training_state import (
    CHECKPOINT,
    HALFWAY_CHECKPOINT,
    ModelProperties,
    TrainingState,
    derived_seed,
)
from cryogem_scipion.engine.translator.validation import DISTANCES, HeldOutSet, ValidationMetric, judge

__all__ = ["CHECKPOINT", "LOSSES", "MODEL", "PREVIEWS", "REALISM", "ModelProperties", "TrainingRecord", "train"]

log = logging.getLogger("cryogem")

LOSSES, REALISM = "losses.csv", "realism.csv"


@dataclass(frozen=True)
class TrainingRecord:
    """What one step found."""

    step: int
    """Steps done, from 1."""
    steps: int
    adversarial: float
    """Of the generator; 0 when the discriminator takes its images for real."""
    contrastive: float
    discriminator: float
    contrast_drift: float
    """Part of the particles' signal that the translation adds; 0 keeps the contrast."""
    steps_per_second: float


def train(real: RealMicrographs, simulated: SimulatedMicrographs, goal: ModelProperties, settings: TrainSettings, folder: Path,
          device: torch.device, held_out: HeldOutSet | None = None, processes: ProcessGroup = ALONE
          ) -> Iterator[TrainingRecord]:
    """Train, or continue the training in ``folder``; yields a record after each step.

    Writes ``checkpoint.safetensors``, ``losses.csv``, ``realism.csv``, ``tensorboard/``, ``previews/*.png`` and, at
    the end, ``model.safetensors``.

    Parameters
    ----------
    held_out
        Real micrographs that are not trained on: the model is the state that comes nearest to them. Without them it
        is the last one.
    processes
        Those that train together; the first one writes and judges, the others yield nothing.

    Raises
    ------
    DataError
        A micrograph is smaller than the crop.
    CheckpointError
        The checkpoint in the folder is damaged, of another training, or too far for the number of steps.
    """
    state = TrainingState(settings, goal, device, processes)
    state.restore(folder)
    if state.threads != torch.get_num_threads():
        log.info("continuing on %d threads, with which the training began: its last bits depend on their number",
                 state.threads)
    with torch_threads(state.threads):
        if processes.is_rank_zero:
            yield from _steps(state, real, simulated, folder, held_out)
        else:
            while state.step < settings.steps:
                state.train_step(real, simulated)


def _steps(state: TrainingState, real: RealMicrographs, simulated: SimulatedMicrographs, folder: Path,
           held_out: HeldOutSet | None) -> Iterator[TrainingRecord]:
    """The steps that are left, and the files they leave."""
    settings = state.settings
    (folder / PREVIEWS).mkdir(exist_ok=True)
    columns = [field.name for field in fields(TrainingRecord)]
    judging = _judge(state, real, held_out, simulated)
    with (_Table(folder / LOSSES, columns, state.step) as losses,
          _Table(folder / REALISM, ["step", "realism", *DISTANCES], state.step) as realism,
          TensorBoardWriter(folder / FOLDER, state.step) as events):
        if judging and not state.step:
            _judged(state, judging, realism, events)
        begun, before = time.monotonic(), state.step
        while state.step < settings.steps:
            found = state.train_step(real, simulated)
            speed = (state.step - before) / max(time.monotonic() - begun, 1e-9)
            record = TrainingRecord(state.step, settings.steps, **found, steps_per_second=speed)
            losses.add(vars(record))
            events.add(state.step, {**found, "steps_per_second": speed})
            last = state.step == settings.steps
            if judging and (last or state.step % settings.judge_every == 0):
                _judged(state, judging, realism, events)
            if last or state.step % settings.preview_every == 0:
                state.preview(real, simulated, folder / PREVIEWS / f"step_{state.step:07d}.png")
            if state.step == settings.steps // 2:
                state.save(folder / HALFWAY_CHECKPOINT)
            if last or state.step % settings.checkpoint_every == 0:
                state.save(folder / CHECKPOINT)
            yield record
    save_model(folder / MODEL, state.model())


def _judge(state: TrainingState, real: RealMicrographs, held_out: HeldOutSet | None,
           simulated: SimulatedMicrographs) -> ValidationMetric | None:
    if held_out is None:
        return None
    random = torch.Generator().manual_seed(derived_seed(state.settings.seed, "realism"))
    return judge(state.average, held_out, real, simulated, random)


def _judged(state: TrainingState, judging: ValidationMetric, realism: "_Table", events: TensorBoardWriter) -> None:
    """Judge a state; before the first step, the noise that the training starts from."""
    judged = judging(state.averaged)
    state.judged(judged["realism"])
    realism.add({"step": state.step, **judged})
    events.add(state.step, {f"realism/{name}": value for name, value in judged.items()})
    log.info("step %d: realism %.2f, best %.2f at step %d", state.step, judged["realism"], state.best_realism,
             state.best_step)


class _Table:
    """A CSV file that grows; what a killed run wrote after its checkpoint is dropped."""

    def __init__(self, path: Path, columns: list[str], step: int) -> None:
        rows = []
        if path.is_file() and step:
            with path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file)
                        if (row["step"] or "").isdigit() and int(row["step"]) <= step]
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            before = csv.DictWriter(file, columns, lineterminator="\n")
            before.writeheader()
            before.writerows(rows)
        # A line at a time, for those who watch.
        self._file = path.open("a", encoding="utf-8", newline="", buffering=1)
        self._writer = csv.DictWriter(self._file, columns, lineterminator="\n")

    def add(self, values: Mapping[str, int | float]) -> None:
        self._writer.writerow({name: value if isinstance(value, int) else f"{value:.6g}"
                               for name, value in values.items()})

    def __enter__(self) -> "_Table":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
