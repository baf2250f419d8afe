# SPDX-License-Identifier: GPL-3.0-or-later
"""The training loop, yielding a record a step; a stopped run continues exactly where its checkpoint was written.

Every random number of a step comes from generators seeded with (seed, step): nothing has to be
remembered but weights and optimisers.
"""
import copy
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cryogem_scipion.config.train import TrainSettings
from cryogem_scipion.errors import CheckpointError, SettingsError
from cryogem_scipion.translator.analytic import GreyScale, PhysicalNoise
from cryogem_scipion.translator.checkpoint import MODEL, Translator, save_model
from cryogem_scipion.translator.losses import contrast_drift, contrastive, gradient_penalty, least_squares
from cryogem_scipion.translator.networks import PatchProjections, discriminator, generator, latent_noise
from cryogem_scipion.translator.patches import RealPieces, SimulatedPieces, draw_real, draw_simulated
from cryogem_scipion.translator.preview import PREVIEWS, write_preview
from cryogem_scipion.translator.tensors import load_tensors, part, save_tensors

__all__ = ["CHECKPOINT", "LOSSES", "MODEL", "PREVIEWS", "Goal", "TrainingRecord", "train"]

CHECKPOINT, LOSSES = "checkpoint.safetensors", "losses.csv"
PENALTY_EVERY = 8
"""Steps between gradient penalties, which count that much more."""


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


@dataclass(frozen=True)
class Goal:
    """What the finished model has to know beside the weights."""

    physical: PhysicalNoise
    scale: GreyScale
    pixel_size: float
    snr: float
    contrast: float
    details: dict[str, Any]


def train(real: RealPieces, simulated: SimulatedPieces, goal: Goal, settings: TrainSettings, folder: Path,
          device: torch.device) -> Iterator[TrainingRecord]:
    """Train, or continue the training in ``folder``; yields a record after each step.

    Writes ``checkpoint.safetensors``, ``losses.csv``, ``previews/*.png`` and, at the end, ``model.safetensors``.

    Raises
    ------
    DataError
        A micrograph is smaller than the crop.
    CheckpointError
        The checkpoint in the folder is damaged or of another training.
    """
    run = _Run(settings, goal, device)
    run.restore(folder / CHECKPOINT)
    (folder / PREVIEWS).mkdir(exist_ok=True)
    _trim(folder / LOSSES, run.step)
    # A line at a time, for those who watch.
    with (folder / LOSSES).open("a", encoding="utf-8", buffering=1) as table:
        if not table.tell():
            table.write(",".join(field.name for field in fields(TrainingRecord)) + "\n")
        begun, before = time.monotonic(), run.step
        while run.step < settings.steps:
            losses = run.advance(real, simulated)
            speed = (run.step - before) / max(time.monotonic() - begun, 1e-9)
            record = TrainingRecord(run.step, settings.steps, **losses, steps_per_second=speed)
            table.write(",".join(f"{value:.6g}" for value in vars(record).values()) + "\n")
            last = run.step == settings.steps
            if last or run.step % settings.preview_every == 0:
                run.preview(real, simulated, folder / PREVIEWS / f"step_{run.step:07d}.png")
            if last or run.step % settings.checkpoint_every == 0:
                run.save(folder / CHECKPOINT)
            yield record
    save_model(folder / MODEL, run.model())


