# SPDX-License-Identifier: GPL-3.0-or-later
"""Data of the training figures: example crops and power spectra of physical, generated and real images."""
import hashlib
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.noise.spectrum import TILE, tile_periodograms
from cryogem_scipion.engine.translator.crops import (
    RealImages,
    SimulatedImages,
    draw_real_crops,
    draw_simulated_crops,
)
from cryogem_scipion.engine.translator.model import Translator
from cryogem_scipion.engine.translator.tiling import translate_in_tiles

__all__ = ["training_figure_data"]

CROPS, MAX_EDGE = 4, 512
"""Number of crops of each kind for the spectra, and their largest edge (px)."""


def training_figure_data(model: Translator, real: RealImages, simulated: SimulatedImages,
                         seed: int) -> dict[str, NDArray[Any]]:
    """Example crop of each kind, in standard deviations of the noise, and the power spectra of several crops.

    Parameters
    ----------
    seed
        Seed of the crops and the noise.

    Returns
    -------
    ``image_physical``, ``image_generated``, ``image_real``: (y, x), float16; the first two show the same specimen.
    ``power_physical``, ``power_generated``, ``power_real``: (crop, frequency), rotational averages; 1 for white noise
    of variance 1. ``frequency``: 1/Å. ``pixel_size``: Å.
    """
    generator = torch.Generator().manual_seed(_derived_seed(seed))
    edge = min(MAX_EDGE, *(min(image.shape) for image in [*real.images, *simulated.clean])) // 2 * 2
    real_crops = draw_real_crops(real, edge, CROPS, generator)
    simulated_crops = draw_simulated_crops(simulated, edge, CROPS, generator)
    physical = model.physical.batch(simulated_crops.clean, simulated_crops.exposures, generator)
    generated = torch.stack([translate_in_tiles(model.network, image, generator) for image in physical])
    crops_by_kind = {"physical": physical, "generated": generated, "real": real_crops}
    tile = min(TILE, edge)
    data: dict[str, NDArray[Any]] = {
        "frequency": np.arange(tile // 2 + 1) / (tile * model.pixel_size), "pixel_size": np.array(model.pixel_size)}
    for kind, crops in crops_by_kind.items():
        data[f"image_{kind}"] = crops[0].numpy().astype(np.float16)
        data[f"power_{kind}"] = np.stack([_rotational_average(crop, tile) for crop in crops])
    return data


def _rotational_average(crop: Float[Tensor, "y x"], tile: int) -> NDArray[np.float64]:
    """Rotational average of the power spectrum of a crop, from frequency 0 to Nyquist."""
    power = tile_periodograms(crop, tile).mean(0).double().numpy()
    radius = np.hypot(np.fft.fftfreq(tile, 1 / tile)[:, None], np.arange(tile // 2 + 1)).round().astype(int)
    count = np.bincount(radius.ravel())
    average: NDArray[np.float64] = np.bincount(radius.ravel(), power.ravel())[:tile // 2 + 1] / count[:tile // 2 + 1]
    return average


def _derived_seed(seed: int) -> int:
    digest = hashlib.sha256(repr((seed, "comparison")).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
