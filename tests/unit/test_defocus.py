# SPDX-License-Identifier: GPL-3.0-or-later
"""Defocus of micrographs with few rings: the floor must not imitate them, and the error must say how far it can."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.measurement.defocus import fit_ctfs
from cryogem_scipion.engine.measurement.ring_model import _floor_degree
from cryogem_scipion.engine.measurement.search_field import frequencies
from cryogem_scipion.engine.simulation.ctf import ctf
from cryogem_scipion.engine.simulation.optics import Optics

BASE = Optics(300, 2.7, 0.1, 0, 0, 0)
PIXEL_SIZE = 5.0
"""Å; up to 0.47 of the sampling there are 2 to 3 rings of the defocus values below."""
DEFOCI = (12000, 12500, 14000, 17000)


def noisy(optics, generator, shape=(800, 800)):
    """Ice with rings on a floor that has a broad hump."""
    square = torch.from_numpy(frequencies(shape) / PIXEL_SIZE).float() ** 2
    floor = torch.exp(-60 * square) * (1 + 0.3 * torch.exp(-(((square.sqrt() - 0.06) / 0.02) ** 2)))
    rings = 0.6 * ctf(shape, PIXEL_SIZE, optics) * torch.exp(-100 * square)
    return sum(fourier.irfft2(fourier.rfft2(torch.randn(shape, generator=generator)) * curve, shape)
               for curve in (floor, rings))


def test_the_floor_does_not_imitate_few_rings(generator):
    images = [noisy(replace(BASE, defocus_u_angstrom=defocus + 150, defocus_v_angstrom=defocus - 150,
                            defocus_angle_degrees=40), generator) for defocus in DEFOCI]
    fits = fit_ctfs(images, PIXEL_SIZE, BASE)
    errors = np.array([fit.defocus_angstrom - defocus for fit, defocus in zip(fits, DEFOCI, strict=True)])
    # A floor of degree 5 finds other rings, 6000 Å away. One ring is 4000 to 6000 Å wide in defocus here.
    assert np.abs(errors).max() < 1000
    # The stated errors are estimates from few values, so a factor of 3; and 100 Å of the model itself.
    assert np.all(np.abs(errors) < 3 * np.array([fit.error_angstrom for fit in fits]) + 100)


@pytest.mark.parametrize(("highest", "degree"), [(0.47 / 5, 3), (0.47 / 3, 5), (1 / 3.2, 7)])
def test_the_floor_bends_less_than_half_as_often_as_the_rings(highest, degree):
    assert _floor_degree(BASE, highest) == degree
