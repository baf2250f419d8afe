# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem generate``."""
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import model_validator

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["GenerateSettings"]


class GenerateSettings(RunSettings):
    """Generate labelled micrographs that look like real ones, from new simulated specimens."""

    memory_remedy: ClassVar[str] = "lower micrograph_size or threads"

    simulation: Path = option(
        ..., "Simulation", "Dataset folder of 'cryogem simulate'.", form=False)
    simulation_micrographs: Path | None = option(
        None, "Simulated micrographs to use", "Only together with reuse: STAR file with some rows of the simulation's "
        "micrographs.star. Empty uses all.", form=False)
    model: Path | None = option(
        None, "Noise model", "File model.safetensors of 'cryogem train' or 'cryogem import-model'.", form=False)
    noise: Literal["model", "gaussian", "spectrum"] = option(
        "model", "Noise", "model: the trained noise translator. spectrum: the noise spectrum, Thon rings and ice of "
        "the real micrographs, without training. gaussian: white noise.", section="Noise")
    real: tuple[str, ...] = option(
        (), "Real micrographs", "Files, or patterns in quotation marks such as 'real/*.mrc'. The noise spectrum is "
        "measured from them. For an imported model, the ice maps are measured from them.", form=False)
    real_pixel_size: float | None = option(
        None, "Pixel size of the real micrographs (Å)", "Set it only if their headers are wrong or empty.", form=False,
        gt=0)
    real_contrast: Literal["auto", "dark", "bright"] = option(
        "auto", "Particle contrast on real micrographs", "Contrast of the particles on the real micrographs. auto: "
        "particles have to be dark; a set with bright particles is detected and refused. bright: the contrast of the "
        "whole set is inverted. dark: the set is used as it is, without a check.", section="Noise", advanced=True)
    precision: Literal["auto", "float32", "bf16"] = option(
        "auto", "Precision", "Number format of the noise translator. auto: bf16 on GPUs and CPUs that multiply "
        "matrices in it, float32 on others. float32: exact. bf16: less exact, and about twice as fast on such "
        "hardware.", section="Noise", advanced=True)
    snr: float | None = option(
        None, "Signal-to-noise ratio", "Variance of the particles divided by the variance of the noise, at the working "
        "pixel size. A higher value makes particles easier to see; 0.003 (single frames) to 0.3 is usual. Empty uses "
        "the value of the noise model; without a model, it is measured on the real micrographs; without these, it is "
        "the simulation's.", section="Noise", gt=0, le=100)
    visible_particles: bool = option(
        False, "Visible particles", "For pickers, which learn nothing from particles that are hidden in the noise, as "
        "on single frames. Yes: such particles are made so strong that a matched filter would find 95 % of them; "
        "stronger ones are not changed. No: all have the signal-to-noise ratio as it is.", section="Noise")
    ice: bool = option(
        True, "Ice", "Yes: with spectrum or gaussian noise, the micrographs get the ice maps of the real micrographs. "
        "No: the ice is even. A trained model has its own ice maps.", section="Noise", advanced=True)
    contaminants: bool = option(
        True, "Contaminants", "Yes: with spectrum noise, the micrographs get the ice crystals, aggregates and carbon "
        "edges that are found on the real micrographs. Particles under them are left out. A trained model has its own "
        "contaminants.", section="Noise", advanced=True)
    micrographs: int | None = option(
        None, "Number of micrographs", "Number of micrographs to generate. More micrographs make a larger training set "
        "and take longer; 10 to 100 is usual for a picker, more for pose estimation. Empty uses the number of the "
        "simulation.", section="Output", ge=1, le=10_000_000)
    micrograph_size: tuple[int, int] | None = option(
        None, "Micrograph size (y x, px)", "Height and width. A larger value gives more room for the same number of "
        "particles and takes longer; 512 to 4096 is usual. Empty uses the size of the simulation.", section="Output",
        advanced=True)
    reuse: bool = option(
        False, "Reuse the simulated specimens", "Yes: add noise to the simulated micrographs themselves, for a direct "
        "comparison. No: make new specimens with other particles, positions and defocus values.", section="Output",
        advanced=True)
    extract: bool = option(
        True, "Extract particles", "Yes: also write particle stacks with poses; protein is bright. No: write "
        "micrographs and coordinates only, which takes less space.", section="Output")
    keep: tuple[Literal["optical", "physical"], ...] = option(
        (), "Also keep", "Images to write in addition to the generated ones. optical: the clean images, without noise "
        "(also as particle stacks). physical: the images with ice and noise, before the network.", section="Output",
        advanced=True)

    @model_validator(mode="after")
    def _consistent(self) -> "GenerateSettings":
        if self.noise == "model" and self.model is None:
            raise ValueError("no noise model given; give model, or choose noise gaussian or spectrum")
        if self.noise == "spectrum" and not self.real:
            raise ValueError("noise spectrum is measured from real micrographs; give real")
        if self.micrograph_size and not all(16 <= edge <= 65536 for edge in self.micrograph_size):
            raise ValueError(f"micrograph_size {self.micrograph_size} is out of range; give 16 to 65536 pixels (y x)")
        if self.reuse and self.micrograph_size:
            raise ValueError("reuse keeps the size of the simulated micrographs; leave micrograph_size empty")
        return self
