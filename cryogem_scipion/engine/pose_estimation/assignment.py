# SPDX-License-Identifier: GPL-3.0-or-later
"""From log-likelihoods on a grid to poses: candidates, their probabilities, and the confidence in the best one."""
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.pose_estimation.estimator import Confidence, Particles, PoseEstimator
from cryogem_scipion.engine.pose_estimation.orientations import angles_between, angles_modulo
from cryogem_scipion.engine.pose_estimation.refinement import refine_poses
from cryogem_scipion.engine.pose_estimation.search import PoseGrid, prepare_grid
from cryogem_scipion.engine.simulation.symmetry import symmetry_operators, to_asymmetric_unit

__all__ = ["NEAR_DEGREES", "AssignedPoses", "PoseFinder"]

NEAR_DEGREES = 15.0
"""Poses within this angle count as the same pose: for candidates and for the confidence."""
FARTHEST_DEGREES = 10.0
"""Largest angle between a point of the grid and the candidate that is refined from it."""
NEGLIGIBLE = 16.0
"""Cells whose likelihood is smaller than the largest one by a factor of exp(16) are left out."""
GPU_CHUNK, CPU_CHUNK = 64, 2
"""Particles whose log-likelihoods are in memory at the same time."""


@dataclass(frozen=True)
class AssignedPoses:
    """Candidates of some particles, the most probable one first."""

    rotations: Float[Tensor, "n k 3 3"]
    """RELION's matrices A in the asymmetric unit."""
    origins: Float[Tensor, "n k xy"]
    """RELION's origins, Å."""
    classes: Int[Tensor, "n k"]
    probabilities: Float[Tensor, "n k"]
    """0 where a particle has fewer candidates."""
    confidence: Float[Tensor, " n"]
    """Probability that the true orientation is within 15° of the first candidate, modulo symmetry."""
    class_probabilities: Float[Tensor, "n classes"]


