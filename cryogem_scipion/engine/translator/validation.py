# SPDX-License-Identifier: GPL-3.0-or-later
"""Validation metric of a training: the distance of generated images from held-out real micrographs."""
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

__all__ = ["DISTANCES", "HeldOutSet", "ValidationMetric", "prepare_validation_metric"]

log = logging.getLogger("cryogem")

DISTANCES = ("spectrum", "histogram", "local", "frechet")
"""Distances of which the metric is the mean; see ``statistics_distances``. The Fréchet distance is that of features by
random filters."""
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
class ValidationMetric:
    """Validation metric as a function of a generator; its images and its latent noise never change."""

    physical_images: Float[Tensor, "b y x"]
    latent: list[Tensor] | None
    real_statistics: ImageStatistics
    real_features: Float[Tensor, "n d"]
    floors: dict[str, float]
    """Distances between the real micrographs of the training and the held-out micrographs."""

    @torch.no_grad()
    def __call__(self, network: Generator) -> dict[str, float]:
        """Validation metric of a generator.

        Returns
        -------
        ``realism``: the metric, which is the mean of the distances in units of their floors. Lower is better; at 1,
        the generated images are as near to the held-out micrographs as other real micrographs. Also each of
        ``DISTANCES``.
        """
        device = next(network.parameters()).device
        generated = []
        for index, image in enumerate(self.physical_images):
            latent = None if self.latent is None else [noise[index:index + 1].to(device) for noise in self.latent]
            generated.append(network(image[None, None].to(device), latent)[0][0, 0].float().cpu())
        distances = _distances(generated, self.real_statistics, self.real_features)
        ratios = [distances[name] / self.floors[name] for name in DISTANCES]
        return {"realism": sum(ratios) / len(ratios), **distances}


def prepare_validation_metric(network: Generator, held_out: HeldOutSet, training_set: RealImages,
                              simulated: SimulatedImages, generator: torch.Generator) -> ValidationMetric | None:
    """Validation metric of a training, or None with a warning if the images are too small.

    Parameters
    ----------
    network
        Generator of the training; only its architecture is used.
    held_out, training_set
        Real micrographs to compare with, and real micrographs of the training.
    simulated
        Clean images, from which the physical images are made.
    generator
        Random generator of crops and noise; the same state gives the same metric.
    """
    images = [*held_out.micrographs.images, *training_set.images, *simulated.clean]
    smallest = min(min(image.shape) for image in images)
    edge = min(smallest, max(EDGE, network.multiple)) // network.multiple * network.multiple
    if edge < MIN_EDGE:
        log.warning("warning: micrographs of %d pixels are too small for the validation metric; the model gets the "
                    "weights of the last step", smallest)
        return None
    count = min(max(PIXELS // edge**2, MIN_CROPS), MAX_CROPS)
    simulated_crops = draw_simulated_crops(simulated, edge, count, generator)
    physical_images = held_out.physical.batch(simulated_crops.clean, simulated_crops.exposures, generator)
    latent = latent_noise(network, count, (edge, edge), generator)
    held_out_crops = list(draw_real_crops(held_out.micrographs, edge, HELD_OUT_FACTOR * count, generator))
    statistics = mean_statistics([image_statistics(crop) for crop in held_out_crops])
    features = _features(held_out_crops)
    draws = [_distances(list(draw_real_crops(training_set, edge, count, generator)), statistics, features)
             for _ in range(FLOOR_DRAWS)]
    return ValidationMetric(physical_images, latent, statistics, features, {
        name: max(sum(distances[name] for distances in draws) / FLOOR_DRAWS, 1e-9) for name in DISTANCES})


def _distances(images: list[Float[Tensor, "_ _"]], real_statistics: ImageStatistics,
               real_features: Float[Tensor, "n d"]) -> dict[str, float]:
    distances = statistics_distances(mean_statistics([image_statistics(image) for image in images]), real_statistics)
    return {**{name: float(distances[name]) for name in DISTANCES if name in distances},
            "frechet": frechet_distance(_features(images), real_features)}


def _features(images: list[Float[Tensor, "_ _"]]) -> Float[Tensor, "n d"]:
    return torch.cat([random_filter_features(standardise(image)) for image in images])
