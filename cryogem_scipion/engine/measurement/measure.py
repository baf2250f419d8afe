# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures a set of micrographs with a map: optics, particles, signal-to-noise ratio, envelope, contrast sign."""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.parallel import map_in_order
from cryogem_scipion.engine.compute.resampling import fourier_crop, working_shape
from cryogem_scipion.engine.compute.threads import available_threads, one_thread
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.measurement.defocus import CtfFit, fit_ctfs, known_fit
from cryogem_scipion.engine.measurement.map_scale import map_scale
from cryogem_scipion.engine.measurement.particle_results import ParticleMeasurement
from cryogem_scipion.engine.measurement.particles import measure_particles
from cryogem_scipion.engine.measurement.results import Measurement, reliable_fits, summarised
from cryogem_scipion.engine.measurement.ring_model import at_defocus
from cryogem_scipion.engine.measurement.search_field import SearchField, frequencies, radial_power, search_field
from cryogem_scipion.engine.noise.spectrum import TILE
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.simulation.projection import prepare_projector
from cryogem_scipion.engine.simulation.volume import Volume, diameter_angstrom

__all__ = ["MeasuredSet", "map_power", "measure_micrographs"]

USUAL_DEFOCUS = 15_000.0
"""Å; taken for the search where no rings tell the defocus."""

CLEAN = 0.6
"""Part of a micrograph that is searched, below which the user is told: most of the number is then extrapolated."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MeasuredSet:
    """All results, with what a figure shows."""

    measurement: Measurement
    fits: list[CtfFit]
    particles: ParticleMeasurement
    fields: list[SearchField]
    """Of the searched micrographs, as the particles."""
    searched: tuple[int, ...]
    """Index of each searched micrograph."""


def measure_micrographs(images: Sequence[Callable[[], Float[Tensor, "_ _"]]], pixel_size: float, volume: Volume,
                        base: Optics, working_pixel_size: float, seed: int = 0,
                        known: Sequence[Optics] | None = None, symmetry: str = "C1") -> MeasuredSet:
    """Measure micrographs of particles whose map is known.

    Parameters
    ----------
    images
        Each returns one micrograph at its own pixel size; they are read twice and not kept.
    pixel_size
        Å per pixel of the micrographs.
    base
        Gives voltage, spherical aberration, amplitude contrast and phase shift.
    working_pixel_size
        At which the signal-to-noise ratio is wanted, Å.
    known
        Optics that another program has measured, one for each micrograph. None: they are fitted.
    symmetry
        Point group of the map.

    Raises
    ------
    DataError
        No micrograph, or one that cannot be measured.
    """
    if not images:
        raise DataError("there are 0 micrographs to measure; give at least one")
    if known is not None and len(known) != len(images):
        raise DataError(f"{len(known)} CTFs are given for {len(images)} micrographs; give one for each")
    with one_thread():  # sums in this thread do not depend on how many there are
        return _measured(images, pixel_size, volume, base, working_pixel_size, seed, known, symmetry)


def _measured(images: Sequence[Callable[[], Float[Tensor, "_ _"]]], pixel_size: float, volume: Volume, base: Optics,
              working_pixel_size: float, seed: int, known: Sequence[Optics] | None,
              symmetry: str) -> MeasuredSet:
    diameter = diameter_angstrom(volume)
    if known is not None:
        fits = [known_fit(optics) for optics in known]
    else:
        reading = track_progress((read() for read in images), len(images), "reading the Thon rings of micrograph")
        fits = fit_ctfs(reading, pixel_size, base, map_power(volume))
    optics, searched = _usable(fits, base)

    def prepared(number: int) -> tuple[SearchField, float]:
        image = images[number]()
        try:
            return (search_field(image, pixel_size, diameter, optics[number]),
                    _variance(image, pixel_size, working_pixel_size, diameter))
        except DataError as error:
            raise DataError(f"micrograph {number + 1} of {len(images)}: {error}") from None

    results = map_in_order(prepared, searched, available_threads())
    prepared_fields = list(track_progress(results, len(searched), "preparing micrograph"))
    fields = [field for field, _ in prepared_fields]
    particles = measure_particles(fields, prepare_projector(volume), diameter, seed, volume, symmetry)
    if particles.advantage_of_dark < -3:
        fields = [replace(field, image=-field.image) for field in fields]
        particles = replace(measure_particles(fields, prepare_projector(volume), diameter, seed, volume, symmetry),
                            advantage_of_dark=particles.advantage_of_dark)
    scale = map_scale(fields, volume, diameter)
    if scale.clear:
        particles = replace(particles, detected=True, problem=scale.problem(volume.pixel_size))
    areas = [field.shape[0] * field.shape[1] * field.pixel_size**2 for field in fields]
    variances = [variance for _, variance in prepared_fields]
    measurement = summarised(fits, particles, areas, variances, working_pixel_size, diameter)
    contaminated = sum(field.searched < CLEAN for field in fields)
    if contaminated:
        measurement = replace(measurement, warnings=(*measurement.warnings, _contamination(contaminated, len(fields))))
    return MeasuredSet(measurement, fits, particles, fields, tuple(searched))


def _contamination(contaminated: int, micrographs: int) -> str:
    return (f"{contaminated} of {micrographs} micrographs are unusual (carbon, crystals, contaminants) over more than "
            f"{1 - CLEAN:.0%} of their area; there the number of particles is that of the rest of the field. Leave "
            "these micrographs out if the number matters")


def map_power(volume: Volume) -> tuple[Array, Array]:
    """Return frequencies (1/Å) and the rotational mean of the map's power there."""
    size = volume.density.shape[0]
    spectrum = fourier.rfft3(volume.density.float()).abs().square().double().numpy()
    y = np.fft.fftfreq(size)
    ring = np.sqrt(y[:, None, None] ** 2 + y[:, None] ** 2 + np.fft.rfftfreq(size) ** 2) * size
    numbers = np.rint(ring).astype(int).ravel()
    power = np.bincount(numbers, spectrum.ravel()) / np.bincount(numbers)
    frequency = np.arange(len(power)) / (size * volume.pixel_size)
    inside = frequency <= 0.5 / volume.pixel_size
    return frequency[inside], power[inside]


def _usable(fits: Sequence[CtfFit], base: Optics) -> tuple[list[Optics], list[int]]:
    """The optics for the search, and the indices of the micrographs that are searched.

    Without a reliable defocus, particles are missed. So if the set has enough reliable fits, only these micrographs are
    searched. If it has not, all are searched, at the usual defocus.
    """
    reliable = reliable_fits(fits)
    if not reliable:
        return [at_defocus(base, USUAL_DEFOCUS)] * len(fits), list(range(len(fits)))
    return [fit.optics for fit in fits], [index for index, fit in enumerate(fits) if fit in reliable]


def _variance(image: Float[Tensor, "y x"], pixel_size: float, working_pixel_size: float, diameter: float) -> float:
    """Variance of a micrograph at the working pixel size without what varies more slowly than a particle."""
    target = working_shape((image.shape[0], image.shape[1]), pixel_size, working_pixel_size)
    working = fourier_crop(image.to(torch.float32)[:target.crop[0], :target.crop[1]], target.shape)
    radial = radial_power(working)
    lowest = min(math.ceil(TILE * target.pixel_size / (0.8 * diameter)), len(radial) - 1)
    radial[:lowest] = radial[lowest]
    weight = np.full(TILE // 2 + 1, 2.0)
    weight[0] = weight[-1] = 1
    values = np.interp(frequencies((TILE, TILE)) * TILE, np.arange(len(radial)), radial)
    return float((values * weight).sum() / TILE**2)
