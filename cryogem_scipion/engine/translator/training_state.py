# SPDX-License-Identifier: GPL-3.0-or-later
"""State of a training: networks and optimisers, one training step, and what a checkpoint holds of them.

All random numbers of a step come from generators seeded with the seed and the step. So a checkpoint holds only
weights, the states of the optimisers and the number of steps.
"""
import copy
import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cryogem_scipion.engine.compute.devices import chosen_precision
from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise
from cryogem_scipion.engine.settings.train import TrainSettings
from cryogem_scipion.engine.translator.crops import (
    RealImages,
    SimulatedImages,
    draw_real_crops,
    draw_simulated_crops,
)
from cryogem_scipion.engine.translator.discriminator_advantage import DiscriminatorAdvantage
from cryogem_scipion.engine.translator.distributed import SINGLE_PROCESS, ProcessGroup
from cryogem_scipion.engine.translator.losses import (
    at_least_float32,
    contrast_drift,
    contrastive_loss,
    gradient_penalty,
    least_squares_loss,
    score_difference,
)
from cryogem_scipion.engine.translator.model import Translator
from cryogem_scipion.engine.translator.networks import (
    Generator,
    PatchProjections,
    build_discriminator,
    build_generator,
    latent_noise,
)
from cryogem_scipion.engine.translator.preview import write_preview
from cryogem_scipion.engine.translator.state_choice import StateChoice
from cryogem_scipion.engine.translator.tensor_files import strip_prefix

__all__ = ["ModelProperties", "TrainingState", "derived_seed", "generator_config"]

log = logging.getLogger("cryogem")

PENALTY_EVERY = 8
"""Interval of the gradient penalty in steps; the penalty is multiplied by it."""


@dataclass(frozen=True)
class ModelProperties:
    """Everything in a finished model except the network; the fields are those of ``Translator``."""

    physical: PhysicalNoise
    """Ice and noise of the physical images."""
    scale: GreyScale
    """Grey values of the real set."""
    pixel_size: float
    """Å per pixel."""
    snr: float
    """Signal-to-noise ratio of the physical images."""
    signal_factor: float
    """Factor by which the signal s of the simulation is multiplied to get this SNR."""
    details: dict[str, Any]
    """Information only."""


class _Batch(NamedTuple):
    """Input of a training step: the crops of this process."""

    randoms: list[torch.Generator]
    """Random generator of each sample."""
    real: Tensor
    """(b, 1, y, x), in standard deviations of the noise."""
    clean: Tensor
    """(b, y, x)."""
    masks: Tensor
    """(b, y, x), 1 inside particles."""
    physical: Tensor
    """(b, 1, y, x), in standard deviations of the noise."""
    latent: list[Tensor] | None
    """Result of ``latent_noise``."""


