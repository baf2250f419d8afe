# SPDX-License-Identifier: GPL-3.0-or-later
"""The two-sample test of two sets of micrographs at several scales."""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from cryogem_scipion.engine.compute.parallel import map_in_order
from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.realism.micrograph_sets import MicrographSet
from cryogem_scipion.engine.realism.two_sample.band_statistics import (
    BandDifference,
    band_differences,
    band_statistics,
    chance_aucs,
)
from cryogem_scipion.engine.realism.two_sample.image_stack import ImageStack, read_stacks
from cryogem_scipion.engine.realism.two_sample.pair_statistics import AucEstimate, adjusted_for_all, estimate_auc
from cryogem_scipion.engine.realism.two_sample.scales import Scale, chosen_scales
from cryogem_scipion.engine.realism.two_sample.trials import (
    BAND_FOLDS,
    FOLDS,
    Evidence,
    Trial,
    TrialResult,
    fold_trials,
    run_trial,
)
from cryogem_scipion.engine.runs.progress import track_progress

__all__ = ["MIN_MICROGRAPHS", "ScaleResult", "Training", "two_sample_test"]

MIN_MICROGRAPHS = 4
"""Smallest number of micrographs of each set. The networks learn from two of them and judge the other two."""
FALSE_ALARM_RATE = 0.05
"""Largest probability that sets without a difference are told apart at any scale."""
SEEDS = 2
"""Divisions of the sets into folds; each has networks of its own."""

SHOWN_DIFFERENCES = 5
"""Differences of frequency bands that are reported."""
SHOWN_EDGE = 480
"""Largest edge (px) of the micrographs beside their maps of evidence."""


@dataclass(frozen=True)
class Training:
    """How the networks are trained."""

    steps: int
    device: torch.device
    precision: str
    """bf16 or float32."""
    threads: int
    """Trainings at the same time on a CPU."""
    with_floor: bool = True
    """Whether the two halves of the real set are compared, too."""


@dataclass(frozen=True)
class ScaleResult:
    """Result of the test at one scale."""

    scale: Scale
    between: AucEstimate
    """Generated against real."""
    floor: AucEstimate | None
    """One half of the real set against the other half; None if there are fewer than 8 real micrographs."""
    evidence: Evidence
    images: tuple[Tensor, Tensor]
    """The micrographs of the maps of evidence, at this scale or coarser."""
    map_files: tuple[Path, Path]
    """Files of these micrographs."""
    band_differences: tuple[BandDifference, ...]
    """The largest differences of frequency bands; empty at the other scales."""
    adjusted_p: float
    """Probability by chance, adjusted for the number of scales."""

    @property
    def told_apart(self) -> bool:
        """Whether networks tell the sets apart. By chance, this happens at any scale in 5 % of all tests at most."""
        return self.adjusted_p <= FALSE_ALARM_RATE


def two_sample_test(sets: Sequence[MicrographSet], diameter_angstrom: float, training: Training, readers: int,
                    generator: torch.Generator) -> list[ScaleResult]:
    """Test whether networks can tell the micrographs of two sets apart, at each scale.

    Each micrograph is judged by networks that were not trained on it. At most 32 micrographs of a set are used, so
    memory and time are limited.

    Parameters
    ----------
    sets
        Generated and real set, with the same working pixel size.
    diameter_angstrom
        Diameter of a particle; sets the scale of particles.
    training
        How the networks are trained.
    readers
        Number of micrographs that are read at the same time.
    generator
        Random generator of folds, seeds and bootstrap samples.

    Returns
    -------
    One result for each scale; empty if a set has fewer than 4 micrographs.
    """
    if min(len(micrographs.files) for micrographs in sets) < MIN_MICROGRAPHS:
        return []
    scales = chosen_scales(sets[0].working_pixel_size, min(micrographs.shortest_edge() for micrographs in sets),
                           diameter_angstrom)
    return _compare_stacks(scales, read_stacks(sets, scales, readers), training, generator)


