# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks and optimisers of a training, one step of it, and the checkpoint that it continues from.

Every random number of a step comes from generators seeded with (seed, step): nothing has to be
remembered but weights and optimisers.
"""
import copy
import hashlib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cryogem_scipion.engine.errors import CheckpointError
from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise
from cryogem_scipion.engine.settings.train import TrainSettings
from cryogem_scipion.engine.translator.crops import (
    RealMicrographs,
    SimulatedMicrographs,
    draw_real_crops,
    draw_simulated_crops,
)
from cryogem_scipion.engine.translator.distributed import ALONE, ProcessGroup
from cryogem_scipion.engine.translator.losses import (
    contrast_drift,
    contrastive,
    gradient_penalty,
    least_squares,
    single,
)
from cryogem_scipion.engine.translator.model import Translator
from cryogem_scipion.engine.translator.networks import (
    Generator,
    PatchProjections,
    discriminator,
    generator,
    latent_noise,
)
from cryogem_scipion.engine.translator.preview import write_preview
from cryogem_scipion.engine.translator.tensor_files import load_tensors, part, save_tensors

__all__ = ["CHECKPOINT", "HALFWAY_CHECKPOINT", "ModelProperties", "TrainingState", "checkpoint_disk_bytes", "derived_seed"]

CHECKPOINT, HALFWAY_CHECKPOINT = "checkpoint.safetensors", "checkpoint_half.safetensors"
"""The last state, and that from which the learning rate falls: a longer training shares all that is before it."""
PENALTY_EVERY = 8
"""Steps between gradient penalties, which count that much more."""


@dataclass(frozen=True)
class ModelProperties:
    """What the finished model has to know beside the weights."""

    physical: PhysicalNoise
    scale: GreyScale
    pixel_size: float
    snr: float
    contrast: float
    details: dict[str, Any]


class TrainingState:
    """Networks, optimisers, the number of steps done, and the best state so far."""

    def __init__(self, settings: TrainSettings, goal: ModelProperties, device: torch.device,
                 processes: ProcessGroup = ALONE) -> None:
        self.settings, self.goal, self.device, self.step = settings, goal, device, 0
        self.processes, self.threads = processes, torch.get_num_threads()
        self.config = _generator_config(settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(settings.seed, "weights"))
            self.generator = generator(self.config).to(device)
            self.discriminator = discriminator(
                {"name": settings.discriminator, "width": settings.discriminator_width}).to(device)
            self.projections = PatchProjections(self.generator.feature_channels).to(device)
        self.dtype = torch.float64 if settings.precision == "float64" else torch.float32
        for network in (self.generator, self.discriminator, self.projections):
            network.to(self.dtype)
        self.average = copy.deepcopy(self.generator)
        self.best, self.best_step, self.best_realism = copy.deepcopy(self.generator), 0, math.inf
        ways = [*self.generator.parameters(), *self.projections.parameters()]
        # One by one, the weights of the published networks take a noticeable part of a step (benchmarks/training.py).
        adam = partial(torch.optim.Adam, lr=settings.learning_rate, betas=(0.5, 0.999), fused=True)
        self.generator_optimiser, self.discriminator_optimiser = adam(ways), adam(self.discriminator.parameters())

    def train_step(self, real: RealMicrographs, simulated: SimulatedMicrographs) -> dict[str, float]:
        """One step; returns the losses.

        Every piece of a step has random numbers of its own: which process takes it makes no difference.
        """
        settings, processes = self.settings, self.processes
        for optimiser in (self.generator_optimiser, self.discriminator_optimiser):
            optimiser.param_groups[0]["lr"] = settings.learning_rate * _schedule(self.step, settings.steps)
        randoms, true, clean, masks, physical, latent = self._drawn(real, simulated)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            made, features = self.generator(physical, latent)
            made = single(made)
            judged = least_squares(_full(self.discriminator(made.detach())), 0.0)
            judged = (judged + least_squares(_full(self.discriminator(true)), 1.0)) / 2
        if settings.gradient_penalty and self.step % PENALTY_EVERY == 0:
            seen = true.detach().requires_grad_()
            penalty = gradient_penalty(self.discriminator(seen), seen)
            self._descend(self.discriminator_optimiser, judged + settings.gradient_penalty * PENALTY_EVERY / 2 * penalty)
        else:
            self._descend(self.discriminator_optimiser, judged)
        self.discriminator.requires_grad_(False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            fooled = least_squares(_full(self.discriminator(made)), 1.0)
            encoded = self.generator.encode(made)
            kept = torch.stack([contrastive(
                self.projections, [layer[number:number + 1] for layer in encoded],
                [layer[number:number + 1] for layer in features], masks[number:number + 1], random,
                form=settings.contrastive_form) for number, random in enumerate(randoms)]).mean()
        signal = (clean - 1) / self.goal.physical.background_deviation
        drift = contrast_drift((made - physical)[:, 0], signal, processes.total)
        self._descend(self.generator_optimiser, fooled + settings.contrastive_weight * kept
                 + settings.contrast_weight * drift.square())
        self.discriminator.requires_grad_(True)
        self._follow()
        self.step += 1
        return processes.mean({"adversarial": fooled, "contrastive": kept, "discriminator": judged,
                               "contrast_drift": drift})

    def _drawn(self, real: RealMicrographs, simulated: SimulatedMicrographs) -> tuple[
            list[torch.Generator], Tensor, Tensor, Tensor, Tensor, list[Tensor] | None]:
        """What this process's part of a step begins with: generators, real, clean, masks, physical, latent noise."""
        settings, crop = self.settings, self.settings.crop
        # The first one's seed is that of a training with batches of one.
        randoms = [torch.Generator().manual_seed(derived_seed(settings.seed, (self.step, number) if number else self.step))
                   for number in self.processes.numbers(settings.batch)]
        drawn = []
        for random in randoms:
            true = draw_real_crops(real, crop, 1, random)[:, None].to(self.device, self.dtype)
            pieces = draw_simulated_crops(simulated, crop, 1, random)
            clean, mask = (tensor.to(self.device, self.dtype) for tensor in (pieces.clean, pieces.masks))
            physical = self.goal.physical.batch(clean, pieces.exposures, random)[:, None]
            latent = latent_noise(self.generator, 1, (crop, crop), random) or []
            drawn.append((true, clean, mask, physical, *(noise.to(self.dtype) for noise in latent)))
        true, clean, masks, physical, *latent = (torch.cat(pieces) for pieces in zip(*drawn, strict=True))
        return randoms, true, clean, masks, physical, latent or None

    def preview(self, real: RealMicrographs, simulated: SimulatedMicrographs, path: Path) -> None:
        """Write input, generated and real pieces side by side; always of the same places."""
        settings = self.settings
        random = torch.Generator().manual_seed(derived_seed(settings.seed, "preview"))
        crop = settings.crop
        true = draw_real_crops(real, crop, 2, random)
        pieces = draw_simulated_crops(simulated, crop, 2, random)
        physical = self.goal.physical.batch(pieces.clean.to(self.device), pieces.exposures, random)[:, None]
        with torch.no_grad():
            made, _ = self.averaged(physical, latent_noise(self.average, 2, (crop, crop), random))
        write_preview(path, physical[:, 0].cpu(), made[:, 0].float().cpu(), true)

    @property
    def averaged(self) -> Generator:
        """The generator with averaged weights, in float32."""
        return self.average if self.dtype == torch.float32 else copy.deepcopy(self.average).float()

    @torch.no_grad()
    def judged(self, realism: float) -> None:
        """Remember the averaged weights if they are nearer to real micrographs than all before."""
        if realism < self.best_realism:
            self.best_step, self.best_realism = self.step, realism
            self.best.load_state_dict(self.average.state_dict())

    def model(self) -> Translator:
        """The best model so far; as it is now, with averaged weights, where nothing was judged."""
        goal, details = self.goal, {**self.goal.details, "steps": self.step}
        network = self.average
        if self.best_realism < math.inf:
            network, details = self.best, {**details, "best_step": self.best_step, "realism": self.best_realism}
        return Translator(copy.deepcopy(network).eval().float(), self.config, goal.physical, goal.scale,
                          goal.pixel_size, goal.snr, goal.contrast, details)

    def save(self, path: Path) -> None:
        """Write all that the next step depends on."""
        tensors = {f"{name}.{key}": tensor for name, module in self._modules().items()
                   for key, tensor in module.state_dict().items()}
        for name, optimiser in self._optimisers().items():
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{key}": value for key, value in state.items()}
        save_tensors(path, "checkpoint", tensors, {
            "step": self.step, "steps": self.settings.steps, "threads": self.threads, "digest": self._digest(),
            "best_step": self.best_step,
            "best_realism": self.best_realism if self.best_realism < math.inf else None})

    def restore(self, folder: Path) -> None:
        """Take up the checkpoint in a folder, if there is one.

        With another number of steps that is the one from before the learning rate began to fall, so that the
        longer training is the same as if it had been begun as such.

        Raises
        ------
        CheckpointError
            It is damaged, of another training, or too far for the number of steps.
        """
        found = [folder / name for name in (CHECKPOINT, HALFWAY_CHECKPOINT) if (folder / name).is_file()]
        for path in found:
            tensors, values = load_tensors(path, "checkpoint")
            if values.get("digest") != self._digest():
                raise CheckpointError(f"{path} belongs to a training with other networks, data or seed; "
                                      "choose another out, or delete the folder")
            steps, step = int(values["steps"]), int(values["step"])
            if steps == self.settings.steps or 2 * (step - 1) <= min(steps, self.settings.steps):
                return self._take(path, tensors, values)
        if found:
            raise CheckpointError(f"{folder} holds a training of {steps} steps, which cannot become one of "
                                  f"{self.settings.steps}: its learning rate has fallen too far. Give {steps} or more "
                                  "steps, or choose another out")

    def _take(self, path: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        try:
            for name, module in self._modules().items():
                module.load_state_dict(part(tensors, f"{name}."))
            for name, optimiser in self._optimisers().items():
                states: dict[int, dict[str, Tensor]] = {}
                for key, tensor in part(tensors, f"{name}.").items():
                    index, _, entry = key.partition(".")
                    states.setdefault(int(index), {})[entry] = tensor
                optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
            self.step, self.best_step = int(values["step"]), int(values["best_step"])
            self.threads = int(values.get("threads", self.threads))
            best = values["best_realism"]
            self.best_realism = math.inf if best is None else float(best)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); delete it to begin again") from None

    def _descend(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(optimiser.param_groups[0]["params"])
        optimiser.step()

    @torch.no_grad()
    def _follow(self) -> None:
        """Average the generator's weights over the last steps; over fewer in the beginning."""
        keep = min(self.settings.averaging, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)

    def _modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "average": self.average, "best": self.best,
                "discriminator": self.discriminator, "projections": self.projections}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"forward_optimiser": self.generator_optimiser, "backward_optimiser": self.discriminator_optimiser}

    def _digest(self) -> str:
        free = {"out", "device", "threads", "steps", "preview_every", "checkpoint_every", "real", "simulation",
                *(["processes"] if self.settings.processes == 1 else [])}
        return hashlib.sha256(self.settings.model_dump_json(exclude=free).encode()).hexdigest()


