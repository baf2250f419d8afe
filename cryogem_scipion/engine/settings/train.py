# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem train``."""
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import model_validator

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["TrainSettings"]


class TrainSettings(RunSettings):
    """Train the noise translator on real micrographs, without labels."""

    memory_remedy: ClassVar[str] = "lower batch, crop, generator_width or discriminator_width"

    real: tuple[str, ...] = option(
        ..., "Real micrographs", "Files, or patterns in quotation marks such as 'real/*.mrc'. Give motion-corrected "
        "averages.", form=False, min_length=1)
    real_pixel_size: float | None = option(
        None, "Pixel size of the real micrographs (Å)", "Set it only if their headers are wrong or empty.", form=False,
        gt=0)
    real_contrast: Literal["auto", "dark", "bright"] = option(
        "auto", "Particle contrast on real micrographs", "Contrast of the particles on the real micrographs. auto: "
        "particles have to be dark; a set with bright particles is detected and refused. bright: the contrast of the "
        "whole set is inverted. dark: the set is used as it is, without a check.", section="Data", advanced=True)
    simulation: Path = option(
        ..., "Simulation", "Dataset folder of 'cryogem simulate'.", form=False)
    simulation_micrographs: Path | None = option(
        None, "Simulated micrographs to use", "STAR file with some rows of the simulation's micrographs.star. Empty "
        "uses all.", form=False)
    pixel_size: float | None = option(
        None, "Working pixel size (Å)", "It has to equal the pixel size of the simulation within 0.1 %. Empty uses the "
        "pixel size of the simulation. To train at another pixel size, simulate again at that size.", section="Data",
        advanced=True, gt=0)
    processes: int = option(
        1, "Processes", "Number of GPUs to train on at once (without GPUs: number of groups of CPU threads). Each "
        "process has its own batch, so two processes have the same effect as twice the batch size. More processes "
        "train with a larger batch in the same time; 1 to 8 is usual.", form=False, ge=1, le=64)
    snr: float | None = option(
        None, "Signal-to-noise ratio", "Variance of the particles divided by the variance of the noise, at the working "
        "pixel size. Lower it when generated particles are clearer than real ones; 0.003 (single frames) to 0.3 is "
        "usual. Empty: it is measured on the real micrographs.", section="Data", gt=0, le=100)

    steps: int = option(
        2000, "Training steps", "More steps take longer. With three or more real micrographs, they do no harm: the "
        "checkpoint with the best validation on held-out micrographs (realism.csv) becomes the model, and a training "
        "that no longer improves stops early. 1000 to 20000 is usual.", section="Training", ge=1, le=10_000_000)
    crop: int = option(
        256, "Crop (px)", "Edge length of the square crops that the networks are trained on. A larger value lets them "
        "learn larger structures and takes longer; 128 to 512 is usual.", section="Training", ge=32, le=4096)
    batch: int = option(
        1, "Batch size", "Number of crops in each step. More crops make training more stable, need more memory and "
        "take longer; 1 to 8 is usual.", section="Training", advanced=True, ge=1, le=1024)
    learning_rate: float = option(
        2e-4, "Learning rate", "Learning rate of the optimiser (Adam). It is constant in the first half of the "
        "training and then falls to zero. A higher value makes training faster and less stable; 5e-5 to 5e-4 is usual.",
        section="Training", advanced=True, gt=0, le=1)
    adaptive_rate: bool = option(
        True, "Adaptive learning rate", "Yes: the generator learns only while the discriminator tells generated from "
        "real crops, and faster the better it does. Otherwise the generator would drift at random. No: always at the "
        "full learning rate, as in the CryoGEM paper.", section="Training", advanced=True)
    generator: Literal["residual", "published"] = option(
        "residual", "Generator", "Architecture of the generator. residual: a network that adds a correction to the "
        "physical image (the simulated image with ice and noise). published: the U-Net of the CryoGEM paper.",
        section="Networks", advanced=True)
    discriminator: Literal["multiscale", "patch"] = option(
        "multiscale", "Discriminator", "Architecture of the discriminator. multiscale: it compares crops at two "
        "scales. patch: the PatchGAN of the CryoGEM paper.", section="Networks", advanced=True)
    generator_width: int = option(
        32, "Generator width", "Number of channels of the first layer. More channels learn finer differences; twice as "
        "many take up to four times as long. 16 to 64 is usual; the published network has 64.", section="Networks",
        advanced=True, ge=1, le=512)
    discriminator_width: int = option(
        32, "Discriminator width", "Number of channels of the first layer. More channels detect finer differences and "
        "take longer. 16 to 128 is usual; the published network has 128.", section="Networks", advanced=True, ge=1,
        le=512)
    noise: Literal["spectrum", "gaussian"] = option(
        "spectrum", "Noise before the network", "Noise in the image before the network. spectrum: noise with the "
        "spectrum and Thon rings of the real micrographs. gaussian: white noise, as in the CryoGEM paper.",
        section="Training", advanced=True)
    ice: bool = option(
        True, "Ice", "Yes: simulated micrographs get the ice maps of the real micrographs before they enter the "
        "network. No: the network has to learn the ice.", section="Training", advanced=True)
    contaminants: bool = option(
        True, "Contaminants", "Yes: generated micrographs get the ice crystals, aggregates and carbon edges that are "
        "found on the real micrographs. Particles under them are left out. It works only with spectrum noise.",
        section="Training", advanced=True)
    contrastive_weight: float = option(
        10.0, "Weight of the contrastive loss", "Weight of the loss that keeps the content of the physical image in "
        "the generated image. A higher value keeps more of it; 1 to 20 is usual.", section="Training", advanced=True,
        ge=0, le=1e4)
    contrast_weight: float = option(
        50.0, "Weight of the contrast loss", "Weight of the loss that keeps the contrast of the particles as it is in "
        "the physical image. A higher value is stricter; 0 to 100 is usual.", section="Training", advanced=True, ge=0,
        le=1e4)
    contrastive_form: Literal["guided", "published", "unguided"] = option(
        "guided", "Contrastive loss", "Which places the contrastive loss compares. guided: each place with places of "
        "the other region (particles or background). published: the same, computed as in the published program. "
        "unguided: each place with all other places.", section="Training", advanced=True)
    gradient_penalty: float = option(
        0.1, "Gradient penalty", "Limits how steeply the discriminator's output changes. A higher value makes training "
        "more stable and slower; 0 to 10 is usual. Choose a larger value if the discriminator's loss falls to zero.",
        section="Training", advanced=True, ge=0, le=1e4)
    averaging: float = option(
        0.998, "Averaging of the weights", "The model is a moving average of the weights over about 1 / (1 - value) "
        "steps. A higher value averages over more steps; 0.99 to 0.999 is usual. 0 uses the last weights.",
        section="Training", advanced=True, ge=0, lt=1)
    precision: Literal["auto", "float32", "bf16", "float64"] = option(
        "auto", "Precision", "Number format of the networks. auto: bf16 on GPUs and CPUs that multiply matrices in it, "
        "float32 on others. float32: exact. bf16: less exact, and two to five times as fast on such hardware. "
        "float64: slow, for comparisons only.", section="Training", advanced=True)
    preview_every: int = option(
        200, "Steps between previews", "A preview is a PNG with crops of physical, generated and real micrographs. "
        "Fewer steps show the progress in more detail; 50 to 1000 is usual.", section="Training", advanced=True, ge=1)
    judge_every: int = option(
        200, "Steps between validations", "In a validation, small networks learn to tell generated crops from real "
        "ones, and judge held-out real micrographs. The checkpoint that they tell apart least becomes the model. Fewer "
        "steps find the best checkpoint more precisely and take longer; 100 to 1000 is usual. 0: no validation; the "
        "last step becomes the model.", section="Training", advanced=True, ge=0)
    patience: int = option(
        5, "Early stopping (validations)", "The training ends after this many validations in a row without a better "
        "one. A larger value gives the training more time to improve; 3 to 10 is usual. 0: all steps are done.",
        section="Training", advanced=True, ge=0, le=10_000)
    checkpoint_every: int = option(
        200, "Steps between checkpoints", "A run that is stopped or killed continues from its last checkpoint. With "
        "fewer steps, less work is lost and files are written more often; 50 to 1000 is usual.", section="Training",
        advanced=True, ge=1)

    @model_validator(mode="after")
    def _crop_fits_generator(self) -> "TrainSettings":
        """The residual generator halves an image four times, and the published one halves it to a single pixel."""
        multiple = 16 if self.generator == "residual" else 2 ** (self.crop.bit_length() - 1)
        if self.crop % multiple:
            raise ValueError(f"crop {self.crop} is not a multiple of {multiple}, as the {self.generator} generator "
                             f"needs; give {round(self.crop / multiple) * multiple}")
        return self
