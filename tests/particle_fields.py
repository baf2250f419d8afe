# SPDX-License-Identifier: GPL-3.0-or-later
"""Fields of particles of known number, contrast and CTF, for the tests of the measurement."""
import math
from dataclasses import replace

import numpy as np
import torch

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.measurement.search_field import frequencies
from cryogem_scipion.engine.simulation.composition import compose
from cryogem_scipion.engine.simulation.ctf import ctf
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.simulation.placement import place_centres
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import prepare_projector, project
from cryogem_scipion.engine.simulation.volume import Volume

BASE = Optics(300, 2.7, 0.1, 0, 0, 0)
PIXEL_SIZE = 4.0
DEFOCI = (15000, 20000, 24000)


def state(u, v, angle):
    return replace(BASE, defocus_u_angstrom=u, defocus_v_angstrom=v, defocus_angle_degrees=angle)


KNOWN = [state(d, d, 0) for d in DEFOCI]


def ice(shape, pixel_size, optics, generator, strength=1.0):
    """White noise of which a part has the rings of the optics, falling with frequency."""
    falling = torch.from_numpy(np.exp(-40 * (frequencies(shape) / pixel_size) ** 2)).float()
    modulated = strength * ctf(shape, pixel_size, optics) * falling
    return torch.randn(shape, generator=generator) + fourier.irfft2(
        fourier.rfft2(torch.randn(shape, generator=generator)) * modulated, shape)


def hollow_particle():
    """A hollow particle with bumps, 150 Å wide."""
    z, y, x = np.mgrid[-24:24, -24:24, -24:24] * PIXEL_SIZE
    radius = np.sqrt(x**2 + y**2 + z**2)
    density = np.exp(-((radius - 52) / 14) ** 2) * (1 + 0.5 * np.sin(x / 12) * np.sin(y / 15) * np.cos(z / 10))
    return Volume(torch.from_numpy(density.astype(np.float32)), PIXEL_SIZE)


def particle_field(volume, optics, generator, count, snr, shape=(360, 360)):
    """(image, number of particles): particles dark in white noise of deviation 1."""
    projector = prepare_projector(volume)
    centres = place_centres(count, shape, 150 / PIXEL_SIZE, generator)
    images = project(projector, uniform_rotations(len(centres), generator), centres - centres.floor(), 52, PIXEL_SIZE)
    signal = fourier.irfft2(fourier.rfft2(compose(images, centres, shape)) * ctf(shape, PIXEL_SIZE, optics), shape)
    inside = compose((images > 0.1 * images.max()).float(), centres, shape) > 0
    signal = signal * (math.sqrt(snr) / float(signal[inside].std()))
    return torch.randn(shape, generator=generator) - signal, len(centres)


def three_fields(volume):
    """Three fields with particles, and the number of particles in all of them."""
    generator = torch.Generator().manual_seed(4)
    made = [particle_field(volume, optics, generator, 34, 0.1) for optics in KNOWN]
    return [image for image, _ in made], sum(count for _, count in made)