class TrainingState:
    """Networks, optimisers, the number of finished steps, and the best weights so far.

    Parameters
    ----------
    properties
        What the model has besides the network.
    processes
        Processes that train together.
    """

    def __init__(self, settings: TrainSettings, properties: ModelProperties, device: torch.device,
                 processes: ProcessGroup = SINGLE_PROCESS) -> None:
        self.settings, self.properties, self.device, self.step = settings, properties, device, 0
        self.processes, self.threads = processes, torch.get_num_threads()
        self.config = generator_config(settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(settings.seed, "weights"))
            self.generator = build_generator(self.config).to(device)
            self.discriminator = build_discriminator(
                {"name": settings.discriminator, "width": settings.discriminator_width}).to(device)
            self.projections = PatchProjections(self.generator.feature_channels).to(device)
        self.precision = chosen_precision(settings.precision, device)
        self.dtype = torch.float64 if self.precision == "float64" else torch.float32
        for network in (self.generator, self.discriminator, self.projections):
            network.to(self.dtype)
        self.average = copy.deepcopy(self.generator)
        self.advantage = DiscriminatorAdvantage()
        self.best, self.choice, self.stopped_early = copy.deepcopy(self.generator), StateChoice(), False
        self.too_far = False
        # Fused: a loop over the weights of the published networks takes a noticeable part of a step
        # (benchmarks/training.py).
        adam = partial(torch.optim.Adam, lr=settings.learning_rate, betas=(0.5, 0.999), fused=True)
        self.generator_optimiser = adam([*self.generator.parameters(), *self.projections.parameters()])
        self.discriminator_optimiser = adam(self.discriminator.parameters())

    def train_step(self, real: RealImages, simulated: SimulatedImages) -> dict[str, float]:
        """Train for one step: first the discriminator, then the generator and the projection networks.

        Every sample of a step has its own random generator, so it does not matter which process computes it.

        Returns
        -------
        ``adversarial``, ``contrastive``, ``discriminator``: the losses; ``contrast_drift``. Means over all processes.

        References
        ----------
        arXiv:2312.02235; Adam arXiv:1412.6980
        """
        settings, processes = self.settings, self.processes
        learning_rate = settings.learning_rate * _learning_rate_factor(self.step, settings.steps)
        batch = self._draw_batch(real, simulated)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            generated, physical_features = self.generator(batch.physical, batch.latent)
            generated = at_least_float32(generated)
            generated_scores, real_scores = self._scores(generated.detach()), self._scores(batch.real)
            discriminator_loss = (least_squares_loss(generated_scores, 0.0) + least_squares_loss(real_scores, 1.0)) / 2
        difference = score_difference(real_scores, generated_scores).detach()
        self.advantage.add(processes.mean({"difference": difference})["difference"])
        pace = self.advantage.generator_pace() if settings.adaptive_rate else 1.0
        self.discriminator_optimiser.param_groups[0]["lr"] = learning_rate
        self.generator_optimiser.param_groups[0]["lr"] = learning_rate * pace
        if settings.gradient_penalty and self.step % PENALTY_EVERY == 0:
            real_crops = batch.real.detach().requires_grad_()
            penalty = gradient_penalty(self.discriminator(real_crops), real_crops)
            self._optimise(self.discriminator_optimiser,
                           discriminator_loss + settings.gradient_penalty * PENALTY_EVERY / 2 * penalty)
        else:
            self._optimise(self.discriminator_optimiser, discriminator_loss)
        self.discriminator.requires_grad_(False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            adversarial = least_squares_loss(self._scores(generated), 1.0)
            generated_features = self.generator.encode(generated)
            contrastive = torch.stack([contrastive_loss(
                self.projections, [layer[index:index + 1] for layer in generated_features],
                [layer[index:index + 1] for layer in physical_features], batch.masks[index:index + 1], random,
                form=settings.contrastive_form) for index, random in enumerate(batch.randoms)]).mean()
        signal = (batch.clean - 1) / self.properties.physical.background_deviation
        drift = contrast_drift((generated - batch.physical)[:, 0], signal, processes.sum)
        self._optimise(self.generator_optimiser, adversarial + settings.contrastive_weight * contrastive
                       + settings.contrast_weight * drift.square())
        self.discriminator.requires_grad_(True)
        self._update_average()
        self.step += 1
        return processes.mean({"adversarial": adversarial, "contrastive": contrastive,
                               "discriminator": discriminator_loss, "contrast_drift": drift})

    def _scores(self, images: Tensor) -> list[Tensor]:
        """Score maps of the discriminator, at least float32."""
        return [at_least_float32(scores) for scores in self.discriminator(images)]

    def _draw_batch(self, real: RealImages, simulated: SimulatedImages) -> _Batch:
        """Draw the crops, noise and latent noise of this process for the next step."""
        settings, crop = self.settings, self.settings.crop
        # The first sample of a step has the seed that it has in a training with batches of one.
        randoms = [torch.Generator().manual_seed(
            derived_seed(settings.seed, (self.step, index) if index else self.step))
            for index in self.processes.sample_indices(settings.batch)]
        samples = []
        for random in randoms:
            real_crop = draw_real_crops(real, crop, 1, random)[:, None].to(self.device, self.dtype)
            simulated_crop = draw_simulated_crops(simulated, crop, 1, random)
            clean, mask = (tensor.to(self.device, self.dtype)
                           for tensor in (simulated_crop.clean, simulated_crop.masks))
            physical = self.properties.physical.batch(clean, simulated_crop.exposures, random)[:, None]
            latent = latent_noise(self.generator, 1, (crop, crop), random) or []
            samples.append((real_crop, clean, mask, physical, *(noise.to(self.dtype) for noise in latent)))
        real_crops, clean, masks, physical, *latent = (torch.cat(tensors) for tensors in zip(*samples, strict=True))
        return _Batch(randoms, real_crops, clean, masks, physical, latent or None)

    def save_preview(self, real: RealImages, simulated: SimulatedImages, path: Path) -> None:
        """Write a PNG with physical, generated and real crops side by side, always at the same places."""
        settings = self.settings
        random = torch.Generator().manual_seed(derived_seed(settings.seed, "preview"))
        crop = settings.crop
        real_crops = draw_real_crops(real, crop, 2, random)
        simulated_crops = draw_simulated_crops(simulated, crop, 2, random)
        physical = self.properties.physical.batch(simulated_crops.clean.to(self.device), simulated_crops.exposures,
                                                  random)[:, None]
        with torch.no_grad():
            generated, _ = self.averaged_generator(physical, latent_noise(self.average, 2, (crop, crop), random))
        write_preview(path, physical[:, 0].cpu(), generated[:, 0].float().cpu(), real_crops)

    @property
    def averaged_generator(self) -> Generator:
        """Generator with averaged weights, in float32."""
        return self.average if self.dtype == torch.float32 else copy.deepcopy(self.average).float()

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the training was stopped early."""
        return self.stopped_early or self.step >= self.settings.steps

    @property
    def is_validated(self) -> bool:
        """Whether this step has a validation."""
        return self.settings.judge_every > 0 and self.step % self.settings.judge_every == 0

    @torch.no_grad()
    def update_best(self, validation: Mapping[str, float]) -> None:
        """Keep the averaged weights as the best ones if their validation is the best so far.

        Parameters
        ----------
        validation
            Result of ``ValidationMetric``; rank 0 has it.
        """
        self.choice = self.choice.after(self.step, validation)
        self.too_far = self.choice.is_too_far(validation)
        if self.choice.best_step == self.step:
            self.best.load_state_dict(self.average.state_dict())
        elif self.too_far:
            log.info("step %d is too far from the held-out micrographs; the generator returns to step %d", self.step,
                     self.choice.best_step)
            for network in (self.generator, self.average):
                network.load_state_dict(self.best.state_dict())

    @torch.no_grad()
    def share_validation(self) -> None:
        """Let all processes stop, or return to the best weights, as rank 0 does; every process has to call this."""
        is_rank_zero = self.processes.is_rank_zero
        flags = {"stop": is_rank_zero and self._lost_patience(), "too_far": is_rank_zero and self.too_far}
        shared = self.processes.mean({name: torch.tensor(float(flag), device=self.device)
                                      for name, flag in flags.items()})
        self.stopped_early = shared["stop"] > 0
        if shared["too_far"]:
            for network in (self.generator, self.average):
                self.processes.broadcast(network.parameters())

    def _lost_patience(self) -> bool:
        return 0 < self.settings.patience <= self.choice.without_improvement

    def model(self) -> Translator:
        """Model with the best weights so far; without a validation metric, with the averaged weights of this step."""
        properties, details = self.properties, {**self.properties.details, "steps": self.step,
                                                "precision": self.precision}
        network = self.average
        if self.choice.best_realism is not None:
            network, details = self.best, {**details, "best_step": self.choice.best_step,
                                           "realism": self.choice.best_realism, "auc": self.choice.best_auc}
        return Translator(copy.deepcopy(network).eval().float(), self.config, properties.physical, properties.scale,
                          properties.pixel_size, properties.snr, properties.signal_factor, details)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint: the weights of all networks, and what the optimisers know."""
        tensors = {f"{name}.{key}": tensor for name, module in self._modules().items()
                   for key, tensor in module.state_dict().items()}
        for name, optimiser in self._optimisers().items():
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{key}": value for key, value in state.items()}
        return {**tensors, "score_differences": self.advantage.values()}

    def values(self) -> dict[str, Any]:
        """What else a checkpoint holds of the state."""
        return {"step": self.step, "threads": self.threads, "precision": self.precision, **self.choice.values()}

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Take over ``tensors`` and ``values`` of a checkpoint; those of another training raise errors of any kind."""
        for name, module in self._modules().items():
            module.load_state_dict(strip_prefix(tensors, f"{name}."))
        for name, optimiser in self._optimisers().items():
            states: dict[int, dict[str, Tensor]] = {}
            for key, tensor in strip_prefix(tensors, f"{name}.").items():
                index, _, entry = key.partition(".")
                states.setdefault(int(index), {})[entry] = tensor
            optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
        self.step, self.choice = int(values["step"]), StateChoice.from_values(values)
        self.stopped_early = self._lost_patience()
        self.advantage = DiscriminatorAdvantage.from_values(tensors.get("score_differences"))
        self.threads = int(values.get("threads", self.threads))
        self.precision = str(values.get("precision", self.precision))

    def _optimise(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        """Take one step of an optimiser with the mean gradient of all processes."""
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(optimiser.param_groups[0]["params"])
        optimiser.step()

    @torch.no_grad()
    def _update_average(self) -> None:
        """Update the exponential moving average of the generator's weights; it is shorter in the first steps."""
        decay = min(self.settings.averaging, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def _modules(self) -> dict[str, nn.Module]:
        """Networks by their names in the checkpoint."""
        return {"generator": self.generator, "average": self.average, "best": self.best,
                "discriminator": self.discriminator, "projections": self.projections}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers by their names in the checkpoint."""
        return {"forward_optimiser": self.generator_optimiser, "backward_optimiser": self.discriminator_optimiser}

def generator_config(settings: TrainSettings) -> dict[str, Any]:
    """Arguments of ``build_generator``, which the model's file keeps."""
    if settings.generator == "published":
        levels = int(math.log2(settings.crop))
        return {"name": "published", "width": settings.generator_width, "levels": levels}
    return {"name": settings.generator, "width": settings.generator_width}


def derived_seed(seed: int, purpose: object) -> int:
    """Seed of a random generator for one purpose in the training, for example a step."""
    digest = hashlib.sha256(repr((seed, "training", purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _learning_rate_factor(step: int, steps: int) -> float:
    """Factor of the learning rate: 1 in the first half of the training, then a linear fall to 0."""
    return min(1.0, 2 * (steps - step) / steps)
