# SPDX-License-Identifier: GPL-3.0-or-later
"""The particles of a training, the circle and rings that suit them, and the micrographs that are held out."""
import hashlib
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.io.dataset import MANIFEST, Manifest, read_manifest
from cryogem_scipion.engine.pose_estimation.estimator import (
    Confidence,
    Particles,
    PoseEstimator,
    particle_spectra,
    rings_of,
)
from cryogem_scipion.engine.pose_estimation.particle_images import KnownPoses, ParticleSet, known_poses, read_particles
from cryogem_scipion.engine.pose_estimation.polar_spectra import PolarGrid
from cryogem_scipion.engine.pose_estimation.reference import Reference
from cryogem_scipion.engine.pose_estimation.training_particles import TrainingParticles
from cryogem_scipion.engine.settings.simulate import symmetry_name
from cryogem_scipion.engine.settings.train_poses import TrainPosesSettings

__all__ = ["TrainingSet", "fingerprint_particles", "new_estimator", "open_training_set", "read_training_particles",
           "spectra_of_all"]

log = logging.getLogger("cryogem")

CIRCLE = 1.1
"""Diameter of the circle divided by the diameter of the particle."""
WITHOUT_DIAMETER = 0.6
"""Diameter of the circle divided by the box, if nothing is known about the particle."""
RESOLUTION = 14
"""Diameter of the circle divided by the finest resolution."""
FEWEST_RINGS, FEWEST_PARTICLES = 5, 4
LARGEST_SHIFT = 0.08
HELD_OUT, LARGEST_HELD_OUT, MOST_HELD_OUT = 0.1, 0.34, 2000
"""Fraction of the particles that is held out, the largest fraction, and the largest number."""
CHUNK = 64


@dataclass(frozen=True)
class TrainingSet:
    """Table of the particles, their poses, and what the settings leave to the data."""

    particles: ParticleSet
    poses: KnownPoses
    grid: PolarGrid
    symmetry: str
    largest_shift: float
    """Å."""
    manifest: Manifest | None
    """Manifest of the dataset folder, if the particles are in one."""
    training: Int[Tensor, " n"]
    """Indices of the particles that the reference is learned from."""
    held_out: Int[Tensor, " m"]
    """Indices of the particles on held-out micrographs."""
    warnings: tuple[str, ...]


def open_training_set(settings: TrainPosesSettings) -> TrainingSet:
    """Read the tables of a training and check them; reads no images.

    Raises
    ------
    CryogemError
        The particles or the settings are unusable.
    """
    particles = read_particles(settings.particles, settings.pixel_size)
    if len(particles) < FEWEST_PARTICLES:
        raise DataError(f"{particles.path} has {len(particles)} particles; give {FEWEST_PARTICLES} or more, and better "
                        "some thousands")
    poses = known_poses(particles)
    folder = particles.path.parent
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    simulation = (manifest.simulation or manifest.settings) if manifest else {}
    symmetry = settings.symmetry or symmetry_name(str(simulation.get("symmetry") or "C1"))
    grid = _grid(settings, particles, manifest)
    shift = settings.largest_shift_angstrom
    if shift is None:
        shift = LARGEST_SHIFT * grid.diameter_angstrom
    if shift > grid.diameter_angstrom / 2:
        raise SettingsError(f"largest_shift_angstrom {shift:g} is more than half of the circle's diameter "
                            f"({grid.diameter_angstrom:g} Å); give a smaller value")
    training, held_out, warnings = _hold_out(particles, settings.seed)
    if len(particles) < 500:
        warnings.append(f"only {len(particles)} particles; with some thousands the poses are more exact")
    if not particles.has_ctf:
        warnings.append("the particles have no CTF; the poses are less exact than with defocus values")
    return TrainingSet(particles, poses, grid, symmetry, shift, manifest, training, held_out, tuple(warnings))


def _grid(settings: TrainPosesSettings, particles: ParticleSet, manifest: Manifest | None) -> PolarGrid:
    """The circle and the rings."""
    geometries = set(particles.geometries)
    coarsest = max(geometry.pixel_size for geometry in geometries)
    box = min(geometry.box * geometry.pixel_size for geometry in geometries)
    diameter = settings.diameter_angstrom
    if diameter is None and manifest is not None and manifest.particle_diameter_angstrom:
        diameter = CIRCLE * manifest.particle_diameter_angstrom
    if diameter is None:
        diameter = WITHOUT_DIAMETER * box
    if diameter > 1.5 * box:
        raise SettingsError(f"diameter_angstrom {diameter:g} is much larger than the boxes ({box:g} Å); extract larger "
                            "boxes, or give a smaller diameter")
    resolution = settings.resolution_angstrom
    if resolution is not None and resolution < 2 * coarsest:
        raise SettingsError(f"resolution_angstrom {resolution:g} is finer than particles of {coarsest:g} Å per pixel "
                            f"can show; give {2 * coarsest:g} or more")
    one_ring = PolarGrid(diameter, 1)
    wanted = resolution or max(diameter / RESOLUTION, 2 * coarsest)
    rings = max(1, math.floor(one_ring.period_angstrom / wanted + 1e-6))
    if rings < FEWEST_RINGS:
        raise SettingsError(f"a circle of {diameter:g} Å at a resolution of {wanted:g} Å shows no details that tell "
                            f"views apart; give a resolution below {one_ring.period_angstrom / FEWEST_RINGS:.3g} Å, "
                            "or particles with a smaller pixel size")
    return PolarGrid(diameter, rings)


