# SPDX-License-Identifier: GPL-3.0-or-later
"""Two-sample test: it finds each planted difference between two sets, and none between two halves of one set."""
import math

import pytest
import torch

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.spectrum import TILE, ColouredNoise, white_noise
from cryogem_scipion.engine.realism.micrograph_sets import open_set
from cryogem_scipion.engine.realism.two_sample.scales import chosen_scales
from cryogem_scipion.engine.realism.two_sample.two_sample_test import Training, two_sample_test
from cryogem_scipion.engine.simulation.optics import Optics

PIXEL_SIZE, DIAMETER = 6.0, 120.0
AMPLITUDE = 1.0
"""Height of a particle in standard deviations of the noise."""
DENSITY = 6e-4
"""Particles in a pixel."""


def micrograph(generator, edge=256, amplitude=1.0, particles=1, ghosts=0.0, half_nyquist=1.0, white=False, rings=True,
               lattice=0.0, border=0.0):
    """Particles with random places and strengths in noise with a falling spectrum and Thon rings."""
    points = torch.zeros(edge, edge)
    count = particles * (round(DENSITY * edge**2) + int(torch.randint(-4, 5, (), generator=generator)))
    places = torch.randint(edge, (count, 2), generator=generator)
    heights = AMPLITUDE * amplitude * (1 + 0.1 * torch.randn(count, generator=generator))
    points.index_put_((places[:, 0], places[:, 1]), heights, accumulate=True)
    radius2 = fourier.fftfreq(edge)[:, None] ** 2 + fourier.rfftfreq(edge) ** 2
    # A wide and a narrow Gaussian, so that particles have fine details.
    blobs = [height * 2 * math.pi * width**2 * torch.exp(-2 * (math.pi * width) ** 2 * radius2)
             for height, width in ((1.0, 4.0), (3.0, 1.0))]
    transfer = (blobs[0] + blobs[1]) * half_nyquist ** (radius2 / 0.25**2)
    signal = fourier.irfft2(fourier.rfft2(points) * transfer, (edge, edge))
    signal = signal + ghosts * signal.roll(10, 1)
    falling = 0.25 + torch.exp(-torch.hypot(fourier.fftfreq(TILE)[:, None], fourier.rfftfreq(TILE)) / 0.2)
    share = torch.full((TILE // 2 + 1,), 0.5) if rings else None
    noise = white_noise() if white else ColouredNoise(falling / ColouredNoise(falling).variance, modulated_share=share)
    defocus = 15000 + 5000 * float(torch.rand((), generator=generator))
    exposure = Exposure(Optics(300.0, 2.7, 0.1, defocus, defocus, 0.0), PIXEL_SIZE)
    image = noise.draw((edge, edge), generator, exposure) - signal
    image[::8, ::8] += lattice
    image[16:-16, 16:-16] -= border
    return image


def write_set(folder, count, generator, **changes):
    folder.mkdir()
    for number in range(count):
        write_mrc(folder / f"mic_{number:02d}.mrc", micrograph(generator, **changes).numpy(), PIXEL_SIZE)
    return open_set("real", sorted(folder.glob("*.mrc")), None)


@pytest.fixture
def chosen(monkeypatch):
    """Save time: only these scales, without the floor."""
    def choose(*names):
        monkeypatch.setattr(
            "cryogem_scipion.engine.realism.two_sample.two_sample_test.chosen_scales",
            lambda *values: tuple(scale for scale in chosen_scales(*values) if scale.name in names))
    return choose


def compare(first, second, generator, steps=100):
    training = Training(steps, torch.device("cpu"), "float32", 1, with_floor=False)
    return two_sample_test([first, second], DIAMETER, training, 1, generator)


PLANTED = {
    "weaker particles (SNR 20 % lower)": {"amplitude": math.sqrt(0.8)},
    "envelope 20 % lower at half Nyquist": {"half_nyquist": 0.8},
    "white noise": {"white": True},
    "no Thon rings": {"rings": False},
    "twice as many particles": {"particles": 2},
    "each particle twice": {"ghosts": 0.5},
    # All nodes of the lattice have the power of the noise's mean in the spectrum of a tile of 64 pixels.
    "lattice of 3 dB": {"lattice": 1.0},
    "shifted border": {"border": 0.3}}
WEAK = ("envelope 20 % lower at half Nyquist",)
"""Differences that need larger micrographs."""
QUICK = ("white noise", "no Thon rings", "twice as many particles")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
                                  for name in PLANTED])
def test_a_planted_difference_is_found_in_frequency_bands(name, generator, tmp_path, chosen):
    chosen("bands")
    count = 8 if name in QUICK else 24
    edge = 384 if name in WEAK else 256
    real = write_set(tmp_path / "real", count, generator, edge=edge)
    generated = write_set(tmp_path / "generated", count, generator, edge=edge, **PLANTED[name])
    (result,) = compare(generated, real, generator)
    # Below the limit for one of five scales.
    assert result.between.p <= 0.01
    assert result.told_apart
    assert result.between.auc > result.between.chance_high


def test_two_halves_of_one_set_are_not_told_apart(generator, tmp_path, chosen):
    chosen("bands")
    halves = [write_set(tmp_path / name, 8, generator) for name in ("even", "odd")]
    assert not any(result.told_apart for result in compare(*halves, generator))
