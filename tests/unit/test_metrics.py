# SPDX-License-Identifier: GPL-3.0-or-later
"""Distances between sets: against independent computations, known values, and artefacts that must be detected."""
import math
from typing import NamedTuple

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.realism.artefacts import PERIODS, artefact_excess, lattice_excess_db, measure_artefacts
from cryogem_scipion.engine.realism.frechet import frechet_distance
from cryogem_scipion.engine.realism.image_statistics import (
    FREQUENCIES,
    GREY_BINS,
    LOCAL_DEVIATION_BINS,
    MAX_SHIFT,
    image_statistics,
    mean_statistics,
    split_into_blocks,
    standardise,
    statistics_distances,
)
from cryogem_scipion.engine.realism.set_distances import (
    PatchFeatures,
    estimate_distances,
    estimate_frechet_distance,
    stack_averages,
)
from cryogem_scipion.engine.scoring.fsc import fourier_shell_correlation, fsc_resolution


def noise(generator, shape=(256, 256), width=0.0):
    """White noise, or noise whose spectrum falls as a Gaussian of standard deviation ``width`` cycles per pixel."""
    white = torch.randn(shape, generator=generator)
    if not width:
        return white
    y, x = torch.fft.fftfreq(shape[0])[:, None], torch.fft.rfftfreq(shape[1])
    return torch.fft.irfft2(torch.fft.rfft2(white) * torch.exp(-(y**2 + x**2) / (4 * width**2)), s=shape)


@pytest.mark.parametrize("shape", [(256, 256), (201, 330)])
def test_spectra_are_those_of_the_noise(shape, generator):
    spectrum = mean_statistics([image_statistics(noise(generator, shape, 0.15)) for _ in range(12)]).spectrum
    expected = -(FREQUENCIES**2) / (2 * 0.15**2) / math.log(10)
    difference = spectrum - expected
    # The rings of lowest frequency have some ten values each: a random error of 0.1 in twelve images. The constant
    # difference comes from the normalisation to standard deviation 1.
    assert float((difference - difference.mean()).abs().max()) < 0.15
    assert float((difference - difference.mean())[20:].abs().max()) < 0.04


def test_white_noise_has_power_one_and_no_correlation(generator):
    statistics = mean_statistics([image_statistics(noise(generator)) for _ in range(12)])
    # 5 standard errors of the mean of a ring, with 50 values or more in each of 12 images.
    assert float(statistics.spectrum[30:].abs().max()) < 0.08
    assert float(statistics.autocorrelation[MAX_SHIFT, 0]) == 1
    shifted = statistics.autocorrelation.clone()
    shifted[MAX_SHIFT, 0] = 0
    assert float(shifted.abs().max()) < 0.01


def test_autocorrelation_is_that_of_the_noise_in_every_direction(generator):
    """The sum of white noise and its shifted copy is correlated at that shift only."""
    image = noise(generator, (300, 256))
    autocorrelation = image_statistics(image + image.roll((-3, 5), (0, 1))).autocorrelation
    assert float(autocorrelation[MAX_SHIFT - 3, 5]) == pytest.approx(0.5, abs=0.03)
    assert abs(float(autocorrelation[MAX_SHIFT + 3, 5])) < 0.03
    coloured = mean_statistics([image_statistics(noise(generator, width=0.15)) for _ in range(8)]).autocorrelation
    shifts = torch.arange(5)
    expected = torch.exp(-2 * (math.pi * 0.15 * shifts) ** 2).double()
    assert torch.allclose(coloured[MAX_SHIFT, :5], expected, atol=0.02)


def test_distributions_agree_with_scipy(generator):
    images = noise(generator), noise(generator, width=0.1).exp()
    distances = statistics_distances(*(image_statistics(image) for image in images))
    values = [standardise(image) for image in images]
    local = [split_into_blocks(image, 32).std((1, 2)).numpy() for image in values]
    # At most half the width of a bin.
    assert float(distances["histogram"]) == pytest.approx(
        scipy.stats.wasserstein_distance(*(image.flatten().numpy() for image in values)), abs=0.01)
    assert float(distances["local"]) == pytest.approx(scipy.stats.wasserstein_distance(*local), abs=0.003)
    assert [float(edges[1] - edges[0]) for edges in (GREY_BINS, LOCAL_DEVIATION_BINS)] == [
        pytest.approx(0.05), pytest.approx(0.005)]
    skewness = [scipy.stats.skew(image.numpy(), axis=None) for image in values]
    kurtosis = [scipy.stats.kurtosis(image.numpy(), axis=None) for image in values]
    assert float(distances["skewness"]) == pytest.approx(abs(skewness[0] - skewness[1]), rel=1e-3)
    assert float(distances["kurtosis"]) == pytest.approx(abs(kurtosis[0] - kurtosis[1]), rel=1e-3)


