# SPDX-License-Identifier: GPL-3.0-or-later
"""Distances between sets: against independent computations, known answers, and controls that have to be found."""
import math
from typing import NamedTuple

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.realism.artefacts import PERIODS, artefacts, excesses, lattice_excess_db
from cryogem_scipion.engine.realism.comparison import Pieces, compare, compare_frechet, stacked
from cryogem_scipion.engine.realism.frechet import frechet
from cryogem_scipion.engine.realism.summary import (
    FREQUENCIES,
    GREY,
    LAGS,
    LOCAL,
    blocks,
    distances,
    mean_of,
    standardised,
    summary,
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
    found = mean_of([summary(noise(generator, shape, 0.15)) for _ in range(12)]).spectrum
    expected = -(FREQUENCIES**2) / (2 * 0.15**2) / math.log(10)
    difference = found - expected
    # The rings of lowest frequency hold some ten values each: 0.1 of chance in twelve images. A constant is the
    # normalisation to deviation 1.
    assert float((difference - difference.mean()).abs().max()) < 0.15
    assert float((difference - difference.mean())[20:].abs().max()) < 0.04


def test_white_noise_has_power_one_and_no_correlation(generator):
    found = mean_of([summary(noise(generator)) for _ in range(12)])
    # 5 deviations of a ring's mean: 50 values or more in each of 12 images.
    assert float(found.spectrum[30:].abs().max()) < 0.08
    assert float(found.autocorrelation[LAGS, 0]) == 1
    others = found.autocorrelation.clone()
    others[LAGS, 0] = 0
    assert float(others.abs().max()) < 0.01


def test_autocorrelation_is_that_of_the_noise_in_every_direction(generator):
    """Noise shifted onto itself is correlated at that shift, and nowhere else."""
    image = noise(generator, (300, 256))
    found = summary(image + image.roll((-3, 5), (0, 1))).autocorrelation
    assert float(found[LAGS - 3, 5]) == pytest.approx(0.5, abs=0.03)
    assert abs(float(found[LAGS + 3, 5])) < 0.03
    coloured = mean_of([summary(noise(generator, width=0.15)) for _ in range(8)]).autocorrelation
    shifts = torch.arange(5)
    expected = torch.exp(-2 * (math.pi * 0.15 * shifts) ** 2).double()
    assert torch.allclose(coloured[LAGS, :5], expected, atol=0.02)


def test_distributions_agree_with_scipy(generator):
    one, other = noise(generator), noise(generator, width=0.1).exp()
    found = distances(summary(one), summary(other))
    values = [standardised(image) for image in (one, other)]
    local = [blocks(image, 32).std((1, 2)).numpy() for image in values]
    # Half the bins' widths at most.
    assert float(found["histogram"]) == pytest.approx(
        scipy.stats.wasserstein_distance(*(image.flatten().numpy() for image in values)), abs=0.01)
    assert float(found["local"]) == pytest.approx(scipy.stats.wasserstein_distance(*local), abs=0.003)
    assert (GREY[1] - GREY[0], LOCAL[1] - LOCAL[0]) == (pytest.approx(0.05), pytest.approx(0.005))
    skewness = [scipy.stats.skew(image.numpy(), axis=None) for image in values]
    kurtosis = [scipy.stats.kurtosis(image.numpy(), axis=None) for image in values]
    assert float(found["skewness"]) == pytest.approx(abs(skewness[0] - skewness[1]), rel=1e-3)
    assert float(found["kurtosis"]) == pytest.approx(abs(kurtosis[0] - kurtosis[1]), rel=1e-3)


def test_scale_offset_and_hot_pixels_do_not_matter(generator):
    image = noise(generator)
    changed = 400 + 7 * image
    changed[10, 20] = 1e6
    before = image.clone(), changed.clone()
    for value in distances(summary(image), summary(changed)).values():
        assert float(value) < 2e-3
    assert torch.equal(image, before[0])
    assert torch.equal(changed, before[1])


def test_local_deviations_tell_noise_that_changes_over_the_field(generator):
    even = noise(generator)
    uneven = even * torch.linspace(0.5, 1.5, 256)
    found = distances(summary(even), summary(uneven))
    assert float(found["local"]) > 0.2
    assert float(found["autocorrelation"]) < 0.01


def test_frechet_of_known_clouds_and_against_a_matrix_root(generator):
    """Of independent Gaussians it is the sum over axes of (difference of means)² + (difference of deviations)²."""
    one = torch.randn(40000, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([0.0, 1.0, 0.0])
    other = torch.randn(40000, 3, generator=generator)
    assert frechet(one, other) == pytest.approx(1 + 1 + 0.25, rel=0.03)
    mixed = torch.randn(3, 3, generator=generator)
    first, second = one @ mixed, other
    moments = [(cloud.double().mean(0), np.cov(cloud.double().numpy(), rowvar=False)) for cloud in (first, second)]
    unit = np.sqrt(np.diag(moments[1][1]))
    covariances = [matrix / np.outer(unit, unit) for _, matrix in moments]
    shift = (moments[0][0] - moments[1][0]).numpy() / unit
    expected = shift @ shift + np.trace(covariances[0] + covariances[1]
                                        - 2 * scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real)
    assert frechet(first, second) == pytest.approx(expected, rel=1e-4)
    assert frechet(one[:500], one[:500]) == pytest.approx(0, abs=1e-8)


def test_weights_are_repetitions(generator):
    one, other = torch.randn(30, 4, generator=generator), torch.randn(40, 4, generator=generator)
    times = torch.randint(1, 4, (30,), generator=generator)
    assert frechet(one, other, times.double()) == pytest.approx(
        frechet(one.repeat_interleave(times, 0), other), rel=1e-9)


class Averages(NamedTuple):
    values: torch.Tensor


def root_mean_square(one, other):
    return {"distance": (one.values - other.values).square().mean(-1).sqrt()}


def test_an_interval_is_as_wide_as_the_figures_of_other_micrographs(generator):
    """The distance's scatter over many sets is what each interval promises; with chance in it that makes it larger."""
    def some(level):
        return stacked([Averages(level + torch.randn(20, generator=generator)) for _ in range(16)])

    figures = [compare(some(0.0), some(0.5), root_mean_square, generator)["distance"] for _ in range(60)]
    values = np.array([figure.value for figure in figures])
    widths = np.array([figure.high - figure.low for figure in figures])
    # 95 % of a normal distribution are 3.92 deviations; a deviation of 60 values is known to 9 %.
    assert np.median(widths) == pytest.approx(3.92 * values.std(ddof=1), rel=0.3)
    assert np.mean([figure.low <= values.mean() <= figure.high for figure in figures]) > 0.85
    assert all(figure.low <= figure.value <= figure.high for figure in figures)


def test_the_floor_is_met_by_more_of_the_same_and_by_nothing_else(generator):
    real, same, other = (stacked([summary(noise(generator, (96, 96), width)) for _ in range(12)])
                         for width in (0.2, 0.2, 0.25))
    near, far = compare(same, real, distances, generator), compare(other, real, distances, generator)
    for name in ("spectrum", "autocorrelation"):
        assert near[name].halves == pytest.approx(near[name].floor, rel=0.4)
        assert far[name].halves > 1.5 * far[name].floor
    alone = compare(same, stacked([summary(noise(generator))]), distances, generator)
    assert alone["spectrum"].floor is None


def test_frechet_has_a_floor_and_an_interval(generator):
    def pieces(shift):
        per_micrograph = torch.randn(10, 1, 4, generator=generator) * 0.3
        return Pieces((torch.randn(10, 20, 4, generator=generator) + per_micrograph + shift).flatten(0, 1),
                      torch.arange(10).repeat_interleave(20))

    real = pieces(0.0)
    near, far = compare_frechet(pieces(0.0), real, generator), compare_frechet(pieces(1.0), real, generator)
    assert near.low <= near.value <= near.high
    assert near.halves < 4 * near.floor
    assert far.low > 2
    assert far.halves > 10 * far.floor


def test_no_lattice_in_noise_and_every_injected_one_is_found(generator):
    shape = (600, 550)
    y, x = torch.arange(shape[0])[:, None], torch.arange(shape[1])
    plain, real = ([noise(generator, shape, 0.3) for _ in range(6)] for _ in range(2))
    whole = torch.ones(6).double()
    reference = stacked([artefacts(image) for image in real]).mean(whole).lattice

    def found(pattern):
        sample = stacked([artefacts(image + pattern) for image in plain]).mean(whole)
        return [float(value) for value in lattice_excess_db(sample.lattice, reference).values()]

    # The strongest of some 2000 points in the mean of 24 spectra, overlapping.
    assert max(found(0.0)) < 4
    waves = sum(0.15 * torch.cos(2 * math.pi * (x + 0.25) / period) for period in PERIODS)
    # Power of a wave over that of the noise: 15 dB above it with pieces of 512 pixels.
    assert min(found(waves)) > 10
    one = found(0.15 * torch.cos(2 * math.pi * (y + x) / 8))
    assert one.pop(PERIODS.index(8)) > 10
    assert max(one) < 4


def test_a_lattice_of_the_real_set_is_no_excess(generator):
    wave = 0.2 * torch.cos(2 * math.pi * torch.arange(512) / 8)
    sets = [stacked([artefacts(noise(generator, (512, 512)) + wave) for _ in range(8)]) for _ in range(2)]
    one, other = (sample.mean(torch.ones(8).double()).lattice for sample in sets)
    assert float(lattice_excess_db(one, other)[8]) < 4


@pytest.mark.parametrize("side", range(4))
def test_a_line_along_the_border_is_found(side, generator):
    def marked(offset, spread):
        image = noise(generator, (300, 320))
        line = image.flip(0) if side % 2 else image
        line = line.clone().T if side >= 2 else line.clone()
        line[2] = offset + spread * line[2]
        return line

    plain, bright, rough = (stacked([artefacts(marked(*change)) for _ in range(5)])
                            for change in ((0, 1), (0.5, 1), (0, 1.5)))
    real = stacked([artefacts(noise(generator, (300, 320))) for _ in range(5)])
    # Means of lines of 300 pixels in 5 images are known to 0.026; the worst of 64 differences.
    assert float(excess(plain, real)) < 0.18
    assert float(excess(bright, real)) > 0.3
    assert float(excess(rough, real)) > 0.25


def excess(one, other):
    return excesses(*(sample.mean(torch.ones(5).double()) for sample in (one, other)))["border"]


def test_unusable_images_are_refused(generator):
    with pytest.raises(DataError, match="40 x 90 pixels \\(y x\\); 64 a side are needed"):
        summary(torch.randn(40, 90, generator=generator))
    with pytest.raises(DataError, match="nearly all pixels of an image have the value 3"):
        summary(torch.full((80, 80), 3.0))
    with pytest.raises(DataError, match="to look for lattices takes 256 a side"):
        artefacts(torch.randn(200, 400, generator=generator))
    with pytest.raises(DataError, match="1 and 5 pieces of image"):
        frechet(torch.zeros(1, 2), torch.zeros(5, 2))


def test_variety_tells_sets_whose_micrographs_are_all_alike(generator):
    """Both sets have the same mean spectrum; in one the micrographs differ."""
    widths = [0.16, 0.2, 0.24]
    mixed = mean_of([summary(noise(generator, (128, 128), widths[i % 3])) for i in range(12)])
    alike = mean_of([summary(noise(generator, (128, 128), 0.2)) for _ in range(12)])
    expected = torch.stack([-FREQUENCIES**2 / (2 * width**2) / math.log(10) for width in widths])
    expected = (expected - expected.mean(1, keepdim=True)).std(0, correction=0)
    found = mixed.variety - alike.variety
    assert float((found[60:] - expected[60:]).abs().max()) < 0.15
    assert float(distances(mixed, alike)["variety"]) > 0.1


@pytest.mark.parametrize("edge", [32, 33])
def test_shell_correlations_are_those_of_the_signal_and_noise(edge, generator):
    """Against a plain loop over shells of the full transform; and signal over noise gives s / √(s² + n²)."""
    one = torch.randn(edge, edge, edge, generator=generator)
    other = 0.5 * one + torch.randn(edge, edge, edge, generator=generator)
    found = fourier_shell_correlation(one, other)
    axis = np.fft.fftfreq(edge) * edge
    radius = np.rint(np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2))
    a, b = np.fft.fftn(one.double().numpy()), np.fft.fftn(other.double().numpy())
    for shell in range(edge // 2 + 1):
        here = radius == shell
        expected = np.vdot(b[here], a[here]).real / np.linalg.norm(a[here]) / np.linalg.norm(b[here])
        assert float(found[shell]) == pytest.approx(expected, abs=1e-9)
    assert float(found[8:].mean()) == pytest.approx(0.5 / 1.25**0.5, abs=0.02)
    assert fsc_resolution(torch.tensor([1, 0.9, 0.7, 0.3, 0.6]), 10, 2.0, 0.5) == pytest.approx(20 / 2.5)
    assert fsc_resolution(torch.tensor([1, 0.9, 0.8]), 10, 2.0, 0.5) is None
    with pytest.raises(DataError, match="compare cubes of one size"):
        fourier_shell_correlation(one, one[:, :, 1:])
