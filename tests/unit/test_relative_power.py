# SPDX-License-Identifier: GPL-3.0-or-later
"""Noise that differs between micrographs: measured, turned with its micrograph, and drawn again."""
import pytest
import torch

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.noise.ice import IceMap
from cryogem_scipion.engine.noise.models import PhysicalNoise
from cryogem_scipion.engine.noise.relative_power import relative_powers
from cryogem_scipion.engine.noise.spectrum import (
    TILE,
    ColouredNoise,
    full_plane,
    tile_periodograms,
    turned_half_plane,
)

RADIUS = torch.hypot(fourier.fftfreq(TILE)[:, None], fourier.rfftfreq(TILE))
OBLIQUE = torch.exp(-((fourier.fftfreq(TILE)[:, None] - fourier.rfftfreq(TILE)) / 0.2) ** 2) + 0.1
"""Power along one diagonal."""


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_spectrum_of_a_turned_image_is_the_turned_spectrum(turns, mirrored, generator):
    image = torch.randn(TILE, TILE, generator=generator)
    turned = image.rot90(turns)
    turned = turned.flip(1) if mirrored else turned
    power, expected = (fourier.rfft2(values).abs().square() for values in (image, turned))
    assert torch.allclose(turned_half_plane(power, turns, mirrored), expected, rtol=1e-3, atol=1e-2)
    assert torch.allclose(full_plane(power)[:, :TILE // 2 + 1], power)


def test_the_ratio_of_each_micrograph_is_measured(generator):
    """Three sets of noise whose high frequencies differ by known factors; chance changes a factor by about 4 %."""
    factors = [torch.where(RADIUS > 0.25, factor, 1.0) for factor in (0.5, 1.0, 2.0)]
    flats = [ColouredNoise(factor).draw((448, 448), generator) for factor in factors]
    measured = relative_powers(flats, None)
    for factor, ratio in zip((0.5, 1.0, 2.0), measured, strict=True):
        assert ratio[RADIUS > 0.35].mean() == pytest.approx(factor, rel=0.05)
        assert ratio[RADIUS < 0.15].mean() == pytest.approx(1.0, rel=0.05)


def test_generated_images_get_the_noise_of_their_micrograph(generator):
    ice = tuple(IceMap(torch.ones(3, 3), (256, 256)) for _ in range(2))
    physical = PhysicalNoise(0.05, ice, relative_powers=(OBLIQUE, None))
    clean = torch.ones(256, 256)
    for chosen in (0, 1):  # the second was not measured and gets the first one's
        scene = physical.scene((256, 256), generator, chosen=chosen)
        power = tile_periodograms(physical.deviations(clean, generator, scene)).mean(0)
        expected = scene.relative_power
        assert expected is not None
        # Means over 9 half-overlapping tiles scatter by a third, so their correlation is not 1.
        assert torch.corrcoef(torch.stack([power.flatten(), expected.flatten()]))[0, 1] > 0.5
        other = turned_half_plane(expected, 1, False)
        assert torch.corrcoef(torch.stack([power.flatten(), other.flatten()]))[0, 1] < 0.3
    assert physical.subset([1]).relative_powers == (None,)
    assert physical.subset([1]).scene((256, 256), generator).relative_power is None


def test_micrographs_without_ice_maps_differ_too(generator):
    physical = PhysicalNoise(0.05, relative_powers=(OBLIQUE,))
    assert physical.scene((64, 64), generator).relative_power is not None
    assert physical.subset([]).relative_powers == physical.relative_powers
