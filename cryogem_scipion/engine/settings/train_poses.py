# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem train-poses``."""
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import field_validator

from cryogem_scipion.engine.settings.base import RunSettings, option
from cryogem_scipion.engine.settings.simulate import symmetry_name

__all__ = ["TrainPosesSettings"]


class TrainPosesSettings(RunSettings):
    """Train a pose estimator, which gives each particle an orientation, a shift and a confidence."""

    memory_remedy: ClassVar[str] = "lower batch, or give fewer particles"

    particles: Path = option(
        ..., "Particles with known poses", "Dataset folder that was made with extracted particles, or a STAR file of "
        "particles with rlnImageName, rlnAngleRot, rlnAngleTilt and rlnAnglePsi.", form=False)
    pixel_size: float | None = option(
        None, "Pixel size of the particles (Å)", "Needed only if the STAR file does not contain it.", form=False, gt=0)
    symmetry: str | None = option(
        None, "Symmetry", "Point group of the particle, as in RELION: C1, C7, D2, T, O, I (I1 to I4). Poses that are "
        "equal by symmetry count as equal. Empty uses the symmetry of the simulation, or C1 without a simulation.",
        section="Particles")
    diameter_angstrom: float | None = option(
        None, "Diameter of the particle (Å)", "Diameter of the circle inside which particles are compared. It should "
        "hold the whole particle. A larger circle also shows neighbours and noise; the particle's longest diameter "
        "plus 5 to 20 % is usual. Empty uses the diameter of the simulation plus 10 %, or 0.6 of the box without a "
        "simulation.",
        section="Particles", gt=0)
    contrast: Literal["bright", "dark"] = option(
        "bright", "Particle contrast", "Contrast of the protein in the images. bright: as in RELION's stacks and in "
        "the stacks of this program. dark: as on micrographs.", section="Particles", advanced=True)
    largest_shift_angstrom: float | None = option(
        None, "Largest shift (Å)", "Distance by which the particles to assign may lie beside the centre of their box. "
        "Shifts up to this distance along x and y are searched. A larger value accepts less exact coordinates and "
        "takes longer; 5 to 15 % of the diameter is usual. Empty uses 8 % of the diameter.", section="Particles",
        advanced=True, ge=0)
    resolution_angstrom: float | None = option(
        None, "Finest resolution (Å)", "Finest detail that is used to find the poses. A smaller value needs more time "
        "and less noisy particles, and helps where views differ only in fine details; 8 to 25 is usual. Empty uses one "
        "fourteenth of the circle's diameter, or what the pixel size allows.", section="Particles", advanced=True, gt=0)

    steps: int = option(
        400, "Training steps", "More steps take longer and make the reference more exact, up to a limit: the state "
        "with the smallest loss on held-out particles becomes the model. 200 to 2000 is usual.", section="Training",
        ge=1, le=10_000_000)
    batch: int = option(
        256, "Batch size", "Number of particles in each step. More particles make training more stable, need more "
        "memory and take longer; 64 to 1024 is usual.", section="Training", advanced=True, ge=2, le=65536)
    learning_rate: float = option(
        0.1, "Learning rate", "Learning rate of the optimiser (Adam) in the first half of the training; then it falls "
        "to zero. A higher value makes training faster and less stable; 0.02 to 0.3 is usual.", section="Training",
        advanced=True, gt=0, le=10)
    processes: int = option(
        1, "Processes", "Number of GPUs to train on at once (without GPUs: number of groups of CPU threads). Each "
        "process has its own batch, so two processes have the same effect as twice the batch size. More processes "
        "train with a larger batch in the same time; 1 to 8 is usual.", form=False, ge=1, le=64)
    validate_every: int = option(
        50, "Steps between validations", "In a validation, the loss of held-out particles is computed, and their poses "
        "are compared with the true ones. Fewer steps find the best state more precisely and take longer; 20 to 200 is "
        "usual.", section="Training", advanced=True, ge=1)
    checkpoint_every: int = option(
        100, "Steps between checkpoints", "A run that is stopped or killed continues from its last checkpoint. With "
        "fewer steps, less work is lost and files are written more often; 50 to 500 is usual.", section="Training",
        advanced=True, ge=1)

    @field_validator("symmetry")
    @classmethod
    def _known_symmetry(cls, name: str | None) -> str | None:
        return None if name is None or not name.strip() else symmetry_name(name)
