# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the import of a published noise model."""
from pathlib import Path

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["ImportModelSettings"]


class ImportModelSettings(RunSettings):
    """Make a noise model of a checkpoint that the published CryoGEM program wrote."""

    generator: Path = option(
        ..., "Generator file", "The *_net_G.pth of the published program, such as latest_net_G.pth. It is read as "
        "tensors only; nothing in it is run.", section="Checkpoint")
    features: Path | None = option(
        None, "Features file", "The *_net_F.pth beside it: checked and kept with the model. Generating needs none.",
        section="Checkpoint")
    pixel_size: float = option(
        ..., "Pixel size (Å)", "Of the micrographs that it was trained on; simulate at the same. 5.36 for the "
        "published ribosome, 4 to 6 usually.", section="Checkpoint", gt=0)
    snr: float = option(
        0.1, "Signal-to-noise ratio", "Of the images that it was trained to translate. Higher makes particles clearer; "
        "the published program has 0.1.", section="Checkpoint", advanced=True, gt=0, le=100)