class PoseFinder:
    """Finds poses with a trained estimator.

    Parameters
    ----------
    knows_ctf
        Whether the particles come with their CTFs; otherwise the mean CTF of the training is used.
    rings
        Number of rings that the particles have.
    """

    def __init__(self, estimator: PoseEstimator, knows_ctf: bool, rings: int, candidates: int = 1) -> None:
        self.estimator, self.candidates = estimator, candidates
        self.grid: PoseGrid = prepare_grid(estimator, knows_ctf, rings)
        self.spectra = estimator.reference.spectra().detach()
        self.weights = estimator.weights(knows_ctf, rings)
        self.operators = symmetry_operators(estimator.symmetry).float().to(estimator.device)
        self.confidence = estimator.confidence[0 if knows_ctf else 1]

    def find_all(self, particles: Particles) -> AssignedPoses:
        """Poses of particles, found on all available threads; those of one particle do not depend on the others."""
        on_gpu = self.estimator.device.type == "cuda"
        size = GPU_CHUNK if on_gpu else CPU_CHUNK
        chunks = [particles.part(start, start + size) for start in range(0, len(particles), size)]
        parts = [self.find(chunk) for chunk in chunks] if on_gpu else parallel_map(self.find, chunks)
        return AssignedPoses(*(torch.cat([getattr(part, name) for part in parts])
                               for name in AssignedPoses.__dataclass_fields__))

    @torch.no_grad()
    def probabilities_near(self, particles: Particles, rotations: Float[Tensor, "n 3 3"], sharpness: list[float]
                           ) -> tuple[Float[Tensor, "s n"], Float[Tensor, "n classes"]]:
        """Probabilities within 15° of the true orientations, for several values of the sharpness, without outliers.

        Returns
        -------
        The probabilities, in any class; and the result of ``class_fits``.
        """
        near = torch.empty(len(sharpness), len(particles))
        fits = []
        for index in range(len(particles)):
            one = particles.part(index, index + 1)
            values = self.grid.log_likelihoods(one)
            at_best_shift = values.amax(1)
            for row, factor in enumerate(sharpness):
                cells = _Cells(self.grid, values, at_best_shift, factor)
                rows = torch.zeros_like(cells.particle)
                close = cells.near(rotations[index:index + 1], rows, self.operators)
                near[row, index] = (cells.probability * close).sum()
            fits.append(self.class_fits(one, values))
        return near, torch.cat(fits)

    @torch.no_grad()
    def find(self, particles: Particles) -> AssignedPoses:
        """Poses of a few particles at once."""
        values = self.grid.log_likelihoods(particles)
        cells = _Cells(self.grid, values, values.amax(1), self.confidence.sharpness)
        count, device = len(particles), self.estimator.device
        rotations = torch.eye(3, device=device).repeat(count, self.candidates, 1, 1)
        origins = torch.zeros(count, self.candidates, 2, device=device)
        classes = torch.zeros(count, self.candidates, dtype=torch.long, device=device)
        probabilities = torch.zeros(count, self.candidates, device=device)
        confidence = torch.zeros(count, device=device)
        of_class = self._class_probabilities(self.class_fits(particles, values))
        left = cells.probability.clone()
        for rank in range(self.candidates):
            # The first candidate has the most probable class.
            in_class = cells.classes == of_class.argmax(1)[cells.particle]
            best = cells.largest(left * in_class if rank == 0 else left, count)
            exists = left[best] > 0
            if not exists.any():
                break
            chosen = cells.rotations[best]
            start = self._best_shift(values, cells, best)
            classes[:, rank] = cells.classes[best]
            refined, origin, _ = refine_poses(
                self.estimator, self.spectra, particles, chosen, start, classes[:, rank], self.weights)
            # A candidate that moves far has come to the peak of another one.
            stayed = angles_between(refined, chosen) <= FARTHEST_DEGREES
            rotations[:, rank] = torch.where(stayed[:, None, None], refined, chosen)
            origins[:, rank] = torch.where(stayed[:, None], origin, start)
            same_class = cells.classes == cells.classes[best][cells.particle]
            around_cell = cells.near(chosen, cells.particle, self.operators) & same_class
            around = cells.near(rotations[:, rank], cells.particle, self.operators)
            mass = torch.zeros(count, device=device)
            probabilities[:, rank] = mass.index_add(0, cells.particle, left * (around_cell | around & same_class))
            left = left * ~(around_cell | around & same_class)
            if rank == 0:
                confidence = mass.index_add(0, cells.particle, cells.probability * around)
        flat = to_asymmetric_unit(rotations.flatten(0, 1), self.estimator.symmetry)
        outliers = self.confidence.outliers
        return AssignedPoses(flat.reshape(rotations.shape), origins, classes, probabilities * (1 - outliers),
                             self._with_outliers(confidence.clamp(max=1)),
                             of_class * (1 - outliers) + outliers / of_class.shape[1])

    @torch.no_grad()
    def class_fits(self, particles: Particles, values: Float[Tensor, "n t c d angles"]) -> Float[Tensor, "n classes"]:
        """Log-likelihood of the refined best pose of each class, up to a constant for each particle.

        Parameters
        ----------
        values
            Log-likelihoods of the particles on the grid.
        """
        count, classes = len(particles), self.estimator.reference.classes
        if classes == 1:
            return torch.zeros(count, 1, device=self.estimator.device)
        fits = []
        for index in range(classes):
            of_class = values[:, :, index].amax(1).flatten(1)
            direction, turn = of_class.argmax(1) // self.grid.angles, of_class.argmax(1) % self.grid.angles
            shift = values[torch.arange(count), :, index, direction, turn].argmax(1)
            _, _, fit = refine_poses(
                self.estimator, self.spectra, particles, self.grid.rotations(direction, turn), self.grid.shifts[shift],
                torch.full((count,), index, device=self.estimator.device), self.weights)
            fits.append(fit)
        return torch.stack(fits, 1)

    def _class_probabilities(self, fits: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
        return torch.softmax(fits * self.confidence.class_sharpness, 1)

    def _with_outliers(self, probability: Tensor) -> Tensor:
        """Probability, if some particles are unlike the model: they have a random orientation."""
        return with_outliers(probability, self.confidence, len(self.operators))

    def _best_shift(self, values: Tensor, cells: "_Cells", best: Tensor) -> Tensor:
        """Most probable origin of a cell of each particle, Å."""
        particle = torch.arange(len(best), device=best.device)
        shift = values[particle, :, cells.classes[best], cells.directions[best], cells.turns[best]].argmax(1)
        return self.grid.shifts[shift]


def with_outliers(probability: Tensor, confidence: Confidence, order: int) -> Tensor:
    """Probability within 15°, if a fraction of the particles has a random orientation; ``order`` is of the symmetry."""
    angle = math.radians(NEAR_DEGREES)
    chance = min(1.0, order * (angle - math.sin(angle)) / math.pi)
    return probability * (1 - confidence.outliers) + confidence.outliers * chance


class _Cells:
    """Cells of the grid over classes, directions and rotations in the plane that are not negligible."""

    def __init__(self, grid: PoseGrid, values: Float[Tensor, "n t c d angles"],
                 at_best_shift: Float[Tensor, "n c d angles"], sharpness: float) -> None:
        largest = at_best_shift.amax((1, 2, 3))
        # Only the cells that count are summed over the shifts, which takes most of the time.
        chosen = (at_best_shift > largest[:, None, None, None] - NEGLIGIBLE / sharpness).nonzero()
        self.particle, self.classes, self.directions, self.turns = chosen.unbind(1)
        over_shifts = values.movedim(1, -1)[tuple(chosen.T)] - largest[self.particle, None]
        weight = torch.exp(over_shifts * sharpness).sum(1)
        total = torch.zeros(len(values), device=values.device).index_add(0, self.particle, weight)
        self.probability = weight / total[self.particle]
        self.rotations = grid.rotations(self.directions, self.turns)

    def near(self, rotations: Float[Tensor, "n 3 3"], particle: Int[Tensor, " cells"],
             operators: Float[Tensor, "g 3 3"]) -> Bool[Tensor, " cells"]:
        """Whether each cell is within 15° of its particle's rotation, modulo symmetry."""
        return angles_modulo(rotations[particle], self.rotations, operators) <= NEAR_DEGREES

    def largest(self, probability: Float[Tensor, " cells"], count: int) -> Int[Tensor, " n"]:
        """Index of the cell with the largest probability of each particle."""
        best = torch.full((count,), -1.0, device=probability.device).scatter_reduce(
            0, self.particle, probability, "amax")
        first = torch.full((count,), len(probability), device=probability.device)
        index = torch.arange(len(probability), device=probability.device)
        is_best = probability == best[self.particle]
        return first.scatter_reduce(0, self.particle[is_best], index[is_best], "amin")
