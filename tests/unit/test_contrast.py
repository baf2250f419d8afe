# SPDX-License-Identifier: GPL-3.0-or-later
"""The measured signal-to-noise ratio is the true one."""
import math

import pytest
import torch

from cryogem_scipion.engine.noise.signal_to_noise import fit_snr
from cryogem_scipion.engine.noise.spectrum import TILE, ColouredNoise

SHAPE, SIZE, COUNT = (384, 448), 32, 25


def fields(count, generator, particles=COUNT):
    """Signals of round textured particles at random places; their standard deviation inside particles is 1."""
    axis = torch.arange(SIZE) - SIZE / 2 + 0.5
    inside = axis[:, None] ** 2 + axis[None] ** 2 < (SIZE / 2) ** 2
    smooth = torch.exp(-torch.hypot(torch.fft.fftfreq(SIZE)[:, None], torch.fft.rfftfreq(SIZE)) ** 2 / 0.015)
    for _ in range(count):
        field = torch.zeros(SHAPE)
        for _ in range(particles):
            texture = torch.fft.irfft2(torch.fft.rfft2(torch.randn(SIZE, SIZE, generator=generator)) * smooth)
            y, x = (int(torch.randint(edge - SIZE, (), generator=generator)) for edge in SHAPE)
            field[y:y + SIZE, x:x + SIZE] += torch.where(inside, texture / texture[inside].std(), 0.0)
        yield field


def coloured():
    """Noise with more power at low frequencies, of deviation 1."""
    radius = torch.hypot(torch.fft.fftfreq(TILE)[:, None], torch.fft.rfftfreq(TILE))
    noise = ColouredNoise(1 / (0.05 + radius))
    return ColouredNoise(noise.power / noise.variance)


@pytest.mark.parametrize("snr", [0.06, 0.2, 0.6])
def test_the_measured_ratio_is_the_true_one(snr, generator):
    noise = coloured()
    real = [noise.draw(SHAPE, generator) - math.sqrt(snr) * field for field in fields(6, generator)]
    # The simulation has other particles at other places, and a contrast of its own.
    signals = [0.013 * field for field in fields(6, generator)]
    fitted = fit_snr(real, signals, 0.013, float(SIZE), generator)
    # Six small fields hold 150 particles; chance changes the power of so few by a tenth.
    assert fitted.snr == pytest.approx(snr, rel=0.3)
    assert fitted.reliable
    assert fitted.misfit < 0.05


def test_contaminants_do_not_count_as_strong_particles(generator):
    noise = coloured()
    real = []
    for field in fields(6, generator):
        image = noise.draw(SHAPE, generator) - math.sqrt(0.2) * field
        image[100:140, 200:240] -= 5
        real.append(image.clamp(-6, 6))
    fitted = fit_snr(real, list(fields(6, generator)), 1.0, float(SIZE), generator)
    assert fitted.snr == pytest.approx(0.2, rel=0.4)


def test_noise_without_particles_has_a_ratio_near_zero(generator):
    noise = coloured()
    real = [noise.draw(SHAPE, generator) for _ in range(6)]
    fitted = fit_snr(real, list(fields(6, generator)), 1.0, float(SIZE), generator)
    # The smallest ratio that can be measured: by chance some tiles have less power, and the rest looks like particles.
    assert fitted.snr < 0.06