def _compare_stacks(scales: Sequence[Scale], stacks: Sequence[Sequence[ImageStack]], training: Training,
                   generator: torch.Generator) -> list[ScaleResult]:
    """Run the test on images in memory.

    Parameters
    ----------
    scales
        The scales.
    stacks
        For each scale, the images of the generated and of the real set.
    training
        How the networks are trained.
    generator
        Random generator of folds, seeds and bootstrap samples.
    """
    sizes = [len(stack.images) for stack in stacks[0]]
    trials = _all_trials(scales, sizes[0], sizes[1], training.with_floor, generator)

    def work(trial: Trial) -> TrialResult:
        generated, real = stacks[trial.scale_index]
        return run_trial(trial, scales[trial.scale_index], (real if trial.floor else generated, real), training.steps,
                         training.device, training.precision)

    threads = training.threads if training.device.type == "cpu" else 1
    stacks = [_with_band_statistics(scale, of_scale, threads) if scale.band_widths else of_scale
              for scale, of_scale in zip(scales, stacks, strict=True)]
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        results = list(track_progress(map_in_order(work, trials, threads), len(trials), "two-sample test: training"))
    with one_thread():
        of_scales = [_scale_result(index, scale, stacks[index], list(zip(trials, results, strict=True)), generator)
                     for index, scale in enumerate(scales)]
    adjusted = adjusted_for_all([result.between.p for result in of_scales])
    return [replace(result, adjusted_p=p) for result, p in zip(of_scales, adjusted, strict=True)]


def _with_band_statistics(scale: Scale, stacks: Sequence[ImageStack], threads: int) -> list[ImageStack]:
    """The images with the statistics of their frequency bands, on a grid that all images hold."""
    measured = [list(map_in_order(lambda image: band_statistics(image.float(), scale), stack.images, threads))
                for stack in stacks]
    rows, columns = (min(values.shape[axis] for one_set in measured for values in one_set) for axis in (0, 1))
    return [replace(stack, band_statistics=torch.stack([values[:rows, :columns] for values in one_set]))
            for stack, one_set in zip(stacks, measured, strict=True)]


def _all_trials(scales: Sequence[Scale], generated: int, real: int, with_floor: bool,
                generator: torch.Generator) -> list[Trial]:
    """All trainings: each scale, seed and fold, and the floor of each scale."""
    trials = []
    for index, scale in enumerate(scales):
        seeds, folds = (1, BAND_FOLDS) if scale.band_widths else (SEEDS, FOLDS)
        for seed_index in range(seeds):
            trials += fold_trials((range(generated), range(real)), index, seed_index, False, generator, folds)
        if with_floor and real >= 2 * MIN_MICROGRAPHS:
            order = torch.randperm(real, generator=generator).tolist()
            trials += fold_trials((order[::2], order[1::2]), index, 0, True, generator, folds)
    return trials


def _scale_result(index: int, scale: Scale, stacks: Sequence[ImageStack],
                  results: Sequence[tuple[Trial, TrialResult]], generator: torch.Generator) -> ScaleResult:
    """Combine the trainings of one scale; its probability is not adjusted yet."""
    own = [(trial, result) for trial, result in results if trial.scale_index == index]
    between = _estimate([pair for pair in own if not pair[0].floor], stacks, generator)
    floors = [pair for pair in own if pair[0].floor]
    floor = _estimate(floors, (stacks[1], stacks[1]), generator) if floors else None
    (evidence,) = (result.evidence for _, result in own if result.evidence is not None)
    images = [_small(stack.images[place].float()) for stack, place in zip(stacks, evidence.micrographs, strict=True)]
    files = [stack.files[place] for stack, place in zip(stacks, evidence.micrographs, strict=True)]
    return ScaleResult(scale, between, floor, evidence, (images[0], images[1]), (files[0], files[1]),
                       _band_differences(scale, stacks), between.p)


def _band_differences(scale: Scale, stacks: Sequence[ImageStack]) -> tuple[BandDifference, ...]:
    """The largest differences of frequency bands; empty at the other scales."""
    statistics = [stack.band_statistics.flatten(1, 2) for stack in stacks if stack.band_statistics is not None]
    if not statistics:
        return ()
    return tuple(band_differences(statistics[0], statistics[1], scale)[:SHOWN_DIFFERENCES])


def _estimate(results: Sequence[tuple[Trial, TrialResult]], stacks: Sequence[ImageStack], generator: torch.Generator
              ) -> AucEstimate:
    """AUC of all folds and seeds of one comparison."""
    sets = results[0][0].sets
    sizes = len(sets[0]), len(sets[1])
    statistics = [stack.band_statistics[list(indices)].flatten(1, 2)
                  for stack, indices in zip(stacks, sets, strict=True) if stack.band_statistics is not None]
    by_chance = chance_aucs(torch.cat(statistics), sizes[0], BAND_FOLDS, generator) if statistics else None
    return estimate_auc([result.verdict for _, result in results], sizes, generator, by_chance)


def _small(image: Float[Tensor, "y x"]) -> Float[Tensor, "v u"]:
    """The image, averaged over blocks to at most ``SHOWN_EDGE`` pixels a side."""
    return avg_pool2d(image[None, None], -(-max(image.shape) // SHOWN_EDGE))[0, 0]
