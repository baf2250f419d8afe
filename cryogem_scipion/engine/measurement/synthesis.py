# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated fields of known truth, on which the search is tried: particles at an assumed density in measured noise."""
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.measurement.search_field import (
    SearchField,
    frequencies,
    high_pass,
    on_plane,
    radial_power,
)
from cryogem_scipion.engine.noise.spectrum import TILE
from cryogem_scipion.engine.simulation.composition import compose, projection_masks
from cryogem_scipion.engine.simulation.ctf import ctf, delocalisation_margin
from cryogem_scipion.engine.simulation.motion import Motion
from cryogem_scipion.engine.simulation.placement import place_centres
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import Projector, project
from cryogem_scipion.engine.simulation.specimen import seeded_generator

__all__ = ["BANDS", "LEAST_NOISE", "Assumption", "SyntheticField", "single_variance", "synthetic_field"]

BANDS = 24
"""Frequency bands, from 0 to Nyquist at the pixel size of the search, in which amplitudes are measured."""
LEAST_NOISE = 0.05
"""Smallest part of a micrograph's power that is taken for noise, at any frequency."""
SINGLE_PARTICLES = 32
"""Most particles of a field whose variance is measured."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Assumption:
    """What generated fields are made with, and what is corrected until they are like the real ones."""

    counts: tuple[float, ...]
    """Particles in each field."""
    distance: float
    """Smallest distance of particles, Å."""
    amplitude: Array
    """By what projections are multiplied in each of BANDS."""
    contrasts: tuple[float, ...] = ()
    """Contrast of the particles in each field over that of the set; empty: the same in all fields."""
    spread: float = 0.0
    """Relative standard deviation of the contrast between particles of a field."""
    clusters: float = 0.0
    """Probability that a particle is placed beside an earlier one."""
    motions: tuple[Motion, ...] = ()
    """Residual motion of each field, beyond that in the amplitude; empty: none."""

    def contrast(self, number: int) -> float:
        """Return the contrast of the particles in the field with a ``number``, over that of the set."""
        return self.contrasts[number] if self.contrasts else 1.0


@dataclass(frozen=True)
class SyntheticField:
    """A generated field that corresponds to a real one, and its truth."""

    image: Float[Tensor, "y x"]
    centres: Array
    """(particle, 2): (y, x) of those inside the field and outside excluded places."""
    particle_power: Array
    """Power of the particles alone, at multiples of 1/TILE cycles a pixel."""
    noise_power: Array
    signal_variance: float
    """Of single particles of the mean contrast, inside their masks: that of ``simulation.contrast``."""
    particle_variance: float
    """Of the particles, over the whole field."""


def synthetic_field(real: SearchField, projector: Projector, diameter: float, number: int, assumption: Assumption,
                    seed: tuple[object, ...]) -> SyntheticField:
    """Generate a field with the optics and the total power spectrum of a real one.

    Parameters
    ----------
    real
        Gives size, optics, power spectrum and excluded places.
    diameter
        Of the particle, Å.
    number
        Which field of the assumption it is. Its surroundings have as many particles for their area.
    seed
        What the field depends on.
    """
    draw = seeded_generator("measurement", *seed)
    margin = int(diameter / real.pixel_size)
    shape = (real.shape[0] + 2 * margin, real.shape[1] + 2 * margin)
    wanted = round(assumption.counts[number] * shape[0] * shape[1] / (real.shape[0] * real.shape[1]))
    placed = place_centres(wanted, shape, assumption.distance / real.pixel_size, draw,
                           clusters=assumption.clusters)
    box = 2 * (int(projector.radius_angstrom / real.pixel_size) + 2)
    images = project(projector, uniform_rotations(len(placed), draw), placed - placed.floor(), box, real.pixel_size)
    curve = assumption.contrast(number) * np.interp(np.arange(TILE) / TILE, (np.arange(BANDS) + 0.5) / BANDS / 2,
                                                    assumption.amplitude)
    optics = replace(real.optics, motion=assumption.motions[number]) if assumption.motions else real.optics
    transfer = -ctf(shape, real.pixel_size, optics) * high_pass(shape, real.pixel_size, diameter)
    transfer = transfer * on_plane(curve, shape)
    contrasts = _contrasts(len(placed), assumption.spread, draw)
    spectrum = fourier.rfft2(compose(images * contrasts[:, None, None], placed, shape)) * transfer
    signal = fourier.irfft2(spectrum, shape)[margin:-margin, margin:-margin].contiguous()
    power = radial_power(signal)
    noise_power = np.clip(real.radial - power, LEAST_NOISE * real.radial, real.radial)
    white = fourier.rfft2(torch.randn(real.shape, generator=draw))
    noise = fourier.irfft2(white * on_plane(np.sqrt(noise_power), real.shape), real.shape)
    centres = placed - margin
    size = torch.tensor(real.shape)
    inside = ((centres >= 0) & (centres < size - 1)).all(1)
    places = centres[inside].numpy()
    shown = ~real.excluded[tuple(np.rint(places).astype(int).T)]
    return SyntheticField((signal + noise) * real.window, places[shown], power, noise_power,
                          single_variance(images[:SINGLE_PARTICLES], real, curve), float(signal.var()))


def single_variance(images: Float[Tensor, "n b b"], real: SearchField, curve: Array) -> float:
    """Return the variance of particles that lie alone, inside their masks; 0 without particles.

    In a crowded field, the neighbours' fringes would add to it.

    Parameters
    ----------
    images
        Projections.
    real
        Field with their optics.
    curve
        Amplitude at multiples of 1/TILE cycles a pixel.
    """
    margin = delocalisation_margin(real.pixel_size, real.optics)
    edge = images.shape[-1] + 2 * margin
    transfer = -ctf((edge, edge), real.pixel_size, real.optics) * on_plane(curve, (edge, edge))
    wide = fourier.irfft2(fourier.rfft2(functional.pad(images, (margin,) * 4)) * transfer, (edge, edge))
    inside = wide[:, margin:-margin, margin:-margin][projection_masks(images)]
    return float(inside.var()) if len(inside) > 1 else 0.0


def _contrasts(count: int, spread: float, draw: torch.Generator) -> Float[Tensor, " n"]:
    """Contrasts with a mean of 1 and a relative deviation; log-normal, so that none is negative."""
    variance = math.log1p(spread**2)
    return torch.exp(math.sqrt(variance) * torch.randn(count, generator=draw) - variance / 2)


def band_numbers(shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return the band of each Fourier coefficient; BANDS for those beyond Nyquist."""
    return np.minimum((frequencies(shape) * 2 * BANDS).astype(int), BANDS).ravel()