def _hold_out(particles: ParticleSet, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """Indices of training and held-out particles: whole micrographs, if there are several."""
    random = np.random.default_rng([seed, 0x9E05E])
    names, group = np.unique(particles.micrographs().to_numpy(str), return_inverse=True)
    counts, count = np.bincount(group), len(particles)
    wanted = max(1, min(MOST_HELD_OUT, round(HELD_OUT * count)))
    # Random micrographs, until they have enough particles.
    order = random.permutation(len(names))
    needed = int(np.searchsorted(counts[order].cumsum(), wanted)) + 1
    is_held_out, warnings = np.isin(group, order[:needed]), []
    if is_held_out.sum() > LARGEST_HELD_OUT * count:
        warnings.append(f"the particles are of {len(names)} micrographs, too few to hold out a whole one; held-out "
                        "particles are of the same micrographs, so the errors on them may be too small")
        is_held_out = np.isin(np.arange(count), random.permutation(count)[:wanted])
    return torch.from_numpy(np.flatnonzero(~is_held_out)), torch.from_numpy(np.flatnonzero(is_held_out)), warnings


def read_training_particles(data: TrainingSet, settings: TrainPosesSettings, device: torch.device) -> TrainingParticles:
    """Spectra of all particles of a training set, in the memory of the CPU.

    Raises
    ------
    SettingsError
        Particles with a coarser pixel size than the others do not have all rings.
    """
    mean_ctf = None if data.particles.has_ctf else torch.ones(data.grid.rings)
    if rings_of(data.particles, data.grid) < data.grid.rings:
        raise SettingsError("the particles have different pixel sizes, and the resolution is beyond that of the "
                            "coarsest; give resolution_angstrom")
    spectra = spectra_of_all(data.particles, list(range(len(data.particles))), data.grid, device,
                             settings.contrast == "bright", None, mean_ctf)
    return TrainingParticles(Particles(spectra.spectra.cpu(), spectra.ctf.cpu()), data.poses.rotations,
                             data.poses.origins, torch.from_numpy(data.poses.classes))


def spectra_of_all(particles: ParticleSet, indices: list[int], grid: PolarGrid, device: torch.device, bright: bool,
                   ring_power: Tensor | None, mean_ctf: Tensor | None) -> Particles:
    """Spectra of many particles, computed on all available threads.

    Parameters
    ----------
    indices, bright, ring_power, mean_ctf
        As for ``particle_spectra``.
    """
    chunks = [indices[start:start + CHUNK] for start in range(0, len(indices), CHUNK)]

    def transform(chunk: list[int]) -> Particles:
        return particle_spectra(particles, chunk, grid, device, bright=bright, ring_power=ring_power,
                                mean_ctf=mean_ctf)

    parts = [transform(chunk) for chunk in chunks] if device.type == "cuda" else parallel_map(transform, chunks)
    return Particles(torch.cat([part.spectra for part in parts]), torch.cat([part.ctf for part in parts]))


def new_estimator(data: TrainingSet, training: TrainingParticles, device: torch.device) -> PoseEstimator:
    """An estimator with an empty reference."""
    grid = data.grid
    ring_power = training.particles.spectra.abs().square().double().mean((0, 2)).float().to(device)
    mean_ctf = training.particles.ctf.double().mean((0, 2)).float().to(device)
    return PoseEstimator(
        Reference(grid, len(data.poses.class_numbers)).to(device), data.symmetry, ring_power.repeat(2, 1), ring_power,
        mean_ctf, data.particles.has_ctf, data.largest_shift, (Confidence(), Confidence()),
        tuple(data.poses.class_numbers), {})


def fingerprint_particles(particles: ParticleSet) -> str:
    """SHA-256 of the STAR file and of the names and sizes of the stacks."""
    digest = hashlib.sha256(particles.path.read_bytes())
    stacks = {str(stack): Path(stack).stat().st_size for stack in sorted(set(particles.stacks))}
    digest.update(json.dumps(stacks).encode())
    return digest.hexdigest()
