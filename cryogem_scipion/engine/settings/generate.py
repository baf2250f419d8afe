# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the generation of a labelled data set."""
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import model_validator

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["GenerateSettings"]


class GenerateSettings(RunSettings):
    """Make labelled micrographs that look real, of fresh specimens."""

    weighs_most: ClassVar[str] = "micrograph_size or threads"

    simulation: Path = option(..., "Simulation", "A folder that 'cryogem simulate' made.", form=False)
    simulation_micrographs: Path | None = option(
        None, "Simulated micrographs to use", "With reuse: a STAR file with a part of the rows of micrographs.star.",
        form=False)
    model: Path | None = option(
        None, "Noise model", "A model.safetensors of 'cryogem train' or 'cryogem import-model'.", form=False)
    noise: Literal["model", "gaussian", "spectrum"] = option(
        "model", "Noise", "model: the trained translator; spectrum: colour, Thon rings and ice of the real "
        "micrographs, no training; gaussian: white noise.", section="Noise")
    real: tuple[str, ...] = option(
        (), "Real micrographs", "For spectrum noise, and for the ice of imported models: files or quoted "
        "patterns.", form=False)
    real_pixel_size: float | None = option(
        None, "Pixel size of the real micrographs (Å)", "Only where their headers are wrong or empty.",
        form=False, gt=0)
    real_contrast: Literal["auto", "dark", "bright"] = option(
        "auto", "Particles in real micrographs", "auto: dark, as usual; a set in which they are bright is found and "
        "refused. bright: the set is turned round. dark: it is taken as it is, unchecked.", section="Noise",
        advanced=True)
    precision: Literal["float32", "bf16"] = option(
        "float32", "Precision", "Of a noise model. float32 is exact; bf16 is faster on recent GPUs and processors with "
        "its instructions, and slower on others.", section="Noise", advanced=True)
    snr: float | None = option(
        None, "Signal-to-noise ratio", "Variance of the particles over that of the noise, 0.02 to 0.3. Higher makes "
        "particles easier to see. Empty takes that of the model, else of the simulation.", section="Noise", gt=0,
        le=100)
    ice: bool = option(
        True, "Ice", "Spectrum and gaussian noise get ice as uneven as that of the real micrographs. No: the same "
        "everywhere. A trained model has its own.", section="Noise", advanced=True)
    contaminants: bool = option(
        True, "Contaminants", "Spectrum noise gets the ice crystals, aggregates and carbon edges that are found on the "
        "real micrographs; particles under them are left out. A trained model has its own.", section="Noise",
        advanced=True)
    micrographs: int | None = option(
        None, "Number of micrographs", "More gives a larger training set and takes longer; 10 to 100 for a picker, "
        "more for pose estimation. Empty makes as many as the simulation has.", section="Output", ge=1, le=10_000_000)
    micrograph_size: tuple[int, int] | None = option(
        None, "Micrograph size (y x, px)", "Height and width, 512 to 4096 usually. Larger gives more room for the same "
        "number of particles and takes longer. Empty takes that of the simulation.", section="Output", advanced=True)
    reuse: bool = option(
        False, "Reuse the simulated specimens", "Yes: the very particles of the simulated micrographs get noise, to "
        "compare with them. No: fresh particles, positions and defocus values.", section="Output", advanced=True)
    extract: bool = option(
        True, "Extract particles", "Yes: also write the particles' boxes as stacks, protein bright, with their poses. "
        "No: micrographs and coordinates only, in less space.", section="Output")
    keep: tuple[Literal["optical", "physical"], ...] = option(
        (), "Also keep", "optical: the clean images (and clean stacks); physical: with ice and noise before "
        "translation.", section="Output", advanced=True)

    @model_validator(mode="after")
    def _consistent(self) -> "GenerateSettings":
        if self.noise == "model" and self.model is None:
            raise ValueError("no noise model given; give model, or noise gaussian or spectrum")
        if self.noise == "spectrum" and not self.real:
            raise ValueError("noise spectrum is measured from real micrographs; give real")
        if self.micrograph_size and not all(16 <= edge <= 65536 for edge in self.micrograph_size):
            raise ValueError(f"micrograph_size {self.micrograph_size} is out of range; give 16 to 65536 pixels (y x)")
        if self.reuse and self.micrograph_size:
            raise ValueError("reuse translates the simulated micrographs as they are; leave micrograph_size empty")
        return self
