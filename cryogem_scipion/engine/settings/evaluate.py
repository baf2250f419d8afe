# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the comparison of generated with real micrographs."""
from pathlib import Path

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["EvaluateSettings"]


class EvaluateSettings(RunSettings):
    """Measure how far generated micrographs are from real ones."""

    generated: tuple[str, ...] = option(
        ..., "Generated micrographs", "Files or quoted patterns such as 'gen/micrographs/*.mrc'.", form=False,
        min_length=1)
    real: tuple[str, ...] = option(
        ..., "Real micrographs", "Files or quoted patterns; best are micrographs that nothing was trained on.",
        form=False, min_length=1)
    generated_pixel_size: float | None = option(
        None, "Pixel size of the generated micrographs (Å)", "Only where their headers are wrong or empty.",
        form=False, gt=0)
    real_pixel_size: float | None = option(
        None, "Pixel size of the real micrographs (Å)", "Only where their headers are wrong or empty.",
        form=False, gt=0)
    features: Path | None = option(
        None, "Feature network", "File of the network whose features the Fréchet distance compares: a Topaz detector "
        "(.sav), or the weights of Inception v3 (.pth or .safetensors, as torchvision or pytorch-fid write them). "
        "Empty takes fixed random filters. Distances of different networks cannot be compared.",
        section="Data")
    feature_pixel_size: float = option(
        8.0, "Pixel size for the features (Å)", "Pixels are averaged until they are about this large before a network "
        "sees them; Topaz's general detectors were made for about 8. Smaller sees finer detail, and takes longer.",
        section="Data", advanced=True, gt=0)
    limit: int = option(
        200, "Micrographs compared", "At most so many of each set, evenly chosen. More is more certain and takes "
        "longer; 20 to 200 are enough.", section="Data", ge=1, le=10_000_000)
