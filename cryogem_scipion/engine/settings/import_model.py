# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``cryogem import-model``."""
from pathlib import Path

from cryogem_scipion.engine.settings.base import RunSettings, option

__all__ = ["ImportModelSettings"]


class ImportModelSettings(RunSettings):
    """Make a noise model from a checkpoint of the published CryoGEM program."""

    generator: Path = option(
        ..., "Generator file", "Checkpoint of the published program, such as latest_net_G.pth. Only its tensors are "
        "read; no code in the file is run.", section="Checkpoint")
    features: Path | None = option(
        None, "Features file", "The file latest_net_F.pth beside the generator file. It is checked and kept with the "
        "model. Generation does not need it.", section="Checkpoint")
    pixel_size: float = option(
        ..., "Pixel size (Å)", "Pixel size of the micrographs that the model was trained on. Simulate at the same "
        "pixel size. It is 5.36 for the published ribosome; 4 to 6 is usual.", section="Checkpoint", gt=0)
    snr: float = option(
        0.1, "Signal-to-noise ratio", "Signal-to-noise ratio of the images that the model was trained on. A higher "
        "value makes particles clearer; the published program uses 0.1.", section="Checkpoint", advanced=True, gt=0,
        le=100)
