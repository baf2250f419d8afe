# SPDX-License-Identifier: GPL-3.0-or-later
"""Learning of the reference from particles with known poses; a stopped training continues exactly.

The reference is the density whose projections, with the CTF of each particle, are nearest to the particles (maximum
likelihood for noise that depends on the frequency only). Whole micrographs are held out: they choose the state that
becomes the model, and they give the noise and the confidence.
"""
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.errors import CheckpointError
from cryogem_scipion.engine.io.csv_log import CsvLog
from cryogem_scipion.engine.pose_estimation.assignment import PoseFinder
from cryogem_scipion.engine.pose_estimation.calibration import measured_noise
from cryogem_scipion.engine.pose_estimation.estimator import Confidence, PoseEstimator
from cryogem_scipion.engine.pose_estimation.orientations import angles_modulo
from cryogem_scipion.engine.pose_estimation.reference import Reference
from cryogem_scipion.engine.pose_estimation.training_particles import TrainingParticles
from cryogem_scipion.engine.settings.train_poses import TrainPosesSettings
from cryogem_scipion.engine.simulation.symmetry import symmetry_operators
from cryogem_scipion.engine.translator.distributed import SINGLE_PROCESS, ProcessGroup
from cryogem_scipion.engine.translator.tensor_files import load_tensors, save_tensors, strip_prefix

__all__ = ["CHECKPOINT", "LOSSES", "PoseRecord", "PoseTraining", "train_poses"]

CHECKPOINT, LOSSES = "checkpoint.safetensors", "losses.csv"
VALIDATED = 48
"""Number of held-out particles whose poses are found in each validation."""


@dataclass(frozen=True)
class PoseRecord:
    """One step of the training. The field names are the columns of ``losses.csv``."""

    step: int
    """Number of finished steps, from 1."""
    steps: int
    """Number of steps of the whole training."""
    loss: float
    """Part of the particles' power that the reference does not explain, with all rings whitened; 1 at the start."""
    held_out_loss: float | None
    """The same for held-out particles; None between validations."""
    held_out_error_degrees: float | None
    """Median error of the orientations of held-out particles, modulo symmetry."""
    learning_rate: float
    steps_per_second: float


