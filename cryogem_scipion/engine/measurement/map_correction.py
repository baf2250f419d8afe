# SPDX-License-Identifier: GPL-3.0-or-later
"""What the particles show beyond the map: a correction, from reconstructions of real and generated particles.

A rough map, a masked one, or one of a similar specimen differs from the particles in the micrographs, and generated
particles then differ from real ones. So the particles that the search finds are aligned with the map's projections and
reconstructed, in real and in generated micrographs alike. What alignment, noise and optics do to a reconstruction is
the same in both. What is left of their difference, beyond what generated sets differ by among themselves, is the map's.
"""
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from torch import Tensor

from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.measurement.particle_search import CLEAREST, FieldSearch, ParticleSearcher, Trial
from cryogem_scipion.engine.measurement.reconstruction import FieldPeaks, SpectrumGrid, reconstruction, symmetric
from cryogem_scipion.engine.measurement.synthesis import BANDS, Assumption, single_variance
from cryogem_scipion.engine.noise.spectrum import TILE
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import Projector, prepare_projector, project
from cryogem_scipion.engine.simulation.specimen import seeded_generator
from cryogem_scipion.engine.simulation.symmetry import symmetry_operators
from cryogem_scipion.engine.simulation.volume import Volume

__all__ = ["map_correction", "variance_change"]

MOST_PARTICLES = 800
"""Particles of a set that are reconstructed."""
WIDTH = 3.0
"""Edge of the reconstructions' box, diameters."""
HIGHEST = 7.0
"""Highest frequency that is reconstructed, in units of 1 / diameter. Most maps are known up to it, and beyond it
alignment is too coarse."""
LEAST_CORRELATION = 0.6
"""Correlation of generated particles' reconstruction with their map, up to the frequency where it falls below this."""
VARIANCE_PARTICLES = 32
"""Particles of each field whose variance is compared."""
CERTAIN_ERRORS = 2.0
"""Standard errors by which the power of a difference has to exceed that of noise."""
NEIGHBOURS = 5
"""Shells over which quantities that are uncertain in one shell are averaged."""
STEPS = 4096
"""Values of the correction between 0 and its largest one: rounding makes it the same on all processors."""
LEAST_CHANGE = 0.05
"""Smallest relative change of the map (root mean square, within the corrected frequencies) that is applied."""

Array = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


def map_correction(searcher: ParticleSearcher, real_searches: Sequence[FieldSearch], trials: Sequence[Trial],
                   assumed: Assumption, highest: float, volume: Volume, symmetry: str = "C1"
                   ) -> Float[Tensor, "z y x"] | None:
    """Return a density to be added to the map; None if the particles show no difference from it.

    Parameters
    ----------
    real_searches
        Of the real fields.
    trials
        Two or more sets of generated fields.
    assumed
        What the trials were generated with.
    highest
        Peaks with this score or more are no particles.
    volume
        The map that the searcher uses.
    symmetry
        Point group of the map.

    References
    ----------
    The weight of each shell is that of a Wiener filter: the part of the power that is not noise.
    """
    grid = SpectrumGrid(WIDTH * searcher.diameter, math.ceil(WIDTH * HIGHEST))
    part = min(1.0, MOST_PARTICLES / max(CLEAREST * sum(assumed.counts), 1.0))
    numbers = [round(part * CLEAREST * count * field.searched) for count, field in zip(
        assumed.counts, searcher.fields, strict=True)]

    def reconstructed(images: Sequence[Float[Tensor, "_ _"]], searches: Sequence[FieldSearch]) -> ComplexArray:
        peaks = [search.by_all.part(search.by_all.scores < highest).part(slice(0, number))
                 for search, number in zip(searches, numbers, strict=True)]
        return reconstruction(searcher.projector, searcher.diameter,
                              list(map(FieldPeaks, searcher.fields, images, peaks)), grid)

    real = reconstructed([field.image for field in searcher.fields], real_searches)
    generated = [reconstructed([field.image for field in trial.fields], trial.searches) for trial in trials]
    operators = symmetry_operators(symmetry).numpy()
    if len(operators) > 1:
        real, *generated = (symmetric(spectrum, operators, grid) for spectrum in (real, *generated))
    return _difference(real, generated, grid, volume, searcher.diameter, len(operators))


def variance_change(searcher: ParticleSearcher, volume: Volume, correction: Float[Tensor, "z y x"],
                    assumed: Assumption) -> float:
    """Return the variance of particles of the corrected map inside their masks over that of the given map.

    The amplitude in front of the projections is the same; masks and density differ.

    Parameters
    ----------
    volume
        The given map, which the searcher uses.
    correction
        What ``map_correction`` returns.
    assumed
        Gives the amplitude.
    """
    corrected = prepare_projector(replace(volume, density=volume.density + correction))
    rotations = uniform_rotations(VARIANCE_PARTICLES, seeded_generator("map correction", "variance"))
    curve = np.interp(np.arange(TILE) / TILE, (np.arange(BANDS) + 0.5) / BANDS / 2, assumed.amplitude)

    def variance(projector: Projector) -> float:
        images = {pixel_size: project(projector, rotations, torch.zeros(len(rotations), 2),
                                      2 * (int(projector.radius_angstrom / pixel_size) + 2), pixel_size)
                  for pixel_size in dict.fromkeys(field.pixel_size for field in searcher.fields)}
        return sum(parallel_map(lambda field: single_variance(images[field.pixel_size], field, curve),
                                searcher.fields))

    return variance(corrected) / max(variance(searcher.projector), 1e-30)