def test_scale_offset_and_hot_pixels_make_no_difference(generator):
    image = noise(generator)
    changed = 400 + 7 * image
    changed[10, 20] = 1e6
    before = image.clone(), changed.clone()
    for value in statistics_distances(image_statistics(image), image_statistics(changed)).values():
        assert float(value) < 2e-3
    assert torch.equal(image, before[0])
    assert torch.equal(changed, before[1])


def test_local_deviations_detect_noise_that_changes_over_the_image(generator):
    even = noise(generator)
    uneven = even * torch.linspace(0.5, 1.5, 256)
    distances = statistics_distances(image_statistics(even), image_statistics(uneven))
    assert float(distances["local"]) > 0.2
    assert float(distances["autocorrelation"]) < 0.01


def test_frechet_distance_of_known_gaussians_and_against_a_matrix_root(generator):
    """For independent features it is the sum of (difference of means)² + (difference of standard deviations)²."""
    one = torch.randn(40000, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([0.0, 1.0, 0.0])
    other = torch.randn(40000, 3, generator=generator)
    assert frechet_distance(one, other) == pytest.approx(1 + 1 + 0.25, rel=0.03)
    mixed = torch.randn(3, 3, generator=generator)
    first, second = one @ mixed, other
    moments = [(vectors.double().mean(0), np.cov(vectors.double().numpy(), rowvar=False))
               for vectors in (first, second)]
    unit = np.sqrt(np.diag(moments[1][1]))
    covariances = [matrix / np.outer(unit, unit) for _, matrix in moments]
    shift = (moments[0][0] - moments[1][0]).numpy() / unit
    expected = shift @ shift + np.trace(covariances[0] + covariances[1]
                                        - 2 * scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(one[:500], one[:500]) == pytest.approx(0, abs=1e-8)


def test_weights_are_repetitions(generator):
    one, other = torch.randn(30, 4, generator=generator), torch.randn(40, 4, generator=generator)
    times = torch.randint(1, 4, (30,), generator=generator)
    assert frechet_distance(one, other, times.double()) == pytest.approx(
        frechet_distance(one.repeat_interleave(times, 0), other), rel=1e-9)


class Averages(NamedTuple):
    values: torch.Tensor


def root_mean_square_difference(one, other):
    return {"distance": (one.values - other.values).square().mean(-1).sqrt()}


def test_an_interval_is_as_wide_as_the_scatter_over_other_micrographs(generator):
    def random_set(level):
        return stack_averages([Averages(level + torch.randn(20, generator=generator)) for _ in range(16)])

    estimates = [estimate_distances(random_set(0.0), random_set(0.5), root_mean_square_difference,
                                    generator)["distance"] for _ in range(60)]
    values = np.array([estimate.value for estimate in estimates])
    widths = np.array([estimate.high - estimate.low for estimate in estimates])
    # 95 % of a normal distribution lie within 3.92 standard deviations; 60 values give the deviation to 9 %.
    assert np.median(widths) == pytest.approx(3.92 * values.std(ddof=1), rel=0.3)
    assert np.mean([estimate.low <= values.mean() <= estimate.high for estimate in estimates]) > 0.85
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in estimates)


def test_only_the_same_noise_reaches_the_floor(generator):
    real, same, other = (stack_averages([image_statistics(noise(generator, (96, 96), width)) for _ in range(12)])
                         for width in (0.2, 0.2, 0.25))
    near, far = (estimate_distances(generated, real, statistics_distances, generator) for generated in (same, other))
    for name in ("spectrum", "autocorrelation"):
        assert near[name].halves == pytest.approx(near[name].floor, rel=0.4)
        assert far[name].halves > 1.5 * far[name].floor
    single = stack_averages([image_statistics(noise(generator))])
    assert estimate_distances(same, single, statistics_distances, generator)["spectrum"].floor is None


def test_frechet_distance_has_a_floor_and_an_interval(generator):
    def features(shift):
        per_micrograph = torch.randn(10, 1, 4, generator=generator) * 0.3
        return PatchFeatures((torch.randn(10, 20, 4, generator=generator) + per_micrograph + shift).flatten(0, 1),
                             torch.arange(10).repeat_interleave(20))

    real = features(0.0)
    near, far = (estimate_frechet_distance(features(shift), real, generator) for shift in (0.0, 1.0))
    assert near.low <= near.value <= near.high
    assert near.halves < 4 * near.floor
    assert far.low > 2
    assert far.halves > 10 * far.floor


def test_noise_has_no_lattice_and_every_added_lattice_is_detected(generator):
    shape = (600, 550)
    y, x = torch.arange(shape[0])[:, None], torch.arange(shape[1])
    plain, real = ([noise(generator, shape, 0.3) for _ in range(6)] for _ in range(2))
    whole = torch.ones(6).double()
    reference = stack_averages([measure_artefacts(image) for image in real]).mean(whole).lattice

    def excess_in_db(pattern):
        generated = stack_averages([measure_artefacts(image + pattern) for image in plain]).mean(whole)
        return [float(value) for value in lattice_excess_db(generated.lattice, reference).values()]

    # The strongest of some 2000 frequencies in the mean of 24 spectra of overlapping tiles.
    assert max(excess_in_db(0.0)) < 4
    waves = sum(0.15 * torch.cos(2 * math.pi * (x + 0.25) / period) for period in PERIODS)
    # In tiles of 512 pixels, the power of a wave is 15 dB above the power of the noise.
    assert min(excess_in_db(waves)) > 10
    of_one_wave = excess_in_db(0.15 * torch.cos(2 * math.pi * (y + x) / 8))
    assert of_one_wave.pop(PERIODS.index(8)) > 10
    assert max(of_one_wave) < 4


def test_a_lattice_that_the_real_set_also_has_is_no_excess(generator):
    wave = 0.2 * torch.cos(2 * math.pi * torch.arange(512) / 8)
    sets = [stack_averages([measure_artefacts(noise(generator, (512, 512)) + wave) for _ in range(8)])
            for _ in range(2)]
    generated, real = (averages.mean(torch.ones(8).double()).lattice for averages in sets)
    assert float(lattice_excess_db(generated, real)[8]) < 4


@pytest.mark.parametrize("side", range(4))
def test_a_line_along_the_border_is_detected(side, generator):
    def with_line(offset, factor):
        image = noise(generator, (300, 320))
        image = image.flip(0) if side % 2 else image
        image = image.clone().T if side >= 2 else image.clone()
        image[2] = offset + factor * image[2]
        return image

    plain, bright, noisy = (stack_averages([measure_artefacts(with_line(*line)) for _ in range(5)])
                            for line in ((0, 1), (0.5, 1), (0, 1.5)))
    real = stack_averages([measure_artefacts(noise(generator, (300, 320))) for _ in range(5)])
    # The standard error of the mean of a line of 300 pixels in 5 images is 0.026; the largest of 64 differences counts.
    assert float(border_excess(plain, real)) < 0.18
    assert float(border_excess(bright, real)) > 0.3
    assert float(border_excess(noisy, real)) > 0.25


def border_excess(generated, real):
    return artefact_excess(*(averages.mean(torch.ones(5).double()) for averages in (generated, real)))["border"]


def test_unusable_images_are_refused(generator):
    with pytest.raises(DataError, match="40 x 90 pixels \\(y x\\), but at least 64 on each side are needed"):
        image_statistics(torch.randn(40, 90, generator=generator))
    with pytest.raises(DataError, match="nearly all pixels of an image have the value 3"):
        image_statistics(torch.full((80, 80), 3.0))
    with pytest.raises(DataError, match="lattices can be measured only from 256 pixels on each side"):
        measure_artefacts(torch.randn(200, 400, generator=generator))
    with pytest.raises(DataError, match="1 and 5 patches"):
        frechet_distance(torch.zeros(1, 2), torch.zeros(5, 2))


def test_variety_detects_a_set_whose_micrographs_are_all_alike(generator):
    """Both sets have the same mean spectrum; the micrographs of one set differ."""
    widths = [0.16, 0.2, 0.24]
    mixed = mean_statistics([image_statistics(noise(generator, (128, 128), widths[i % 3])) for i in range(12)])
    alike = mean_statistics([image_statistics(noise(generator, (128, 128), 0.2)) for _ in range(12)])
    expected = torch.stack([-FREQUENCIES**2 / (2 * width**2) / math.log(10) for width in widths])
    expected = (expected - expected.mean(1, keepdim=True)).std(0, correction=0)
    difference = mixed.variety - alike.variety
    assert float((difference[60:] - expected[60:]).abs().max()) < 0.15
    assert float(statistics_distances(mixed, alike)["variety"]) > 0.1


@pytest.mark.parametrize("edge", [32, 33])
def test_shell_correlations_are_those_of_the_signal_and_noise(edge, generator):
    """Against a loop over the shells of the full Fourier transform; signal s and noise n give s / √(s² + n²)."""
    one = torch.randn(edge, edge, edge, generator=generator)
    other = 0.5 * one + torch.randn(edge, edge, edge, generator=generator)
    correlation = fourier_shell_correlation(one, other)
    axis = np.fft.fftfreq(edge) * edge
    radius = np.rint(np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2))
    a, b = np.fft.fftn(one.double().numpy()), np.fft.fftn(other.double().numpy())
    for shell in range(edge // 2 + 1):
        inside = radius == shell
        expected = np.vdot(b[inside], a[inside]).real / np.linalg.norm(a[inside]) / np.linalg.norm(b[inside])
        assert float(correlation[shell]) == pytest.approx(expected, abs=1e-9)
    assert float(correlation[8:].mean()) == pytest.approx(0.5 / 1.25**0.5, abs=0.02)
    assert fsc_resolution(torch.tensor([1, 0.9, 0.7, 0.3, 0.6]), 10, 2.0, 0.5) == pytest.approx(20 / 2.5)
    assert fsc_resolution(torch.tensor([1, 0.9, 0.8]), 10, 2.0, 0.5) is None
    with pytest.raises(DataError, match="compare cubes of one size"):
        fourier_shell_correlation(one, one[:, :, 1:])
