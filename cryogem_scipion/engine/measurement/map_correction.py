# SPDX-License-Identifier: GPL-3.0-or-later
"""What the particles show beyond the map: a correction, from reconstructions of real and generated particles.

A rough map, a masked one, or one of a similar specimen differs from the particles in the micrographs, and generated
particles then differ from real ones. So the particles that the search finds are aligned with the map's projections and
reconstructed, in real and in generated micrographs alike. What alignment, noise and optics do to a reconstruction is
the same in both. What is left of their difference, beyond what generated sets differ by among themselves, is the map's.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, uniform_filter1d
from torch import Tensor
from torch.nn import functional

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.measurement.matched_filter import Peaks
from cryogem_scipion.engine.measurement.particle_search import CLEAREST, FieldSearch, ParticleSearcher, Trial
from cryogem_scipion.engine.measurement.search_field import SearchField, high_pass, on_plane
from cryogem_scipion.engine.measurement.synthesis import BANDS, Assumption, single_variance
from cryogem_scipion.engine.noise.spectrum import TILE
from cryogem_scipion.engine.simulation.ctf import ctf
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import Projector, prepare_projector, project
from cryogem_scipion.engine.simulation.specimen import seeded_generator
from cryogem_scipion.engine.simulation.symmetry import symmetry_operators
from cryogem_scipion.engine.simulation.volume import Volume

__all__ = ["map_correction", "variance_change"]

ORIENTATIONS = 300
"""Projections with which each particle is aligned; of a particle without symmetry they are 31° apart."""
REACH = 3
"""Pixels of the search around a peak in which the particle is aligned."""
MOST_PARTICLES = 800
"""Particles of a set that are reconstructed."""
WIDTH = 3.0
"""Edge of the reconstructions' box, diameters."""
HIGHEST = 7.0
"""Highest frequency that is reconstructed, in units of 1 / diameter. Most maps are known up to it, and beyond it
alignment is too coarse."""
LEAST_CORRELATION = 0.6
"""Correlation of generated particles' reconstruction with their map, up to the frequency where it falls below this."""
REGULARISATION = 0.1
"""Part of the mean weight of the CTF that is added to it: frequencies that few particles show are not amplified."""
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