class PoseTraining:
    """Reference, optimiser, number of finished steps, and the best reference so far.

    Parameters
    ----------
    estimator
        Everything but the reference and the noise, which are learned.
    """

    def __init__(self, settings: TrainPosesSettings, estimator: PoseEstimator, digest: str,
                 processes: ProcessGroup = SINGLE_PROCESS) -> None:
        self.settings, self.estimator, self.processes, self.digest = settings, estimator, processes, digest
        self.reference: Reference = estimator.reference
        self.operators = symmetry_operators(estimator.symmetry).float().to(estimator.device)
        self.best = self.reference.density.detach().clone()
        self.best_loss, self.best_step, self.step = math.inf, 0, 0
        self.optimiser = torch.optim.Adam(self.reference.parameters(), settings.learning_rate, betas=(0.9, 0.99))

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.settings.steps

    @property
    def learning_rate(self) -> float:
        """Constant in the first half of the training, then a linear fall to 0."""
        return self.settings.learning_rate * min(1.0, 2 * (self.settings.steps - self.step) / self.settings.steps)

    def train_step(self, training: TrainingParticles) -> float:
        """Take one step, and return the loss of its particles."""
        random, batch = self._generator(), self.settings.batch
        part = training.subset(torch.randint(len(training), (batch,), generator=random)).moved_to(self.estimator.device)
        operators = self.operators[torch.randint(len(self.operators), (batch,), generator=random)]
        self.optimiser.param_groups[0]["lr"] = self.learning_rate
        self.optimiser.zero_grad(set_to_none=True)
        # Symmetric copies of a pose are equally right, so the reference becomes symmetric.
        loss = self.loss(replace(part, rotations=part.rotations @ operators))
        loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(self.reference.parameters())
        self.optimiser.step()
        self.step += 1
        return self.processes.mean({"loss": loss})["loss"]

    def loss(self, particles: TrainingParticles) -> Float[Tensor, ""]:
        """Power of the differences between particles and projections, with all rings whitened; 1 for no reference."""
        reference, grid = self.reference, self.estimator.grid
        slices = reference.slices(reference.spectra(), particles.rotations, particles.classes)
        difference = (particles.centred(grid) - slices * particles.particles.ctf).abs().square()
        ring = torch.arange(1.0, grid.rings + 1, device=difference.device)
        return (difference.mean((0, 2)) / self.estimator.ring_power * ring).sum() / ring.sum()

    @torch.no_grad()
    def validate(self, held_out: TrainingParticles) -> tuple[float, float]:
        """Loss of held-out particles, and the median error (degrees) of their orientations; keeps the best state."""
        held_out = held_out.moved_to(self.estimator.device)
        loss = float(self.loss(held_out))
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
            self.best = self.reference.density.detach().clone()
        noise = measured_noise(self.estimator, held_out)
        finder = PoseFinder(replace(self.estimator, noise=noise, confidence=(Confidence(), Confidence())),
                            self.estimator.uses_ctf, self.estimator.grid.rings)
        some = held_out.subset(torch.linspace(0, len(held_out) - 1, min(VALIDATED, len(held_out))).round().long())
        found = finder.find_all(some.particles)
        return loss, float(angles_modulo(found.rotations[:, 0], some.rotations, self.operators).median())

    def save(self, path: Path) -> None:
        """Write a checkpoint, with which the training can continue exactly."""
        tensors = {"density": self.reference.density, "best": self.best}
        for state in self.optimiser.state_dict()["state"].values():
            tensors |= {f"optimiser.{name}": value for name, value in state.items()}
        save_tensors(path, "checkpoint", tensors, {
            "step": self.step, "best_step": self.best_step,
            "best_loss": None if math.isinf(self.best_loss) else self.best_loss, "digest": self.digest})

    def restore(self, folder: Path) -> None:
        """Continue from the checkpoint in a folder, if there is one.

        Raises
        ------
        CheckpointError
            The checkpoint is damaged, or belongs to another training.
        """
        path = folder / CHECKPOINT
        if not path.is_file():
            return
        tensors, values = load_tensors(path, "checkpoint")
        if values.get("digest") != self.digest:
            raise CheckpointError(f"{path} belongs to a training with other particles or settings; choose another out, "
                                  "or delete the folder")
        try:
            device = self.estimator.device
            self.reference.load_state_dict({"density": tensors["density"]})
            self.best = tensors["best"].to(device)
            state = strip_prefix(tensors, "optimiser.")
            groups = self.optimiser.state_dict()["param_groups"]
            self.optimiser.load_state_dict({"state": {0: state}, "param_groups": groups})
            self.step, self.best_step = int(values["step"]), int(values["best_step"])
            self.best_loss = math.inf if values["best_loss"] is None else float(values["best_loss"])
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); delete it to begin again") from None

    def _generator(self) -> torch.Generator:
        """Random generator of this step in this process."""
        digest = hashlib.sha256(repr((self.settings.seed, "poses", self.step, self.processes.rank)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def train_poses(state: PoseTraining, training: TrainingParticles, held_out: TrainingParticles, folder: Path
                ) -> Iterator[PoseRecord]:
    """Train for the steps that are left; yields a record after each, and writes ``losses.csv`` and checkpoints.

    At the end, the reference is the best one.
    """
    settings, writes = state.settings, state.processes.is_rank_zero
    state.restore(folder)
    start, first = time.monotonic(), state.step
    columns = [field.name for field in fields(PoseRecord)]
    log = CsvLog(folder / LOSSES, columns, state.step) if writes else None
    while not state.finished:
        rate, loss = state.learning_rate, state.train_step(training)
        held_out_loss = error = None
        if writes and (state.finished or state.step % settings.validate_every == 0):
            held_out_loss, error = state.validate(held_out)
        speed = (state.step - first) / max(time.monotonic() - start, 1e-9)
        record = PoseRecord(state.step, settings.steps, loss, held_out_loss, error, rate, speed)
        if log is not None:
            log.add(vars(record))
            if state.finished or state.step % settings.checkpoint_every == 0:
                state.save(folder / CHECKPOINT)
        yield record
    if log is not None:
        log.close()
    with torch.no_grad():
        state.reference.density.copy_(state.best)