def _difference(real: ComplexArray, generated: Sequence[ComplexArray], grid: SpectrumGrid, volume: Volume,
                diameter: float, operators: int = 1) -> Float[Tensor, "z y x"] | None:
    """The map's correction from reconstructions of real and generated particles."""
    waves, apodisation = grid.waves(volume), grid.apodisation(volume)
    given = _transformed(waves * apodisation, volume.density.numpy())
    shells = grid.shells

    def shell_sums(values: NDArray[Any]) -> Array:
        sums: Array = np.bincount(shells.ravel(), values.ravel())[:grid.half + 1].astype(np.float64)
        return sums

    mean = np.mean(generated, axis=0)
    power = shell_sums(np.abs(given) ** 2)
    # Shells in which the map has little power borrow the transfer of their neighbours.
    product, own_power, near_power = (uniform_filter1d(shell_sums(values), NEIGHBOURS) for values in (
        (mean * given.conj()).real, np.abs(mean) ** 2, np.abs(given) ** 2))
    transfer = product / np.maximum(near_power, 1e-30)
    correlation = product / np.sqrt(np.maximum(own_power * near_power, 1e-30))
    lowest = math.ceil(WIDTH)  # 1 / diameter: ice varies more slowly
    clear = (correlation > LEAST_CORRELATION) & (transfer > 0)
    clear[:lowest] = True
    last = int(np.flatnonzero(np.append(~clear, True))[0])
    if last <= lowest + 1:
        return None
    used = slice(lowest, last)
    # The map has no noise, so noise does not lower the contrast.
    contrast = (shell_sums((real * given.conj()).real) * transfer)[used].sum() / (
        shell_sums((mean * given.conj()).real) * transfer)[used].sum()
    if not contrast > 0:
        return None
    # Of one set: a mean of several has less.
    deviations = [(one - mean) * math.sqrt(len(generated) / (len(generated) - 1)) for one in generated]
    difference = _without_noise(real / contrast - mean, deviations, contrast**-2 + 1 / len(generated), shells,
                                operators)
    outside = (shells < used.start) | (shells >= used.stop)
    gain = np.ones(shells.max() + 1)
    gain[used] = transfer[used]
    change = np.where(outside, 0, difference / gain[shells])
    if shell_sums(np.abs(change) ** 2)[used].sum() < LEAST_CHANGE**2 * power[used].sum():
        return None
    added = _density(waves.conj() / apodisation * (volume.pixel_size / grid.length), change) * _around(volume, diameter)
    step = float(np.abs(added).max()) / STEPS
    return torch.from_numpy((np.rint(added / step) * step).astype(np.float32))


def _transformed(waves: ComplexArray, density: NDArray[np.float32]) -> ComplexArray:
    """Spectrum of a map on the grid, one plane after another, because maps are large."""
    planes = np.stack([np.einsum("by,cx,yx->bc", waves, waves, plane, optimize=True) for plane in density])
    spectrum: ComplexArray = np.einsum("az,zbc->abc", waves, planes, optimize=True)
    return spectrum


def _density(waves: ComplexArray, spectrum: ComplexArray) -> Array:
    """Map of a spectrum on the grid, one plane after another."""
    columns = np.einsum("az,abc->zbc", waves, spectrum, optimize=True)
    density: Array = np.stack([np.einsum("by,cx,bc->yx", waves, waves, plane, optimize=True).real for plane in columns])
    return density


def _without_noise(difference: ComplexArray, deviations: Sequence[ComplexArray], factor: float,
                   shells: NDArray[np.int64], operators: int) -> ComplexArray:
    """The part of a difference that is not noise: in each shell, that of its spherical mean, and that of the rest.

    A mean over a shell has little noise, so that the density's distance from the centre is known best.

    Parameters
    ----------
    deviations
        Differences of the same kind that are noise.
    factor
        By what the variance of the noise in ``difference`` exceeds theirs.
    operators
        Number of symmetric copies of each value.
    """
    counts = np.bincount(shells.ravel())

    def spherical(values: ComplexArray) -> Array:
        means: Array = np.bincount(shells.ravel(), values.real.ravel()) / counts
        return means

    def rest(values: ComplexArray) -> Array:
        left = np.abs(values - spherical(values)[shells]).ravel() ** 2
        squares: Array = np.bincount(shells.ravel(), left).astype(np.float64)
        return squares

    mean = spherical(difference)
    # Few sets give few means in each shell, so neighbours help.
    chance = uniform_filter1d(np.mean([spherical(one) ** 2 for one in deviations], axis=0), NEIGHBOURS) * factor
    # Values nearer than 1 / WIDTH of a diameter's frequency, opposite and symmetric ones are not independent.
    freedom = np.maximum(counts / (2 * WIDTH**3 * operators), 1)
    noise = np.mean([rest(one) for one in deviations], axis=0) * factor
    # By how much the power of noise exceeds its mean by chance: with one value in a shell, and with all the others.
    highest = chance * (1 + CERTAIN_ERRORS * math.sqrt(2)), noise * (1 + CERTAIN_ERRORS * np.sqrt(2 / freedom))
    spherical_part = mean * np.clip(1 - highest[0] / np.maximum(mean**2, 1e-30), 0, 1)
    weight = np.clip(1 - highest[1] / np.maximum(rest(difference), 1e-30), 0, 1)
    kept: ComplexArray = spherical_part[shells] + weight[shells] * (difference - mean[shells])
    return kept


def _around(volume: Volume, diameter: float) -> Array:
    """1 within the particle's diameter, and 0 from a tenth of it beyond."""
    place = (np.arange(volume.density.shape[0]) - volume.density.shape[0] // 2) * volume.pixel_size
    radius = np.sqrt(place[:, None, None] ** 2 + place[:, None] ** 2 + place**2)
    beyond = np.clip((radius - diameter / 2) / (0.1 * diameter), 0, 1)
    window: Array = 0.5 + 0.5 * np.cos(math.pi * beyond)
    return window