@dataclass(frozen=True)
class _Grid:
    """Frequencies of the reconstructions: a cube around zero, with steps of 1 / length."""

    length: float
    """Å; edge of the box."""
    half: int
    """Steps to the highest frequency."""

    @property
    def size(self) -> int:
        return 2 * self.half + 1

    @property
    def shells(self) -> NDArray[np.int64]:
        """Distance of each grid point from zero frequency, in whole steps."""
        step = np.arange(-self.half, self.half + 1)
        shells: NDArray[np.int64] = np.rint(np.sqrt(step[:, None, None] ** 2 + step[:, None] ** 2 + step**2)
                                            ).astype(np.int64)
        return shells

    def waves(self, volume: Volume) -> ComplexArray:
        """exp(−2πi k x) for each step along an axis of the grid and each voxel along one of the map (step, voxel)."""
        box = volume.density.shape[0]
        place = (np.arange(box) - box // 2) * volume.pixel_size
        waves: ComplexArray = np.exp(-2j * math.pi * np.outer(np.arange(-self.half, self.half + 1), place)
                                     / self.length)
        return waves

    def apodisation(self, volume: Volume) -> Array:
        """What linear interpolation between grid points multiplies a density with, along one axis (voxel)."""
        box = volume.density.shape[0]
        values = np.sinc((np.arange(box) - box // 2) * volume.pixel_size / self.length).astype(np.float64) ** 2
        return values


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
    grid = _Grid(WIDTH * searcher.diameter, math.ceil(WIDTH * HIGHEST))
    part = min(1.0, MOST_PARTICLES / max(CLEAREST * sum(assumed.counts), 1.0))
    numbers = [round(part * CLEAREST * count * field.searched) for count, field in zip(
        assumed.counts, searcher.fields, strict=True)]
    banks = {field.pixel_size: _templates(searcher, field.pixel_size) for field in searcher.fields}
    real, *generated = (_reconstruction(searcher, banks, [(field, image, search.by_all.part(
        search.by_all.scores < highest).part(slice(0, number))) for field, image, search, number in zip(
            searcher.fields, images, searches, numbers, strict=True)], grid)
        for images, searches in (([field.image for field in searcher.fields], real_searches),
                                 *(([field.image for field in trial.fields], trial.searches) for trial in trials)))
    operators = symmetry_operators(symmetry).numpy()
    if len(operators) > 1:
        real, *generated = (_symmetric(spectrum, operators, grid) for spectrum in (real, *generated))
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
        total = 0.0
        for field in searcher.fields:
            box = 2 * (int(projector.radius_angstrom / field.pixel_size) + 2)
            images = project(projector, rotations, torch.zeros(len(rotations), 2), box, field.pixel_size)
            total += single_variance(images, field, curve)
        return total

    return variance(corrected) / max(variance(searcher.projector), 1e-30)


def _difference(real: ComplexArray, generated: Sequence[ComplexArray], grid: _Grid, volume: Volume, diameter: float,
                operators: int = 1) -> Float[Tensor, "z y x"] | None:
    """The map's correction from reconstructions of real and generated particles."""
    waves, apodisation = grid.waves(volume), grid.apodisation(volume)
    density = volume.density.double().numpy()
    shown = density * apodisation[:, None, None] * apodisation[:, None] * apodisation
    given = np.einsum("az,by,cx,zyx->abc", waves, waves, waves, shown, optimize=True)
    shells = grid.shells

    def shell_sums(values: Array) -> Array:
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
    own = (shell_sums((real * given.conj()).real) * transfer)[used].sum() / (
        shell_sums((mean * given.conj()).real) * transfer)[used].sum()
    if not own > 0:
        return None
    # Of one set: a mean of several has less.
    deviations = [(one - mean) * math.sqrt(len(generated) / (len(generated) - 1)) for one in generated]
    kept = _without_noise(real / own - mean, deviations, own**-2 + 1 / len(generated), shells, operators)
    outside = (shells < used.start) | (shells >= used.stop)
    gain = np.ones(shells.max() + 1)
    gain[used] = transfer[used]
    change = np.where(outside, 0, kept / gain[shells])
    if shell_sums(np.abs(change) ** 2)[used].sum() < LEAST_CHANGE**2 * power[used].sum():
        return None
    added = np.einsum("az,by,cx,abc->zyx", waves.conj(), waves.conj(), waves.conj(), change, optimize=True).real
    added /= apodisation[:, None, None] * apodisation[:, None] * apodisation * (grid.length / volume.pixel_size) ** 3
    added *= _around(volume, diameter)
    step = np.abs(added).max() / STEPS
    return torch.from_numpy((np.rint(added / step) * step).astype(np.float32))


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


def _symmetric(values: ComplexArray, operators: Array, grid: _Grid) -> ComplexArray:
    """The mean of a spectrum over the operators (g, 3, 3) of a point group."""
    step = np.arange(-grid.half, grid.half + 1)
    z, y, x = (axis.ravel() for axis in np.meshgrid(step, step, step, indexing="ij"))
    total = np.zeros(values.size, complex)
    for operator in operators:
        place = (operator @ np.stack([x, y, z]))[::-1] + grid.half
        for part, unit in ((values.real, 1), (values.imag, 1j)):
            total += unit * map_coordinates(part, place, order=1)
    mean: ComplexArray = (total / len(operators)).reshape(values.shape).astype(np.complex128)
    return mean


def _around(volume: Volume, diameter: float) -> Array:
    """1 within the particle's diameter, and 0 from a tenth of it beyond."""
    place = (np.arange(volume.density.shape[0]) - volume.density.shape[0] // 2) * volume.pixel_size
    radius = np.sqrt(place[:, None, None] ** 2 + place[:, None] ** 2 + place**2)
    beyond = np.clip((radius - diameter / 2) / (0.1 * diameter), 0, 1)
    window: Array = 0.5 + 0.5 * np.cos(math.pi * beyond)
    return window


@dataclass(frozen=True)
class _Templates:
    """Projections of the map in a box around a particle, with their orientations."""

    rotations: Float[Tensor, "n 3 3"]
    spectra: Tensor
    box: int


def _templates(searcher: ParticleSearcher, pixel_size: float) -> _Templates:
    rotations = uniform_rotations(ORIENTATIONS, seeded_generator("map correction")).float()
    box = fourier.fast_length(2 * math.ceil(0.75 * searcher.diameter / pixel_size))
    box += box % 2
    images = project(searcher.projector, rotations, torch.zeros(ORIENTATIONS, 2), box, pixel_size)
    return _Templates(rotations, fourier.rfft2(images.roll((-(box // 2),) * 2, (1, 2))), box)


def _reconstruction(searcher: ParticleSearcher, banks: dict[float, _Templates],
                    fields: Sequence[tuple[SearchField, Float[Tensor, "y x"], Peaks]], grid: _Grid) -> ComplexArray:
    """Spectrum of the particles at the peaks of all fields, on the grid."""
    def of(one: tuple[SearchField, Float[Tensor, "y x"], Peaks]) -> tuple[ComplexArray, Array]:
        return _inserted(one[0], one[1], one[2], banks[one[0].pixel_size], searcher.diameter, grid)

    parts = parallel_map(of, fields)
    data, weights = (np.sum([part[number] for part in parts], axis=0) for number in (0, 1))
    inside = weights[grid.shells <= grid.half]
    spectrum: ComplexArray = data / (weights + REGULARISATION * inside.mean() + 1e-30)
    return spectrum


def _inserted(field: SearchField, image: Float[Tensor, "y x"], peaks: Peaks, bank: _Templates, diameter: float,
              grid: _Grid) -> tuple[ComplexArray, Array]:
    """Data and weights of one field's particles: their aligned spectra times the CTF, and the CTF squared."""
    box, shape = bank.box, (bank.box, bank.box)
    transfer = -ctf(shape, field.pixel_size, field.optics) * high_pass(shape, field.pixel_size, diameter)
    kernels = bank.spectra * (transfer / on_plane(field.radial, shape))
    norms = (kernels * bank.spectra.conj()).real * transfer
    kernels = kernels.conj() / norms.double().sum((1, 2)).clamp(min=1e-30).sqrt().float()[:, None, None]
    wide = functional.pad(image[None, None], (box,) * 4)[0, 0]
    frequency_y, frequency_x = fourier.fftfreq(box)[:, None], fourier.rfftfreq(box)[None]
    # Frequencies beyond the grid's are not used; those with x = 0 are there twice.
    used = torch.hypot(frequency_y, frequency_x) * grid.length / field.pixel_size < grid.half - 1
    k = torch.stack([frequency_x.expand(used.shape), frequency_y.expand(used.shape)], -1)[used].double()
    k *= grid.length / field.pixel_size
    h = transfer[used].double().numpy()
    places, values = [], []
    for y, x in peaks.centres.astype(int).tolist():
        top, left = y + box - box // 2, x + box - box // 2
        spectrum = fourier.rfft2(wide[top:top + box, left:left + box].roll((-(box // 2),) * 2, (0, 1)))
        orientation, shift_y, shift_x = _aligned(fourier.irfft2(spectrum * kernels, shape))
        turns = frequency_y * shift_y + frequency_x * shift_x
        centred = spectrum * torch.exp(2j * math.pi * turns)
        places.append((k @ bank.rotations[orientation, :2].double()).numpy())
        values.append(centred[used].to(torch.complex128).numpy() * h)
    size = grid.size
    data, weights = np.zeros(size**3, complex), np.zeros(size**3)
    if places:
        place, value = np.concatenate(places), np.concatenate(values)
        for sign in (1, -1):  # a real density has conjugate values at opposite frequencies
            _add(place * sign, value if sign > 0 else value.conj(), np.tile(h**2, len(places)), grid, data, weights)
    return data.reshape(size, size, size), weights.reshape(size, size, size)


def _aligned(scores: Float[Tensor, "n box box"]) -> tuple[int, int, int]:
    """Best template, and where it fits: pixels (y, x) from the centre."""
    near = scores.roll((REACH, REACH), (1, 2))[:, :2 * REACH + 1, :2 * REACH + 1]
    orientation, place = divmod(int(near.flatten().argmax()), (2 * REACH + 1) ** 2)
    row, column = divmod(place, 2 * REACH + 1)
    return orientation, row - REACH, column - REACH


def _add(place: Array, value: ComplexArray, weight: Array, grid: _Grid, data: ComplexArray, weights: Array) -> None:
    """Add values at places (x, y, z), in grid steps from zero frequency, to their eight neighbours."""
    below = np.floor(place)
    beyond = place - below
    start = below.astype(np.int64) + grid.half
    for corner in range(8):
        offset = np.array([corner & 1, corner >> 1 & 1, corner >> 2])
        x, y, z = (start + offset).T
        share = np.prod(np.where(offset, beyond, 1 - beyond), axis=1)
        index = (z * grid.size + y) * grid.size + x
        data += (np.bincount(index, share * value.real, len(data))
                 + 1j * np.bincount(index, share * value.imag, len(data)))
        weights += np.bincount(index, share * weight, len(data))
