# SPDX-License-Identifier: GPL-3.0-or-later
"""How the noise of single micrographs differs from that of their set.

Thickness of the ice, dose and motion differ between micrographs, and so does the shape of their power spectrum. A set
whose micrographs all have the same spectrum is told from a real one by that alone.
"""
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.noise.spectrum import smoothed_power, tile_periodograms
from cryogem_scipion.engine.noise.thon_rings import ThonRings, without_thon_rings

__all__ = ["relative_powers"]

LARGEST_FACTOR = 10.0
"""Largest factor between the power of a micrograph and that of the set."""
SMOOTHED_TILES = 24.0
"""Smoothing width in frequency bins, times the square root of the number of tiles. With it, chance changes a factor by
about 4 %."""


def relative_powers(flats: Sequence[Float[Tensor, "_ _"]], rings: ThonRings | None
                    ) -> tuple[Float[Tensor, "n half"], ...]:
    """Return the smooth ratio of each micrograph's power spectrum to the geometric mean of all.

    Particles are part of the spectra, so the ratio belongs to particles and noise alike.

    Parameters
    ----------
    flats
        Real micrographs without ice and outliers, each in units of its own noise.
    rings
        Their Thon rings, which are taken out before; None if they have none.
    """
    def power(index: int) -> tuple[Float[Tensor, "n half"], int]:
        tiles = tile_periodograms(flats[index])
        if rings is not None:
            tiles = without_thon_rings(tiles, rings.modulated_share, rings.exposures[index])
        # Periodograms of noise are exponentially distributed: their median is ln 2 times their mean.
        return (tiles.median(0).values / math.log(2)).clamp(min=1e-12), len(tiles)

    powers = parallel_map(power, range(len(flats)))
    mean = torch.stack([values.double().log() for values, _ in powers]).mean(0).exp().float()

    def ratio(measured: tuple[Float[Tensor, "n half"], int]) -> Float[Tensor, "n half"]:
        values, tiles = measured
        limited = (values / mean).clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)
        return smoothed_power(limited, max(1.0, SMOOTHED_TILES / tiles**0.5))

    return tuple(parallel_map(ratio, powers))
