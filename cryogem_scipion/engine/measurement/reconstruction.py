# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstruction of the particles that the search found: aligned with the map's projections, on a coarse grid."""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor
from torch.nn import functional

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.measurement.matched_filter import Peaks
from cryogem_scipion.engine.measurement.search_field import SearchField, high_pass, on_plane
from cryogem_scipion.engine.noise.spectrum import half_plane_weights
from cryogem_scipion.engine.simulation.ctf import ctf
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import Projector, project
from cryogem_scipion.engine.simulation.specimen import seeded_generator
from cryogem_scipion.engine.simulation.volume import Volume

__all__ = ["FieldPeaks", "SpectrumGrid", "reconstruction", "symmetric"]

ORIENTATIONS = 300
"""Projections with which each particle is aligned; of a particle without symmetry they are 31° apart."""
REACH = 3
"""Pixels of the search around a peak in which the particle is aligned."""
REGULARISATION = 0.1
"""Part of the mean weight of the CTF that is added to it: frequencies that few particles show are not amplified."""

Array = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

@dataclass(frozen=True)
class FieldPeaks:
    """The peaks of the particles in an image, which has the optics and the size of a field."""

    field: SearchField
    image: Float[Tensor, "y x"]
    peaks: Peaks


@dataclass(frozen=True)
class SpectrumGrid:
    """Frequencies of the reconstructions: a cube around zero, with steps of 1 / length."""

    length: float
    """Å; edge of the box."""
    half: int
    """Steps to the highest frequency."""

    @property
    def size(self) -> int:
        """Grid points along an edge."""
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


@dataclass(frozen=True)
class _Templates:
    """Projections of the map in a box around a particle, with their orientations."""

    rotations: Float[Tensor, "n 3 3"]
    spectra: Tensor
    """(n, box, half), with the centre of the projections at [0, 0]."""
    box: int
    """Edge, pixels; even."""


def reconstruction(projector: Projector, diameter: float, sets: Sequence[FieldPeaks], grid: SpectrumGrid
                   ) -> ComplexArray:
    """Return the spectrum of the particles at the peaks of all fields.

    Parameters
    ----------
    projector
        The map, with which the particles are aligned.
    diameter
        Of the particle, Å.
    sets
        Fields, images and peaks.
    grid
        Frequencies of the result.
    """
    banks = {pixel_size: _templates(projector, diameter, pixel_size)
             for pixel_size in dict.fromkeys(of_field.field.pixel_size for of_field in sets)}
    parts = parallel_map(lambda of_field: _inserted(of_field, banks[of_field.field.pixel_size], diameter, grid), sets)
    data, weights = (np.sum([part[number] for part in parts], axis=0) for number in (0, 1))
    inside = weights[grid.shells <= grid.half]
    spectrum: ComplexArray = data / (weights + REGULARISATION * inside.mean() + 1e-30)
    return spectrum


def _templates(projector: Projector, diameter: float, pixel_size: float) -> _Templates:
    rotations = uniform_rotations(ORIENTATIONS, seeded_generator("map correction")).float()
    box = fourier.fast_length(2 * math.ceil(0.75 * diameter / pixel_size))
    box += box % 2
    images = project(projector, rotations, torch.zeros(ORIENTATIONS, 2), box, pixel_size)
    return _Templates(rotations, fourier.rfft2(images.roll((-(box // 2),) * 2, (1, 2))), box)


def _inserted(of_field: FieldPeaks, bank: _Templates, diameter: float, grid: SpectrumGrid
              ) -> tuple[ComplexArray, Array]:
    """Data and weights of one field's particles: their aligned spectra times the CTF, and the CTF squared."""
    field, image, peaks = of_field.field, of_field.image, of_field.peaks
    box, shape = bank.box, (bank.box, bank.box)
    transfer = -ctf(shape, field.pixel_size, field.optics) * high_pass(shape, field.pixel_size, diameter)
    kernels = bank.spectra * (transfer / on_plane(field.radial, shape))
    norms = (kernels * bank.spectra.conj()).real * transfer * half_plane_weights(box)
    kernels = kernels.conj() / norms.double().sum((1, 2)).clamp(min=1e-30).sqrt().float()[:, None, None]
    wide = functional.pad(image[None, None], (box,) * 4)[0, 0]
    frequency_y, frequency_x = fourier.fftfreq(box)[:, None], fourier.rfftfreq(box)[None]
    # Frequencies beyond the grid's are not used. Those with x = 0 count twice, in data and weights alike.
    used = torch.hypot(frequency_y, frequency_x) * grid.length / field.pixel_size < grid.half - 1
    k = torch.stack([frequency_x.expand(used.shape), frequency_y.expand(used.shape)], -1)[used].double()
    k *= grid.length / field.pixel_size
    h = transfer[used].double().numpy()
    offsets = torch.arange(-REACH, REACH + 1)
    down = torch.exp(2j * math.pi * offsets[:, None] * frequency_y[:, 0])
    across = torch.exp(2j * math.pi * frequency_x[0, :, None] * offsets) * half_plane_weights(box)[:, None]
    places, values = [], []
    for y, x in peaks.centres.astype(int).tolist():
        top, left = y + box - box // 2, x + box - box // 2
        spectrum = fourier.rfft2(wide[top:top + box, left:left + box].roll((-(box // 2),) * 2, (0, 1)))
        orientation, shift_y, shift_x = _aligned((down @ (spectrum * kernels @ across)).real)
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


def _aligned(scores: Float[Tensor, "n near near"]) -> tuple[int, int, int]:
    """Best template, and where it fits: pixels (y, x) from the centre of the scores."""
    width = scores.shape[-1]
    orientation, place = divmod(int(scores.flatten().argmax()), width**2)
    row, column = divmod(place, width)
    return orientation, row - REACH, column - REACH


def _add(place: Array, value: ComplexArray, weight: Array, grid: SpectrumGrid, data: ComplexArray, weights: Array
         ) -> None:
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


def symmetric(values: ComplexArray, operators: Array, grid: SpectrumGrid) -> ComplexArray:
    """Return the mean of a spectrum over the operators of a point group.

    Parameters
    ----------
    values
        On the grid.
    operators
        Rotations of vectors (x, y, z), (g, 3, 3).
    grid
        Frequencies of the spectrum.
    """
    step = np.arange(-grid.half, grid.half + 1)
    z, y, x = (axis.ravel() for axis in np.meshgrid(step, step, step, indexing="ij"))
    total = np.zeros(values.size, complex)
    for operator in operators:
        place = (operator @ np.stack([x, y, z]))[::-1] + grid.half
        for part, unit in ((values.real, 1), (values.imag, 1j)):
            total += unit * map_coordinates(part, place, order=1)
    mean: ComplexArray = (total / len(operators)).reshape(values.shape).astype(np.complex128)
    return mean