class _Run:
    """Networks, optimisers and the number of steps done."""

    def __init__(self, settings: TrainSettings, goal: Goal, device: torch.device) -> None:
        self.settings, self.goal, self.device, self.step = settings, goal, device, 0
        self.config = _generator_config(settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(settings.seed, "weights"))
            self.generator = generator(self.config).to(device)
            self.discriminator = discriminator(
                {"name": settings.discriminator, "width": settings.discriminator_width}).to(device)
            self.projections = PatchProjections(self.generator.feature_channels).to(device)
        self.average = copy.deepcopy(self.generator)
        ways = [*self.generator.parameters(), *self.projections.parameters()]
        betas = (0.5, 0.999)
        self.forward_optimiser = torch.optim.Adam(ways, settings.learning_rate, betas)
        self.backward_optimiser = torch.optim.Adam(self.discriminator.parameters(), settings.learning_rate, betas)
        if settings.crop % self.generator.multiple:
            raise SettingsError(f"crop {settings.crop} is no multiple of {self.generator.multiple}, which the "
                                f"{settings.generator} generator needs; give {self._near()}")

    def advance(self, real: RealPieces, simulated: SimulatedPieces) -> dict[str, float]:
        """One step; returns the losses."""
        settings = self.settings
        for optimiser in (self.forward_optimiser, self.backward_optimiser):
            optimiser.param_groups[0]["lr"] = settings.learning_rate * _schedule(self.step, settings.steps)
        random = torch.Generator().manual_seed(_seed(settings.seed, self.step))
        true = draw_real(real, settings.crop, settings.batch, random)[:, None].to(self.device)
        clean, masks = (tensor.to(self.device) for tensor in
                        draw_simulated(simulated, settings.crop, settings.batch, random))
        physical = self._physical(clean, random)
        latent = latent_noise(self.generator, settings.batch, (settings.crop, settings.crop), random)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            made, features = self.generator(physical, latent)
            made = made.float()
            judged = least_squares(_full(self.discriminator(made.detach())), 0.0)
            judged = (judged + least_squares(_full(self.discriminator(true)), 1.0)) / 2
        if settings.gradient_penalty and self.step % PENALTY_EVERY == 0:
            seen = true.detach().requires_grad_()
            penalty = gradient_penalty(self.discriminator(seen), seen)
            _descend(self.backward_optimiser, judged + settings.gradient_penalty * PENALTY_EVERY / 2 * penalty)
        else:
            _descend(self.backward_optimiser, judged)
        self.discriminator.requires_grad_(False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            fooled = least_squares(_full(self.discriminator(made)), 1.0)
            kept = contrastive(self.projections, self.generator.encode(made), features, masks, random,
                               form=settings.contrastive_form)
        signal = (clean - 1) / self.goal.physical.background_deviation
        drift = contrast_drift((made - physical)[:, 0], signal)
        _descend(self.forward_optimiser, fooled + settings.contrastive_weight * kept
                 + settings.contrast_weight * drift.square())
        self.discriminator.requires_grad_(True)
        self._follow()
        self.step += 1
        return {"adversarial": fooled.item(), "contrastive": kept.item(), "discriminator": judged.item(),
                "contrast_drift": drift.item()}

    def preview(self, real: RealPieces, simulated: SimulatedPieces, path: Path) -> None:
        """Write input, generated and real pieces side by side; always of the same places."""
        settings = self.settings
        random = torch.Generator().manual_seed(_seed(settings.seed, "preview"))
        crop = settings.crop
        true = draw_real(real, crop, 2, random)
        clean, _ = draw_simulated(simulated, crop, 2, random)
        physical = self._physical(clean.to(self.device), random)
        with torch.no_grad():
            made, _ = self.average(physical, latent_noise(self.average, 2, (crop, crop), random))
        write_preview(path, physical[:, 0].cpu(), made[:, 0].float().cpu(), true)

    def model(self) -> Translator:
        """The model as it is now, with averaged weights."""
        goal = self.goal
        return Translator(copy.deepcopy(self.average).eval(), self.config, goal.physical, goal.scale, goal.pixel_size,
                          goal.snr, goal.contrast, {**goal.details, "steps": self.step})

    def save(self, path: Path) -> None:
        """Write all that the next step depends on."""
        tensors = {f"{name}.{key}": tensor for name, module in self._modules().items()
                   for key, tensor in module.state_dict().items()}
        for name, optimiser in self._optimisers().items():
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{key}": value for key, value in state.items()}
        save_tensors(path, "checkpoint", tensors, {"step": self.step, "digest": self._digest()})

    def restore(self, path: Path) -> None:
        """Take up a checkpoint, if there is one."""
        if not path.is_file():
            return
        tensors, values = load_tensors(path, "checkpoint")
        if values.get("digest") != self._digest():
            raise CheckpointError(f"{path} belongs to a training with other networks, steps or seed; "
                                  "choose another out, or delete the folder")
        try:
            for name, module in self._modules().items():
                module.load_state_dict(part(tensors, f"{name}."))
            for name, optimiser in self._optimisers().items():
                states: dict[int, dict[str, Tensor]] = {}
                for key, tensor in part(tensors, f"{name}.").items():
                    index, _, entry = key.partition(".")
                    states.setdefault(int(index), {})[entry] = tensor
                optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
            self.step = int(values["step"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); delete it to begin again") from None

    def _physical(self, clean: Float[Tensor, "b y x"], random: torch.Generator) -> Float[Tensor, "b 1 y x"]:
        return torch.stack([self.goal.physical.deviations(image, random) for image in clean])[:, None]

    @torch.no_grad()
    def _follow(self) -> None:
        """Average the generator's weights over the last steps; over fewer in the beginning."""
        keep = min(self.settings.averaging, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)

    def _modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "average": self.average, "discriminator": self.discriminator,
                "projections": self.projections}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"forward_optimiser": self.forward_optimiser, "backward_optimiser": self.backward_optimiser}

    def _digest(self) -> str:
        free = {"out", "device", "threads", "preview_every", "checkpoint_every", "real", "simulation"}
        return hashlib.sha256(self.settings.model_dump_json(exclude=free).encode()).hexdigest()

    def _near(self) -> int:
        multiple: int = self.generator.multiple
        return max(1, round(self.settings.crop / multiple)) * multiple


def _generator_config(settings: TrainSettings) -> dict[str, Any]:
    if settings.generator == "published":
        levels = int(math.log2(settings.crop))
        return {"name": "published", "width": settings.generator_width, "levels": levels}
    return {"name": settings.generator, "width": settings.generator_width}


def _seed(seed: int, purpose: object) -> int:
    digest = hashlib.sha256(repr((seed, "training", purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _schedule(step: int, steps: int) -> float:
    """1 for the first half, then falling to 0 in a straight line."""
    return min(1.0, 2 * (steps - step) / steps)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _full(judgements: list[Tensor]) -> list[Tensor]:
    return [judgement.float() for judgement in judgements]


def _trim(path: Path, step: int) -> None:
    """Drop the lines of a killed run that its checkpoint does not know."""
    if path.is_file():
        lines = path.read_text("utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:step + 1] if step else []), "utf-8")
