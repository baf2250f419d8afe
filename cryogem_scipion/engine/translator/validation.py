# SPDX-License-Identifier: GPL-3.0-or-later
"""Which state of a training is the best: that whose images are nearest to micrographs it was not trained on."""
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
    RealMicrographs,
    SimulatedMicrographs,
    draw_real_crops,
    draw_simulated_crops,
)
from cryogem_scipion.engine.translator.networks import Generator, latent_noise

__all__ = ["DISTANCES", "HeldOutSet", "ValidationMetric", "judge"]

log = logging.getLogger("cryogem")

DISTANCES = ("spectrum", "histogram", "local", "frechet")
"""What the figure is made of; see ``metrics.summary``. Fréchet is of the textures of squares."""
EDGE = 512
"""Of the fields that are translated, about; two million pixels in all."""
PIXELS = 2**21
FEWEST, MOST = 2, 16
DRAWS = 8
"""Sets of real fields that tell how far real micrographs are from each other."""
MORE = 4
"""Fields of the held-out micrographs for each translated one."""


@dataclass(frozen=True)
class HeldOutSet:
    """Real micrographs that are not trained on, and noise with their own ice and contaminants."""

    pieces: RealMicrographs
    physical: PhysicalNoise


@dataclass(frozen=True)
class ValidationMetric:
    """The same simulated fields, noise and held-out micrographs for every state of a training."""

    physical: Float[Tensor, "b y x"]
    latent: list[Tensor] | None
    real: ImageStatistics
    real_textures: Float[Tensor, "n d"]
    floors: dict[str, float]
    """The distances of micrographs that are trained on from those held out."""

    @torch.no_grad()
    def __call__(self, network: Generator) -> dict[str, float]:
        """Return the distances and, as ``realism``, their mean in units of the floors.

        1 is as near as other real micrographs are.
        """
        device = next(network.parameters()).device
        made = []
        for number, image in enumerate(self.physical):
            latent = None if self.latent is None else [noise[number:number + 1].to(device) for noise in self.latent]
            made.append(network(image[None, None].to(device), latent)[0][0, 0].float().cpu())
        found = _distances(made, self.real, self.real_textures)
        ratios = [found[name] / self.floors[name] for name in DISTANCES]
        return {"realism": sum(ratios) / len(ratios), **found}


def judge(network: Generator, held_out: HeldOutSet, trained: RealMicrographs, simulated: SimulatedMicrographs,
          random: torch.Generator) -> ValidationMetric | None:
    """Prepare the judgement of a training; None where images are too small to be judged.

    Parameters
    ----------
    network
        Any state of the generator that will be judged; its weights do not matter.
    held_out, trained
        Real micrographs to compare with, and those that are trained on.
    random
        The same state makes the same judge.
    """
    smallest = min(min(image.shape) for image in [*held_out.pieces.images, *trained.images, *simulated.clean])
    edge = min(smallest, max(EDGE, network.multiple)) // network.multiple * network.multiple
    if edge < MIN_EDGE:
        log.warning("warning: micrographs of %d pixels are too small to judge realism; the last state is kept",
                    smallest)
        return None
    count = min(max(PIXELS // edge**2, FEWEST), MOST)
    pieces = draw_simulated_crops(simulated, edge, count, random)
    seen = held_out.physical.batch(pieces.clean, pieces.exposures, random)
    latent = latent_noise(network, count, (edge, edge), random)
    real = list(draw_real_crops(held_out.pieces, edge, MORE * count, random))
    mean, features = mean_statistics([image_statistics(image) for image in real]), _textures(real)
    floors = [_distances(list(draw_real_crops(trained, edge, count, random)), mean, features) for _ in range(DRAWS)]
    return ValidationMetric(seen, latent, mean, features, {
        name: max(sum(found[name] for found in floors) / DRAWS, 1e-9) for name in DISTANCES})


def _distances(images: list[Float[Tensor, "_ _"]], real: ImageStatistics, real_textures: Float[Tensor, "n d"]
               ) -> dict[str, float]:
    found = statistics_distances(mean_statistics([image_statistics(image) for image in images]), real)
    return {**{name: float(found[name]) for name in DISTANCES if name in found},
            "frechet": frechet_distance(_textures(images), real_textures)}


def _textures(images: list[Float[Tensor, "_ _"]]) -> Float[Tensor, "n d"]:
    return torch.cat([random_filter_features(standardise(image)) for image in images])
