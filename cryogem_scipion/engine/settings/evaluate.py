# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem evaluate``."""
from pathlib import Path

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["EvaluateSettings"]


class EvaluateSettings(RunSettings):
    """Measure how different generated micrographs are from real ones."""

    generated: tuple[str, ...] = option(
        ..., "Generated micrographs", "Files, or patterns in quotation marks such as 'gen/micrographs/*.mrc'.",
        form=False, min_length=1)
    real: tuple[str, ...] = option(
        ..., "Real micrographs", "Files, or patterns in quotation marks such as 'real/*.mrc'. Held-out micrographs are "
        "best: those that no model was trained on.", form=False, min_length=1)
    generated_pixel_size: float | None = option(
        None, "Pixel size of the generated micrographs (Å)", "Set it only if their headers are wrong or empty.",
        form=False, gt=0)
    real_pixel_size: float | None = option(
        None, "Pixel size of the real micrographs (Å)", "Set it only if their headers are wrong or empty.", form=False,
        gt=0)
    features: Path | None = option(
        None, "Feature network", "File of the network whose features the Fréchet distance compares: a Topaz detector "
        "(.sav), or the weights of Inception v3 from torchvision or pytorch-fid (.pth or .safetensors). Empty uses "
        "fixed random filters. Distances from different networks cannot be compared.", section="Data")
    feature_pixel_size: float = option(
        8.0, "Pixel size for the features (Å)", "Images are binned to about this pixel size before they enter the "
        "network. A smaller value shows finer detail and takes longer. Topaz's general detectors were trained at about "
        "8.", section="Data", advanced=True, gt=0)
    limit: int = option(
        200, "Number of micrographs to compare", "Largest number of micrographs to compare in each set; they are "
        "spread evenly over the set. More micrographs make the result more certain and take longer; 20 to 200 are "
        "enough.", section="Data", ge=1, le=10_000_000)
    two_sample: bool = option(
        True, "Two-sample test", "Train small networks to tell generated from real micrographs, on one part of both "
        "sets, and let them judge the other part. It sees differences that the distances do not show. It needs 4 "
        "micrographs or more of each set, and takes a few minutes on a CPU.", section="Data")
    two_sample_steps: int = option(
        300, "Training steps of the two-sample test", "More steps find weaker differences and take longer; 200 to 2000 "
        "are usual.", section="Data", advanced=True, ge=10, le=100_000)
    particle_diameter: float | None = option(
        None, "Particle diameter (Å)", "One scale of the two-sample test shows a particle at about 28 pixels. A larger "
        "value makes this scale coarser, a smaller value finer. Empty: the diameter that the generated dataset "
        "records, or 150.", section="Data", advanced=True, gt=0)
