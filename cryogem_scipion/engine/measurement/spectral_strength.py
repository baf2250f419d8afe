# SPDX-License-Identifier: GPL-3.0-or-later
"""Strength of the particles as the mean power spectrum of all fields tells it, against generated fields."""
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cryogem_scipion.engine.measurement.search_field import SearchField
from cryogem_scipion.engine.measurement.synthesis import SyntheticField
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.rotational_power import RotationalPower, chance_error, seen_modulation
from cryogem_scipion.engine.noise.set_spectrum import DEFOCI, LEAST_MODULATION
from cryogem_scipion.engine.noise.spectral_ratio import SpectralRatio, fit_spectral_ratio, particle_frequencies
from cryogem_scipion.engine.noise.spectrum import TILE

__all__ = ["spectral_strength"]

MEDIAN_LOSS = 2.08
"""Factor on the variance of a power that is a median of periodograms and not their mean: 1 / ln² 2."""
FEWEST_FREQUENCIES = 8

Array = NDArray[np.float64]


def spectral_strength(fields: Sequence[SearchField], generated: Sequence[SyntheticField], diameter: float
                      ) -> SpectralRatio | None:
    """Return by what the particles' power in generated fields has to be multiplied to explain the real spectra.

    The defocus of the fields is used if it differs between them. If it is the same for all, no rings have told it, and
    others are tried, too.

    Parameters
    ----------
    fields
        Real fields.
    generated
        A generated field for each real one.
    diameter
        Of the particle, Å.

    Returns
    -------
    None if the spectra have too few frequencies at which particles can be told from noise.
    """
    pixel_size = float(np.mean([field.pixel_size for field in fields]))
    pixels = diameter / pixel_size
    frequency = np.arange(TILE // 2) / TILE
    used = particle_frequencies(frequency, pixels, pixel_size)
    if used.sum() < FEWEST_FREQUENCIES:
        return None
    # The fields have lost power to the high-pass filter of the search.
    passed = np.maximum(1 - np.exp(-(frequency * pixels / 0.8) ** 4), 0.1) ** 2
    area = sum(field.image.numel() * field.searched for field in fields)
    error = chance_error(TILE, area) * np.sqrt(MEDIAN_LOSS)
    real = RotationalPower(frequency, np.mean([field.radial[:TILE // 2] for field in fields], axis=0) / passed, error)
    particles = np.mean([field.particle_power[:TILE // 2] for field in generated], axis=0) / passed
    exposure = Exposure(fields[0].optics, pixel_size)
    defoci = [(field.optics.defocus_u_angstrom + field.optics.defocus_v_angstrom) / 2 for field in fields]
    seen = seen_modulation(exposure, defoci, TILE)
    structure = RotationalPower(frequency, particles / np.maximum(seen, LEAST_MODULATION), error)
    modulations = [seen]
    if max(defoci) - min(defoci) < 1:
        modulations += [seen_modulation(exposure, [defocus], TILE) for defocus in DEFOCI]
    return fit_spectral_ratio(real, structure, particles, modulations, used, pixel_size)
