# SPDX-License-Identifier: GPL-3.0-or-later
"""One training of the two-sample test: which micrographs it learns from, and what it says about the others."""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.realism.two_sample.classifier import (
    map_step,
    square_evidence,
    square_logits,
    train_classifier,
)
from cryogem_scipion.engine.realism.two_sample.image_stack import square_positions
from cryogem_scipion.engine.realism.two_sample.pair_statistics import Verdict, pair_matrix
from cryogem_scipion.engine.realism.two_sample.scales import Scale

__all__ = ["Evidence", "Trial", "TrialResult", "fold_trials", "run_trial"]

FOLDS = 2
"""Parts of each set; a network learns from all parts but one."""
TELLING_SQUARES = 4
"""Squares of each set that are kept because they give their set away most."""


@dataclass(frozen=True)
class Trial:
    """A training to do. Micrographs are indices into the images of the two sets."""

    scale_index: int
    seed_index: int
    floor: bool
    """Whether both sets are halves of the real set."""
    seed: int
    """Seed of the random numbers of this training."""
    sets: tuple[tuple[int, ...], tuple[int, ...]]
    """Micrographs of both sets."""
    judged: tuple[tuple[int, ...], tuple[int, ...]]
    """Places in ``sets`` of the micrographs that are not used for training."""
    with_evidence: bool
    """Whether squares and maps are kept."""


@dataclass(frozen=True)
class Evidence:
    """Where a network sees the difference; generated first, real second."""

    squares: Float[Tensor, "2 n edge edge"]
    """The squares that give each set away most."""
    logits: Float[Tensor, "2 n"]
    """Their evidence for the generated set."""
    micrographs: tuple[int, int]
    """Indices of the two micrographs with a map: of each set, the one with the middle score."""
    maps: tuple[Float[Tensor, "v u"], Float[Tensor, "v2 u2"]]
    """Evidence of squares at regular places; the first square begins at the first pixel."""
    map_step: int
    """Distance (px) of these places."""


@dataclass(frozen=True)
class TrialResult:
    """Verdict of a training, and its evidence if it was asked for."""

    verdict: Verdict
    evidence: Evidence | None


def fold_trials(sets: tuple[Sequence[int], Sequence[int]], scale_index: int, seed_index: int, floor: bool,
                generator: torch.Generator) -> list[Trial]:
    """Trainings that together judge each micrograph once, for a random division of the sets into folds.

    Parameters
    ----------
    sets
        Micrographs of both sets.
    scale_index, seed_index, floor
        Fields of the trials.
    generator
        Random generator of the division and of the seeds of the trainings.
    """
    orders = [torch.randperm(len(one_set), generator=generator).tolist() for one_set in sets]
    trials = []
    for fold in range(FOLDS):
        judged = tuple(tuple(sorted(order[fold::FOLDS])) for order in orders)
        seed = int(torch.randint(2**31, (), generator=generator))
        trials.append(Trial(scale_index, seed_index, floor, seed, (tuple(sets[0]), tuple(sets[1])),
                            (judged[0], judged[1]), not floor and seed_index == 0 and fold == 0))
    return trials


def run_trial(trial: Trial, scale: Scale, images: tuple[Sequence[Tensor], Sequence[Tensor]], steps: int,
              device: torch.device, precision: str) -> TrialResult:
    """Train on one part of both sets and judge the other part.

    Parameters
    ----------
    trial
        The micrographs to learn from and to judge.
    scale
        Scale of the images.
    images
        Images of the two sets, which ``trial.sets`` counts.
    steps
        Training steps.
    device, precision
        Where and in which number format the network computes.
    """
    generator = torch.Generator().manual_seed(trial.seed)
    trained = [[one_set[index] for place, index in enumerate(indices) if place not in judged]
               for one_set, indices, judged in zip(images, trial.sets, trial.judged, strict=True)]
    judged = [[one_set[indices[place]] for place in places]
              for one_set, indices, places in zip(images, trial.sets, trial.judged, strict=True)]
    network = train_classifier(scale, trained[0], trained[1], steps, generator, device, precision)
    scores, squares = [], []
    for image in (*judged[0], *judged[1]):
        positions = square_positions((image.shape[0], image.shape[1]), scale.edge, scale.squares, generator)
        cut = torch.stack([image[y:y + scale.edge, x:x + scale.edge] for y, x in positions])
        scores.append(square_logits(network, cut[:, None].float().to(device), precision).cpu())
        squares.append(cut)
    matrix = torch.stack(scores)
    first = len(judged[0])
    # The scores of generated and real micrographs lie around 0 then, as the colours of the figure expect.
    offset = float(matrix[:first].mean() + matrix[first:].mean()) / 2
    matrix = matrix - offset
    verdict = Verdict(trial.seed_index, trial.judged[0], trial.judged[1], pair_matrix(matrix))
    if not trial.with_evidence:
        return TrialResult(verdict, None)
    middle = (_middle(matrix[:first]), _middle(matrix[first:]))
    maps = [square_evidence(network, part[index].to(device), precision).cpu() - offset
            for part, index in zip(judged, middle, strict=True)]
    telling = [_telling(torch.stack(squares[part]), sign * matrix[part])
               for part, sign in ((slice(first), 1), (slice(first, None), -1))]
    places = [trial.sets[part][trial.judged[part][index]] for part, index in enumerate(middle)]
    return TrialResult(verdict, Evidence(
        torch.stack([found for found, _ in telling]), torch.stack([telling[0][1], -telling[1][1]]),
        (places[0], places[1]), (maps[0], maps[1]), map_step(scale)))


def _middle(scores: Float[Tensor, "micrographs squares"]) -> int:
    """Micrograph with the median of the mean scores."""
    return int(scores.mean(1).argsort()[(len(scores) - 1) // 2])


def _telling(squares: Float[Tensor, "micrographs n edge edge"], scores: Float[Tensor, "micrographs n"]
             ) -> tuple[Tensor, Tensor]:
    """Squares with the highest score, one of a micrograph as far as there are enough micrographs; and their scores."""
    order = [(rank, -float(scores[micrograph, square]), micrograph, square)
             for micrograph in range(len(scores))
             for rank, square in enumerate(scores[micrograph].argsort(descending=True)[:TELLING_SQUARES].tolist())]
    best = [(micrograph, square) for _, _, micrograph, square in sorted(order)[:TELLING_SQUARES]]
    return (torch.stack([squares[place].float() for place in best]),
            torch.stack([scores[place] for place in best]))
