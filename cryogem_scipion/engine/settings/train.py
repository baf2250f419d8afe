# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the noise translator's training."""
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import model_validator

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["TrainSettings"]


class TrainSettings(RunSettings):
    """Learn the noise of real micrographs, without labels."""

    weighs_most: ClassVar[str] = "batch, crop, generator_width or discriminator_width"

    real: tuple[str, ...] = option(
        ..., "Real micrographs", "Files or quoted patterns such as 'real/*.mrc'; motion-corrected averages.",
        form=False, min_length=1)
    real_pixel_size: float | None = option(
        None, "Pixel size of the real micrographs (Å)", "Only where their headers are wrong or empty.",
        form=False, gt=0)
    real_contrast: Literal["auto", "dark", "bright"] = option(
        "auto", "Particles in real micrographs", "auto: dark, as usual; a set in which they are bright is found and "
        "refused. bright: the set is turned round. dark: it is taken as it is, unchecked.", section="Data",
        advanced=True)
    simulation: Path = option(..., "Simulation", "A folder that 'cryogem simulate' made.", form=False)
    simulation_micrographs: Path | None = option(
        None, "Simulated micrographs to use", "A STAR file like the simulation's micrographs.star with a part of "
        "its rows; empty takes all.", form=False)
    pixel_size: float | None = option(
        None, "Working pixel size (Å)", "Empty takes that of the simulation, which it has to equal within 0.1 %; to "
        "work at a larger or smaller one, simulate at it.", section="Data", advanced=True, gt=0)
    processes: int = option(
        1, "Processes", "Train on so many GPUs at once (or on processors: so many groups of threads). Each takes a "
        "batch of its own, so twice as many are like twice the batch size; 1 to 8.", form=False, ge=1, le=64)
    snr: float | None = option(
        None, "Signal-to-noise ratio", "Variance of the particles over that of the noise, 0.02 to 0.3. Lower it when "
        "generated particles are clearer than the real ones. Empty takes that of the simulation.", section="Data", gt=0,
        le=100)

    steps: int = option(
        2000, "Training steps", "More takes longer and, with three or more real micrographs, does no harm: the state "
        "nearest to those held out is kept (realism.csv). 1000 to 20000.", section="Training", ge=1, le=10_000_000)
    crop: int = option(
        256, "Crop (px)", "Edge of the square pieces that the networks see; larger learns larger structures and takes "
        "longer. 128 to 512.", section="Training", ge=32, le=4096)
    batch: int = option(
        1, "Batch size", "Pieces per step. More makes steadier steps, needs more memory and takes longer; 1 to 8.",
        section="Training", advanced=True, ge=1, le=1024)
    learning_rate: float = option(
        2e-4, "Learning rate", "Of Adam; constant for the first half, then falling to zero. Higher learns faster and "
        "less steadily; 5e-5 to 5e-4.", section="Training", advanced=True, gt=0, le=1)
    generator: Literal["residual", "published"] = option(
        "residual", "Generator", "residual: adds what is missing to the simulated image. published: the "
        "U-Net of the paper.", section="Networks", advanced=True)
    discriminator: Literal["multiscale", "patch"] = option(
        "multiscale", "Discriminator", "multiscale: judges pieces at two scales. patch: that of the paper.",
        section="Networks", advanced=True)
    generator_width: int = option(
        32, "Generator width", "Channels of its first layer: 16 to 64, which the published network has. More learns "
        "finer differences; twice as many take up to four times as long.", section="Networks", advanced=True, ge=1,
        le=512)
    discriminator_width: int = option(
        32, "Discriminator width", "Channels of its first layer: 16 to 128, which the published network has. More "
        "judges more strictly and takes longer.", section="Networks", advanced=True, ge=1, le=512)
    noise: Literal["spectrum", "gaussian"] = option(
        "spectrum", "Noise to start from", "spectrum: with the colour and Thon rings of the real micrographs; "
        "gaussian: white, as published.", section="Training", advanced=True)
    ice: bool = option(
        True, "Ice", "Simulated micrographs get ice as uneven as that of the real ones. No: the networks have to find "
        "it by themselves.", section="Training", advanced=True)
    contaminants: bool = option(
        True, "Contaminants", "Ice crystals, aggregates and carbon edges that are found on the real micrographs lie on "
        "the generated ones too; particles under them are left out. Needs spectrum noise.", section="Training",
        advanced=True)
    contrastive_weight: float = option(
        10.0, "Weight of the contrastive loss", "Higher keeps more of the simulated image; 1 to 20.",
        section="Training", advanced=True, ge=0, le=1e4)
    contrast_weight: float = option(
        50.0, "Weight of the contrast", "Keeps particles as strong against their noise as in the simulated image. "
        "Higher is stricter; 0 to 100.", section="Training", advanced=True, ge=0, le=1e4)
    contrastive_form: Literal["guided", "published", "unguided"] = option(
        "guided", "Contrastive loss", "guided: each place is told from those of the other region (particles, "
        "background). published: the same, as the published program computes it. unguided: from all other places.",
        section="Training", advanced=True)
    gradient_penalty: float = option(
        0.1, "Gradient penalty", "Keeps the discriminator from steep judgements. Higher is gentler and learns more "
        "slowly; 0 to 10. Raise it when its loss goes to zero.", section="Training", advanced=True, ge=0, le=1e4)
    averaging: float = option(
        0.998, "Averaging of the weights", "The model is a moving average over about 1 / (1 - this) steps. Higher is "
        "steadier; 0.99 to 0.999, and 0 takes the last weights.", section="Training", advanced=True, ge=0, lt=1)
    precision: Literal["float32", "bf16", "float64"] = option(
        "float32", "Precision", "float32: exact. bf16: faster on recent GPUs and processors, and a little less exact. "
        "float64: for comparisons, slow.",
        section="Training", advanced=True)
    preview_every: int = option(
        200, "Steps between previews", "Each is a PNG of input, generated and real pieces. Fewer steps show more of "
        "the way; 50 to 1000.", section="Training", advanced=True, ge=1)
    judge_every: int = option(
        200, "Steps between judgements", "Generated pieces are compared with real micrographs that are held out of the "
        "training; the best state becomes the model. Fewer steps find it more closely and take "
        "longer; 100 to 1000.", section="Training", advanced=True, ge=1)
    checkpoint_every: int = option(
        200, "Steps between checkpoints", "A run that is stopped or killed goes on from the last one. Fewer steps lose "
        "less and write more often; 50 to 1000.", section="Training", advanced=True, ge=1)

    @model_validator(mode="after")
    def _halved_often_enough(self) -> "TrainSettings":
        """The residual generator halves a piece four times, the published one down to a single pixel."""
        multiple = 16 if self.generator == "residual" else 2 ** (self.crop.bit_length() - 1)
        if self.crop % multiple:
            raise ValueError(f"crop {self.crop} is no multiple of {multiple}, which the {self.generator} generator "
                             f"needs; give {round(self.crop / multiple) * multiple}")
        return self