def _generator_config(settings: TrainSettings) -> dict[str, Any]:
    if settings.generator == "published":
        levels = int(math.log2(settings.crop))
        return {"name": "published", "width": settings.generator_width, "levels": levels}
    return {"name": settings.generator, "width": settings.generator_width}


def checkpoint_disk_bytes(settings: TrainSettings) -> int:
    """Disk space of a training's checkpoints and model, one of them still being written."""
    with torch.device("meta"):
        made = generator(_generator_config(settings))
        judging = discriminator({"name": settings.discriminator, "width": settings.discriminator_width})
        projections = PatchProjections(made.feature_channels)
    own, *others = (sum(parameter.numel() for parameter in network.parameters())
                    for network in (made, judging, projections))
    # With two moments of Adam each; the generator also averaged, and at its best.
    checkpoint = 5 * own + 3 * sum(others)
    return (8 if settings.precision == "float64" else 4) * (3 * checkpoint + own)


def derived_seed(seed: int, purpose: object) -> int:
    """Seed of one step, or of one other purpose, of the training with this seed."""
    digest = hashlib.sha256(repr((seed, "training", purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _schedule(step: int, steps: int) -> float:
    """1 for the first half, then falling to 0 in a straight line."""
    return min(1.0, 2 * (steps - step) / steps)


def _full(judgements: list[Tensor]) -> list[Tensor]:
    return [single(judgement) for judgement in judgements]
