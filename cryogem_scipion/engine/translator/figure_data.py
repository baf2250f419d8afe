# SPDX-License-Identifier: GPL-3.0-or-later
"""What a trained model makes beside what it was to imitate: images and spectra for people to look at."""
import hashlib
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.noise.spectrum import TILE, tile_periodograms
from cryogem_scipion.engine.translator.crops import (
    RealMicrographs,
    SimulatedMicrographs,
    draw_real_crops,
    draw_simulated_crops,
)
from cryogem_scipion.engine.translator.model import Translator
from cryogem_scipion.engine.translator.tiling import translate_in_tiles

__all__ = ["compared"]

FIELDS, EDGE = 4, 512
"""Fields of each kind that the spectra are taken of, and their largest edge (px)."""


def compared(model: Translator, real: RealMicrographs, simulated: SimulatedMicrographs, seed: int) -> dict[str, NDArray[Any]]:
    """Return one field of each kind (deviations of the noise) and the spectra of several.

    Returns
    -------
    ``image_physical``, ``image_generated``, ``image_real``: (y, x), float16; the first two are of the same specimen.
    ``power_physical``, ``power_generated``, ``power_real``: (field, frequency), rotational means; white noise of
    variance 1 has 1 everywhere. ``frequency``: 1/Å. ``pixel_size``: Å.
    """
    random = torch.Generator().manual_seed(_seed(seed))
    edge = min(EDGE, *(min(image.shape) for image in [*real.images, *simulated.clean])) // 2 * 2
    true = draw_real_crops(real, edge, FIELDS, random)
    pieces = draw_simulated_crops(simulated, edge, FIELDS, random)
    physical = model.physical.batch(pieces.clean, pieces.exposures, random)
    made = torch.stack([translate_in_tiles(model.network, image, random) for image in physical])
    kinds = {"physical": physical, "generated": made, "real": true}
    tile = min(TILE, edge)
    result: dict[str, NDArray[Any]] = {
        "frequency": np.arange(tile // 2 + 1) / (tile * model.pixel_size), "pixel_size": np.array(model.pixel_size)}
    for name, fields in kinds.items():
        result[f"image_{name}"] = fields[0].numpy().astype(np.float16)
        result[f"power_{name}"] = np.stack([_profile(field, tile) for field in fields])
    return result


def _profile(field: Float[Tensor, "y x"], tile: int) -> NDArray[np.float64]:
    """The rotational mean of a field's spectrum, from frequency 0 to Nyquist."""
    power = tile_periodograms(field, tile).mean(0).double().numpy()
    radius = np.hypot(np.fft.fftfreq(tile, 1 / tile)[:, None], np.arange(tile // 2 + 1)).round().astype(int)
    count = np.bincount(radius.ravel())
    profile: NDArray[np.float64] = np.bincount(radius.ravel(), power.ravel())[:tile // 2 + 1] / count[:tile // 2 + 1]
    return profile


def _seed(seed: int) -> int:
    digest = hashlib.sha256(repr((seed, "comparison")).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
