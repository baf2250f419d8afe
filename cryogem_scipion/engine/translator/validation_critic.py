# SPDX-License-Identifier: GPL-3.0-or-later
"""Critic of a validation: how well small networks tell generated from real micrographs."""
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute.robust import robust_deviation
from cryogem_scipion.engine.realism.two_sample.classifier import square_logits, train_classifier
from cryogem_scipion.engine.realism.two_sample.image_stack import CLIPPED_AT, draw_squares
from cryogem_scipion.engine.realism.two_sample.scales import Scale, chosen_scales
from cryogem_scipion.engine.translator.crops import RealImages

__all__ = ["AUCS", "CRITIC_STEPS", "ValidationCritic", "critic_sets", "prepare_validation_critic"]

CRITIC_STEPS = {"pixels": 300, "textures": 150}
"""Training steps of the networks at each scale of the two-sample test that the critic has. The other scales need whole
micrographs."""
AUCS = tuple(f"auc_{name}" for name in CRITIC_STEPS)
"""Columns of ``realism.csv`` with the AUC at each scale."""
LARGEST_EDGE = 64
"""Largest edge (px) of the squares. Textures of the two-sample test have larger squares, which take longer to learn."""
JUDGED_SQUARES = 512
"""Squares of each set that a network judges."""


@dataclass(frozen=True)
class ValidationCritic:
    """AUC of freshly trained networks, as a function of generated images.

    The networks judge images that they did not learn from. All random numbers are the same in each validation, so that
    two states of a generator differ by their images only.
    """

    scales: tuple[Scale, ...]
    real_training: tuple[Float[Tensor, "y x"], ...]
    """Crops of the real micrographs that the networks learn from."""
    real_judged: tuple[Float[Tensor, "y x"], ...]
    """Crops of other real micrographs."""
    seed: int

    def __call__(self, generated_training: Sequence[Float[Tensor, "y x"]],
                 generated_judged: Sequence[Float[Tensor, "y x"]], device: torch.device,
                 precision: str) -> dict[str, float]:
        """AUC at each scale, and their mean.

        Parameters
        ----------
        generated_training
            Generated crops that the networks learn from.
        generated_judged
            Other generated crops.
        device, precision
            Where and in which number format (bf16 or float32) the networks compute.

        Returns
        -------
        ``auc_pixels``, ``auc_textures``: probability that a generated square looks more generated than a real square;
        nan where the crops are too small for the scale. ``auc``: mean of these; values below 0.5, which are chance,
        count as 0.5. 0.5 means that nothing tells the images apart, 1 that everything does.
        """
        learned, judged = ([robustly_standardised(image) for image in images]
                           for images in (generated_training, generated_judged))
        aucs: dict[str, float] = dict.fromkeys(AUCS, float("nan"))
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            for scale in self.scales:
                aucs[f"auc_{scale.name}"] = self._auc(scale, learned, judged, device, precision)
        measured = [max(aucs[f"auc_{scale.name}"], 0.5) for scale in self.scales]
        return {"auc": sum(measured) / len(measured), **aucs}

    def _auc(self, scale: Scale, learned: Sequence[Tensor], judged: Sequence[Tensor], device: torch.device,
             precision: str) -> float:
        generator = torch.Generator().manual_seed(self.seed)
        with torch.enable_grad():
            network = train_classifier(scale, learned, self.real_training, CRITIC_STEPS[scale.name], generator, device,
                                       precision)
        with torch.no_grad():
            generated, real = (
                square_logits(network, draw_squares(images, scale.edge, JUDGED_SQUARES, generator).to(device),
                              precision).cpu() for images in (judged, self.real_judged))
        higher, equal = generated[:, None] > real, generated[:, None] == real
        return float((higher.double() + 0.5 * equal.double()).mean())


def critic_sets(training_set: RealImages, held_out: RealImages) -> tuple[RealImages, RealImages]:
    """The real micrographs that the networks learn from, and those that they judge.

    They learn from every second micrograph of the training, and judge the held-out and the other ones. The held-out
    ones alone are too few: a single unusual micrograph would decide.

    Parameters
    ----------
    training_set, held_out
        Real micrographs of the training, and held-out ones.
    """
    def every_second(first: int) -> RealImages:
        return RealImages(training_set.images[first::2], training_set.medians[first::2], training_set.spreads[first::2])

    others = every_second(1)
    return every_second(0), RealImages([*held_out.images, *others.images], [*held_out.medians, *others.medians],
                                       [*held_out.spreads, *others.spreads])


def prepare_validation_critic(real_training: Sequence[Float[Tensor, "y x"]],
                              real_judged: Sequence[Float[Tensor, "y x"]], seed: int) -> ValidationCritic:
    """Critic for real crops of one size.

    Parameters
    ----------
    real_training, real_judged
        Crops of the real micrographs that the networks learn from, and of others.
    seed
        Seed of the networks and squares.
    """
    shortest = min(min(crop.shape) for crop in (*real_training, *real_judged))
    # The pixel size and the diameter matter only for the scales that the critic does not have.
    scales = tuple(replace(scale, edge=min(scale.edge, LARGEST_EDGE)) for scale in chosen_scales(1.0, shortest, 1.0)
                   if scale.name in CRITIC_STEPS)
    learned, judged = (tuple(robustly_standardised(crop) for crop in crops) for crops in (real_training, real_judged))
    return ValidationCritic(scales, learned, judged, seed)


def robustly_standardised(image: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
    """The image with median 0 and robust deviation 1, clipped, as the two-sample test standardises micrographs."""
    return ((image - image.median()) / max(robust_deviation(image), 1e-6)).clamp(-CLIPPED_AT, CLIPPED_AT)
