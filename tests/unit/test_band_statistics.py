# SPDX-License-Identifier: GPL-3.0-or-later
"""Statistics of frequency bands, and the linear network that judges them."""
import math

import pytest
import torch

from cryogem_scipion.engine.realism.two_sample.band_statistics import (
    STATISTICS,
    band_differences,
    band_statistics,
    chance_aucs,
    train_band_judge,
)
from cryogem_scipion.engine.realism.two_sample.scales import chosen_scales


def bands_scale(diameter=120.0):
    scale = chosen_scales(4.0, 300, diameter)[-1]
    assert scale.name == "bands"
    return scale


def test_bands_reach_from_pixels_to_particles():
    small, large = bands_scale(60.0), bands_scale(240.0)
    assert small.band_widths[0] == large.band_widths[0] < 1
    # A quarter of the diameter lies in the last band.
    for scale, diameter in ((small, 15), (large, 60)):
        assert scale.band_widths[-2] <= diameter / 4 * 2 <= 2 * scale.band_widths[-1]
    assert small.particle_band < large.particle_band < len(large.band_widths)


def test_gaussian_noise_has_the_moments_of_a_normal_distribution(generator):
    scale = bands_scale()
    statistics = band_statistics(torch.randn(300, 310, generator=generator), scale)
    assert statistics.shape == (7, 7, 6 * len(scale.band_widths))
    _, skewness, kurtosis = statistics.mean((0, 1)).reshape(6, -1)[:3]
    # The finest bands hold many independent values: 300 x 310 pixels give deviations of 0.01 and 0.02.
    assert skewness[:3].abs().max() < 0.05
    assert kurtosis[:3].exp() == pytest.approx(3 * torch.ones(3), abs=0.1)


def test_a_stronger_image_changes_the_standard_deviations_only(generator):
    image = torch.randn(300, 300, generator=generator)
    before, after = (band_statistics(factor * image, bands_scale()) for factor in (1.0, 2.0))
    count = len(bands_scale().band_widths)
    assert torch.allclose(after[..., :count] - before[..., :count], torch.tensor(math.log(2)).double(), atol=1e-4)
    # float32 moments of order 4 have relative errors of about 1e-5.
    assert torch.allclose(after[..., count:], before[..., count:], atol=1e-3)


def test_a_constant_image_has_finite_statistics():
    assert band_statistics(torch.zeros(300, 300), bands_scale()).isfinite().all()


def test_the_largest_difference_names_statistic_and_period(generator):
    scale = bands_scale()
    count = len(scale.band_widths)
    statistics = torch.randn(16, 9, 6 * count, generator=generator, dtype=torch.float64)
    statistics[:8, :, count + 2] -= 3
    largest, second = band_differences(statistics[:8], statistics[8:], scale)[:2]
    assert largest.statistic == STATISTICS[1] == "skewness"
    # The band lies between Gaussians of 1 and 1.4 px. Means of 9 squares have a deviation of 1/3.
    assert largest.period_angstrom == pytest.approx(4.0 * math.pi * scale.band_widths[1] / math.sqrt(math.log(2) / 2))
    assert largest.deviations == pytest.approx(-9, rel=0.5)
    assert abs(second.deviations) < 3


def test_the_judge_tells_sets_apart_and_new_networks_for_random_assignments_do_not(generator):
    statistics = torch.randn(20, 9, 12, generator=generator, dtype=torch.float64)
    by_chance = chance_aucs(statistics, 10, 4, generator)
    # The mean over all assignments is slightly below 0.5: judged micrographs lack what the others have too much of.
    assert 0.4 < by_chance.mean() < 0.52
    statistics[:10, :, 0] += 1
    judge = train_band_judge(statistics[:8], statistics[10:18])
    assert judge.evidence(statistics[8:10]).mean() > 0.2 > -0.2 > judge.evidence(statistics[18:]).mean()
