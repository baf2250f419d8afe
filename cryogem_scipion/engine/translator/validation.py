# SPDX-License-Identifier: GPL-3.0-or-later
"""Validation of a training: how far generated images are from held-out real micrographs, and how well small networks
tell them apart."""
import logging
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.noise.models import PhysicalNoise
from cryogem_scipion.engine.realism.features.random_filters import random_filter_features
from cryogem_scipion.engine.realism.frechet import frechet_distance
from cryogem_scipion.engine.realism.image_statistics import (
    MIN_EDGE,
    ImageStatistics,
    image_statistics,
    mean_statistics,
    standardise,
    statistics_distances,
)
from cryogem_scipion.engine.translator.crops import (
    RealImages,
    SimulatedImages,
    draw_real_crops,
    draw_simulated_crops,
)
from cryogem_scipion.engine.translator.networks import Generator, latent_noise
from cryogem_scipion.engine.translator.validation_critic import (
    AUCS,
    ValidationCritic,
    critic_sets,
    prepare_validation_critic,
)

__all__ = ["DISTANCES", "VALUES", "HeldOutSet", "ValidationMetric", "prepare_validation_metric"]

log = logging.getLogger("cryogem")

DISTANCES = ("spectrum", "histogram", "local", "frechet")
"""Distances of which the distance metric is the mean; see ``statistics_distances``. The Fréchet distance is that of
features by random filters."""
VALUES = ("realism", *DISTANCES, "auc", *AUCS)
"""Names of all values of a validation; the columns of ``realism.csv``."""
EDGE = 512
"""Approximate edge (px) of the crops that are translated."""
PIXELS = 2**21
"""Approximate number of pixels of all crops together."""
MIN_CROPS, MAX_CROPS = 2, 16
FLOOR_DRAWS = 8
"""Number of batches of real training crops whose mean distances are the floors."""
HELD_OUT_FACTOR = 4
"""Number of crops of held-out micrographs for each translated crop."""


@dataclass(frozen=True)
class HeldOutSet:
    """Real micrographs that are not used for training, and noise with their ice and contaminants."""

    micrographs: RealImages
    physical: PhysicalNoise


@dataclass(frozen=True)
class PhysicalImages:
    """Images before the translation, and their latent noise."""

    images: Float[Tensor, "b y x"]
    latent: list[Tensor] | None

    @torch.no_grad()
    def translated(self, network: Generator) -> list[Float[Tensor, "y x"]]:
        """Generated images, float32 on the CPU.

        Parameters
        ----------
        network
            The generator.
        """
        device = next(network.parameters()).device
        generated = []
        for index, image in enumerate(self.images):
            latent = None if self.latent is None else [noise[index:index + 1].to(device) for noise in self.latent]
            generated.append(network(image[None, None].to(device), latent)[0][0, 0].float().cpu())
        return generated


@dataclass(frozen=True)
class ValidationMetric:
    """Validation as a function of a generator; its images and random numbers never change."""

    judged: PhysicalImages
    """Images that are compared with the held-out micrographs; they have their ice and contaminants."""
    learned: PhysicalImages
    """Other images, from which the critic's networks learn; they have the ice and contaminants of all micrographs."""
    real_statistics: ImageStatistics
    real_features: Float[Tensor, "n d"]
    floors: dict[str, float]
    """Distances between the real micrographs of the training and the held-out micrographs."""
    critic: ValidationCritic

    def __call__(self, network: Generator, precision: str = "float32") -> dict[str, float]:
        """Validate a generator.

        Parameters
        ----------
        network
            The generator.
        precision
            Number format of the critic's networks: bf16 or float32.

        Returns
        -------
        ``realism``: mean of the distances in units of their floors. Lower is better; at 1, the generated images are as
        near to the held-out micrographs as other real micrographs. Also each of ``DISTANCES``, and ``auc`` with the AUC
        at each scale; see ``ValidationCritic``.
        """
        generated = self.judged.translated(network)
        distances = _distances(generated, self.real_statistics, self.real_features)
        ratios = [distances[name] / self.floors[name] for name in DISTANCES]
        aucs = self.critic(self.learned.translated(network), generated, next(network.parameters()).device, precision)
        return {"realism": sum(ratios) / len(ratios), **distances, **aucs}


def prepare_validation_metric(network: Generator, held_out: HeldOutSet, training_set: RealImages,
                              simulated: SimulatedImages, physical: PhysicalNoise,
                              generator: torch.Generator) -> ValidationMetric | None:
    """Validation of a training, or None with a warning if the images are too small.

    Parameters
    ----------
    network
        Generator of the training; only its architecture is used.
    held_out, training_set
        Real micrographs to compare with, and real micrographs of the training.
    simulated
        Clean images, from which the physical images are made.
    physical
        Ice, noise and contaminants of the whole real set.
    generator
        Random generator of crops and noise; the same state gives the same validation.
    """
    images = [*held_out.micrographs.images, *training_set.images, *simulated.clean]
    smallest = min(min(image.shape) for image in images)
    edge = min(smallest, max(EDGE, network.multiple)) // network.multiple * network.multiple
    if edge < MIN_EDGE:
        log.warning("warning: micrographs of %d pixels are too small for the validation metric; the model gets the "
                    "weights of the last step", smallest)
        return None
    count = min(max(PIXELS // edge**2, MIN_CROPS), MAX_CROPS)
    judged = _physical_images(network, simulated, held_out.physical, edge, count, generator)
    held_out_crops = list(draw_real_crops(held_out.micrographs, edge, HELD_OUT_FACTOR * count, generator))
    statistics = mean_statistics([image_statistics(crop) for crop in held_out_crops])
    features = _features(held_out_crops)
    draws = [_distances(list(draw_real_crops(training_set, edge, count, generator)), statistics, features)
             for _ in range(FLOOR_DRAWS)]
    learned = _physical_images(network, simulated, physical, edge, count, generator)
    real_learned, real_judged = (list(draw_real_crops(real_images, edge, HELD_OUT_FACTOR * count, generator))
                                 for real_images in critic_sets(training_set, held_out.micrographs))
    critic = prepare_validation_critic(real_learned, real_judged, int(torch.randint(2**31, (), generator=generator)))
    return ValidationMetric(judged, learned, statistics, features, {
        name: max(sum(distances[name] for distances in draws) / FLOOR_DRAWS, 1e-9) for name in DISTANCES}, critic)


def _physical_images(network: Generator, simulated: SimulatedImages, physical: PhysicalNoise, edge: int, count: int,
                     generator: torch.Generator) -> PhysicalImages:
    crops = draw_simulated_crops(simulated, edge, count, generator)
    return PhysicalImages(physical.batch(crops.clean, crops.exposures, generator),
                          latent_noise(network, count, (edge, edge), generator))


def _distances(images: list[Float[Tensor, "_ _"]], real_statistics: ImageStatistics,
               real_features: Float[Tensor, "n d"]) -> dict[str, float]:
    distances = statistics_distances(mean_statistics([image_statistics(image) for image in images]), real_statistics)
    return {**{name: float(distances[name]) for name in DISTANCES if name in distances},
            "frechet": frechet_distance(_features(images), real_features)}


def _features(images: list[Float[Tensor, "_ _"]]) -> Float[Tensor, "n d"]:
    return torch.cat([random_filter_features(standardise(image)) for image in images])
