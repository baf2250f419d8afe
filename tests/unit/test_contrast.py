# SPDX-License-Identifier: GPL-3.0-or-later
"""The signal-to-noise ratio is found again in micrographs whose truth is known."""
import math

import pytest
import torch

from cryogem_scipion.engine.noise.signal_to_noise import fit_snr
from cryogem_scipion.engine.noise.spectrum import TILE, ColouredNoise

SHAPE, SIZE, COUNT = (384, 448), 32, 25


def fields(count, generator, particles=COUNT):
    """Textured round particles at random places, of deviation 1 where they are; a stand-in for projections."""
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
def test_the_ratio_is_found_again(snr, generator):
    noise = coloured()
    real = [noise.draw(SHAPE, generator) - math.sqrt(snr) * field for field in fields(6, generator)]
    # The simulation has other particles at other places, and a contrast of its own.
    signals = [0.013 * field for field in fields(6, generator)]
    fitted = fit_snr(real, signals, 0.013, float(SIZE), generator)
    # Six small fields hold 150 particles; their number alone varies the power by a tenth.
    assert fitted.snr == pytest.approx(snr, rel=0.3)
    assert fitted.reliable
    assert fitted.misfit < 0.05


def test_contaminants_do_not_pass_for_strong_particles(generator):
    noise = coloured()
    real = []
    for field in fields(6, generator):
        image = noise.draw(SHAPE, generator) - math.sqrt(0.2) * field
        image[100:140, 200:240] -= 5
        real.append(image.clamp(-6, 6))
    fitted = fit_snr(real, list(fields(6, generator)), 1.0, float(SIZE), generator)
    assert fitted.snr == pytest.approx(0.2, rel=0.4)


def test_particles_that_are_not_there_are_not_measured(generator):
    noise = coloured()
    real = [noise.draw(SHAPE, generator) for _ in range(6)]
    fitted = fit_snr(real, list(fields(6, generator)), 1.0, float(SIZE), generator)
    # The floor: the quietest tiles are a little quieter than the rest by chance, which passes for weak particles.
    assert fitted.snr < 0.06
