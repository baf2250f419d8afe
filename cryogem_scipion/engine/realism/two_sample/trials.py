# SPDX-License-Identifier: GPL-3.0-or-later
"""One training of the two-sample test: which micrographs it learns from, and what it says about the others."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.realism.two_sample.band_statistics import train_band_judge
from cryogem_scipion.engine.realism.two_sample.classifier import (
    map_step,
    square_evidence,
    square_logits,
    train_classifier,
)
from cryogem_scipion.engine.realism.two_sample.image_stack import ImageStack, square_positions
from cryogem_scipion.engine.realism.two_sample.pair_statistics import Verdict, pair_matrix
from cryogem_scipion.engine.realism.two_sample.scales import Scale

__all__ = ["BAND_FOLDS", "FOLDS", "Evidence", "Trial", "TrialResult", "fold_trials", "run_trial"]

FOLDS = 2
"""Parts of each set; a network learns from all parts but one."""
BAND_FOLDS = 4
"""Parts of each set for networks on frequency bands. Their training takes little time."""
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
                generator: torch.Generator, folds: int = FOLDS) -> list[Trial]:
    """Trainings that together judge each micrograph once, for a random division of the sets into folds.

    Parameters
    ----------
    sets
        Micrographs of both sets.
    scale_index, seed_index, floor
        Fields of the trials.
    generator
        Random generator of the division and of the seeds of the trainings.
    folds
        Parts of each set.
    """
    orders = [torch.randperm(len(one_set), generator=generator).tolist() for one_set in sets]
    trials = []
    for fold in range(folds):
        judged = tuple(tuple(sorted(order[fold::folds])) for order in orders)
        seed = int(torch.randint(2**31, (), generator=generator))
        trials.append(Trial(scale_index, seed_index, floor, seed, (tuple(sets[0]), tuple(sets[1])),
                            (judged[0], judged[1]), not floor and seed_index == 0 and fold == 0))
    return trials


def run_trial(trial: Trial, scale: Scale, stacks: tuple[ImageStack, ImageStack], steps: int, device: torch.device,
              precision: str) -> TrialResult:
    """Train on one part of both sets and judge the other part.

    Parameters
    ----------
    trial
        The micrographs to learn from and to judge.
    scale
        Scale of the images.
    stacks
        Images of the two sets, which ``trial.sets`` counts.
    steps
        Training steps.
    device, precision
        Where and in which number format the network computes.
    """
    trained = [[index for place, index in enumerate(indices) if place not in judged]
               for indices, judged in zip(trial.sets, trial.judged, strict=True)]
    judged = [[indices[place] for place in places] for indices, places in zip(trial.sets, trial.judged, strict=True)]
    if scale.band_widths:
        judgements = _judge_bands(trained, judged, scale, stacks)
    else:
        judgements = _judge_with_network(trained, judged, scale, stacks, trial, steps, device, precision)
    matrix = torch.stack(judgements.scores)
    first = len(judged[0])
    # The scores of generated and real micrographs lie around 0 then, as the colours of the figure expect.
    offset = float(matrix[:first].mean() + matrix[first:].mean()) / 2
    matrix = matrix - offset
    verdict = Verdict(trial.seed_index, trial.judged[0], trial.judged[1], pair_matrix(matrix))
    if not trial.with_evidence:
        return TrialResult(verdict, None)
    scores = matrix[:first], matrix[first:]
    places = [_middle(part) for part in scores]
    maps = [judgements.evidence_map(part, judged[part][place]) - offset for part, place in enumerate(places)]
    telling = [_telling(part) for part in (scores[0], -scores[1])]
    squares = [torch.stack([_square(stack.images[indices[micrograph]], judgements.positions[start + micrograph][square],
                                    scale.edge) for micrograph, square in chosen])
               for stack, indices, start, chosen in zip(stacks, judged, (0, first), telling, strict=True)]
    logits = torch.stack([torch.stack([part[place] for place in chosen])
                          for part, chosen in zip(scores, telling, strict=True)])
    return TrialResult(verdict, Evidence(torch.stack(squares), logits, (judged[0][places[0]], judged[1][places[1]]),
                                         (maps[0], maps[1]), scale.step if scale.band_widths else map_step(scale)))


@dataclass(frozen=True)
class _Judgements:
    """Scores of the squares of the judged micrographs, those of the first set first."""

    scores: list[Float[Tensor, " squares"]]
    positions: list[list[tuple[int, int]]]
    """First pixel (y, x) of each square."""
    evidence_map: Callable[[int, int], Float[Tensor, "v u"]]
    """Map of a micrograph: index of the set, index of the micrograph."""


def _judge_with_network(trained: Sequence[Sequence[int]], judged: Sequence[Sequence[int]], scale: Scale,
                        stacks: tuple[ImageStack, ImageStack], trial: Trial, steps: int, device: torch.device,
                        precision: str) -> _Judgements:
    """Train a network that learns its filters, and judge random squares."""
    generator = torch.Generator().manual_seed(trial.seed)
    positive, negative = ([stack.images[index] for index in indices]
                          for stack, indices in zip(stacks, trained, strict=True))
    network = train_classifier(scale, positive, negative, steps, generator, device, precision)
    scores, positions = [], []
    for image in (stack.images[index] for stack, indices in zip(stacks, judged, strict=True) for index in indices):
        positions.append(square_positions((image.shape[0], image.shape[1]), scale.edge, scale.squares, generator))
        squares = torch.stack([_square(image, position, scale.edge) for position in positions[-1]])
        scores.append(square_logits(network, squares[:, None].to(device), precision).cpu())
    return _Judgements(scores, positions, lambda part, index: square_evidence(
        network, stacks[part].images[index].to(device), precision).cpu())


def _judge_bands(trained: Sequence[Sequence[int]], judged: Sequence[Sequence[int]], scale: Scale,
                 stacks: tuple[ImageStack, ImageStack]) -> _Judgements:
    """Train a linear network on frequency bands, and judge squares on a regular grid."""
    statistics = [stack.band_statistics for stack in stacks if stack.band_statistics is not None]
    positive, negative = (values[indices].flatten(1, 2) for values, indices in zip(statistics, trained, strict=True))
    judge = train_band_judge(positive, negative)
    maps = [judge.evidence(values[indices]).float() for values, indices in zip(statistics, judged, strict=True)]
    rows, columns = maps[0].shape[1:]
    grid = [(scale.step * row, scale.step * column) for row in range(rows) for column in range(columns)]
    scores = [evidence.flatten() for one_set in maps for evidence in one_set]
    places = [{index: place for place, index in enumerate(indices)} for indices in judged]
    return _Judgements(scores, [grid] * len(scores), lambda part, index: maps[part][places[part][index]])


def _square(image: Tensor, position: tuple[int, int], edge: int) -> Float[Tensor, "edge edge"]:
    """A square of an image; float32."""
    y, x = position
    return image[y:y + edge, x:x + edge].float()


def _middle(scores: Float[Tensor, "micrographs squares"]) -> int:
    """Micrograph with the median of the mean scores."""
    return int(scores.mean(1).argsort()[(len(scores) - 1) // 2])


def _telling(scores: Float[Tensor, "micrographs n"]) -> list[tuple[int, int]]:
    """Micrograph and square of the highest scores, one of a micrograph as far as there are enough micrographs."""
    order = [(rank, -float(scores[micrograph, square]), micrograph, square)
             for micrograph in range(len(scores))
             for rank, square in enumerate(scores[micrograph].argsort(descending=True)[:TELLING_SQUARES].tolist())]
    return [(micrograph, square) for _, _, micrograph, square in sorted(order)[:TELLING_SQUARES]]
