# SPDX-License-Identifier: GPL-3.0-or-later
"""A trained pose estimator: reference, noise, and how far its probabilities can be trusted; and its file."""
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryogem_scipion.engine.errors import CheckpointError
from cryogem_scipion.engine.pose_estimation.particle_images import ParticleSet
from cryogem_scipion.engine.pose_estimation.polar_spectra import (
    ImageGeometry,
    PolarGrid,
    ctf_on_rings,
    normalised_spectra,
    usable_rings,
)
from cryogem_scipion.engine.pose_estimation.reference import Reference, density_edge
from cryogem_scipion.engine.translator.tensor_files import load_tensors, mismatches, save_tensors

__all__ = ["MODEL", "Confidence", "Particles", "PoseEstimator", "load_estimator", "particle_spectra", "rings_of",
           "save_estimator"]

MODEL = "model.safetensors"
FILE_KIND = "pose estimator"


@dataclass(frozen=True)
class Confidence:
    """How log-likelihoods become probabilities that are right on held-out particles."""

    sharpness: float = 1.0
    """Factor of the log-likelihoods: below 1, because the noise is not exactly as the model says."""
    outliers: float = 0.0
    """Fraction of particles about which the model knows nothing."""
    class_sharpness: float = 1.0
    """Factor of the log-likelihoods of the classes' best poses."""


@dataclass(frozen=True)
class Particles:
    """Spectra and CTFs of some particles, with which poses are found."""

    spectra: Complex[Tensor, "n rings half"]
    ctf: Float[Tensor, "n rings half"]

    def __len__(self) -> int:
        return len(self.spectra)

    def part(self, start: int, stop: int) -> "Particles":
        """Particles ``start`` to ``stop`` - 1."""
        return Particles(self.spectra[start:stop], self.ctf[start:stop])


@dataclass(frozen=True)
class PoseEstimator:
    """Everything that is needed to find poses; the tensors lie on one device."""

    reference: Reference
    symmetry: str
    noise: Float[Tensor, "modes rings"]
    """Power of the noise on each ring, with the CTF known and with the mean CTF."""
    ring_power: Float[Tensor, " rings"]
    """Mean power of the particles on each ring."""
    mean_ctf: Float[Tensor, " rings"]
    """Mean CTF of the training particles on each ring; 1 if their CTFs are not known."""
    uses_ctf: bool
    """Whether the reference was learned with CTFs."""
    largest_shift: float
    """Å."""
    confidence: tuple[Confidence, Confidence]
    """With the CTF known, and with the mean CTF."""
    class_numbers: tuple[int, ...]
    """rlnClassNumber of each class."""
    details: dict[str, Any]
    """Information only."""

    @property
    def grid(self) -> PolarGrid:
        """The rings."""
        return self.reference.grid

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.noise.device

    def weights(self, knows_ctf: bool, rings: int) -> Float[Tensor, " rings"]:
        """Weight of each sample in the log-likelihood; 0 beyond the first ``rings`` rings.

        Parameters
        ----------
        knows_ctf
            Whether the particles' CTFs are used; otherwise the noise is that with the mean CTF.
        """
        grid = self.grid
        samples = grid.independent_samples().float().to(self.device) / (grid.angles // 2)
        usable = torch.arange(grid.rings, device=self.device) < rings
        return torch.where(usable, samples / self.noise[0 if knows_ctf else 1], 0.0)

    def moved_to(self, device: torch.device) -> "PoseEstimator":
        """The same estimator on another device."""
        return replace(self, reference=self.reference.to(device), noise=self.noise.to(device),
                       ring_power=self.ring_power.to(device), mean_ctf=self.mean_ctf.to(device))


def particle_spectra(particles: ParticleSet, indices: list[int], grid: PolarGrid, device: torch.device, *,
                     bright: bool, ring_power: Float[Tensor, " rings"] | None = None,
                     mean_ctf: Float[Tensor, " rings"] | None = None) -> Particles:
    """Read particles and transform them to rings.

    Parameters
    ----------
    indices
        Rows of the particles in the table.
    bright
        Whether protein is bright in the files.
    ring_power
        As for ``normalised_spectra``.
    mean_ctf
        CTF to use for all particles; None uses those in the file.
    """
    half = grid.angles // 2
    spectra = torch.zeros(len(indices), grid.rings, half, dtype=torch.complex64, device=device)
    by_geometry: dict[ImageGeometry, list[int]] = {}
    for place, index in enumerate(indices):
        by_geometry.setdefault(particles.geometries[index], []).append(place)
    for geometry, places in by_geometry.items():
        images = particles.images([indices[place] for place in places], bright).to(device)
        spectra[places] = normalised_spectra(images, geometry, grid, ring_power)
    if mean_ctf is not None:
        return Particles(spectra, mean_ctf[None, :, None].expand(len(indices), -1, half))
    planes: dict[tuple[Any, bool], Tensor] = {}
    ctf = torch.empty(len(indices), grid.rings, half)
    for place, index in enumerate(indices):
        optics, flipped = particles.optics_of(index)
        if (optics, flipped) not in planes:
            plane = ctf_on_rings(optics, grid)
            planes[optics, flipped] = plane.abs() if flipped else plane
        ctf[place] = planes[optics, flipped]
    return Particles(spectra, ctf.to(device))


def save_estimator(path: Path, estimator: PoseEstimator) -> None:
    """Write a model file."""
    grid = estimator.grid
    save_tensors(path, FILE_KIND, {
        "density": estimator.reference.density, "noise": estimator.noise, "ring_power": estimator.ring_power,
        "mean_ctf": estimator.mean_ctf}, {
            "diameter_angstrom": grid.diameter_angstrom, "rings": grid.rings,
            "resolution_angstrom": grid.resolution_angstrom, "symmetry": estimator.symmetry,
            "uses_ctf": estimator.uses_ctf, "largest_shift_angstrom": estimator.largest_shift,
            "confidence": [[part.sharpness, part.outliers, part.class_sharpness] for part in estimator.confidence],
            "class_numbers": list(estimator.class_numbers), "details": estimator.details})


def load_estimator(path: Path, device: torch.device) -> PoseEstimator:
    """Read a model file.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or of another kind.
    """
    tensors, values = load_tensors(path, FILE_KIND)
    try:
        grid = PolarGrid(float(values["diameter_angstrom"]), int(values["rings"]))
        if not (grid.diameter_angstrom > 0 and 1 <= grid.rings <= 1024):
            raise ValueError(f"diameter {grid.diameter_angstrom}, {grid.rings} rings")
        numbers = tuple(int(number) for number in values["class_numbers"])
        edge = density_edge(grid)
        problems = mismatches({"density": (len(numbers), edge, edge, edge), "noise": (2, grid.rings),
                               "ring_power": (grid.rings,), "mean_ctf": (grid.rings,)}, tensors)
        if problems:
            raise ValueError("; ".join(problems))
        reference = Reference(grid, len(numbers))
        reference.load_state_dict({"density": tensors["density"]})
        first, second = (Confidence(*map(float, part)) for part in values["confidence"])
        estimator = PoseEstimator(
            reference.requires_grad_(False), str(values["symmetry"]), tensors["noise"], tensors["ring_power"],
            tensors["mean_ctf"], bool(values["uses_ctf"]), float(values["largest_shift_angstrom"]), (first, second),
            numbers, dict(values["details"]))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); train the pose estimator again") from None
    return estimator.moved_to(device)


def rings_of(particles: ParticleSet, grid: PolarGrid) -> int:
    """Number of rings that all images of a set have."""
    return min(usable_rings(geometry, grid) for geometry in set(particles.geometries))
