# SPDX-License-Identifier: GPL-3.0-or-later
"""The physical image and noise without a network: ice, spectrum, distribution, and their measurement."""
import math

import pytest
import torch

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.ice import IceMap, draw_ice
from cryogem_scipion.engine.noise.models import AnalyticModel, GreyScale, PhysicalNoise
from cryogem_scipion.engine.noise.noise_fit import CleanImage, RealImage, fit_noise, measure_real_noise
from cryogem_scipion.engine.noise.spectrum import TILE, ColouredNoise, tile_periodograms, white_noise


def coloured_power():
    """Power that falls with frequency, with a ridge along y as the read-out of a detector's rows makes it."""
    y, x = torch.fft.fftfreq(TILE)[:, None], torch.fft.rfftfreq(TILE)[None]
    return 0.3 + 4 * torch.exp(-(y**2 + x**2) / 0.02) + 2 * torch.exp(-((y.abs() - 0.25) ** 2 + x**2) / 0.002)


@pytest.mark.parametrize("shape", [(200, 200), (97, 150), (33, 401)])
def test_white_noise_of_any_shape(shape, generator):
    noise = white_noise().draw(shape, generator)
    assert noise.shape == shape
    # The standard error of a deviation is 1 / sqrt(2 n).
    assert abs(float(noise.std()) - 1) < 5 / math.sqrt(2 * noise.numel())


@pytest.mark.parametrize("shape", [(512, 512), (383, 641)])
def test_noise_has_the_spectrum_it_is_given(shape, generator):
    power = coloured_power()
    noise = ColouredNoise(power)
    measured = torch.cat([tile_periodograms(noise.draw(shape, generator)) for _ in range(8)]).mean(0)
    ratio = (measured / power)[2:-2, 2:-2]
    # Some 300 half-overlapping tiles: 8 % chance a bin, and the window smooths the flanks.
    assert abs(float(ratio.mean()) - 1) < 0.03
    assert float(ratio.std()) < 0.15
    assert abs(noise.variance - float(noise.draw((2000, 2000), generator).var())) < 0.03 * noise.variance


def test_noise_does_not_wrap_around(generator):
    power = torch.zeros(TILE, TILE // 2 + 1)
    power[:3, :3] = 100.0
    draws = torch.stack([ColouredNoise(power).draw((64, 256), generator) for _ in range(60)])
    correlation = (draws[:, :, 0] * draws[:, :, -1]).mean() / draws.square().mean()
    # 60 draws give the correlation of opposite borders to 1 / sqrt(60) = 0.13; periodic noise would have nearly 1.
    assert abs(float(correlation)) < 0.5


def test_a_curve_changes_the_distribution_and_not_the_deviation(generator):
    knots = torch.linspace(-4, 4, 65)
    bent = knots + 0.15 * (knots**2 - 1)
    weight = torch.exp(-knots**2 / 2) / torch.exp(-knots**2 / 2).sum()
    curve = bent / (weight * bent**2).sum().sqrt()
    noise = ColouredNoise(white_noise().power, curve).draw((600, 600), generator)
    assert float((noise**3).mean()) > 0.5  # skewed to the bright side
    assert float(noise.std()) == pytest.approx(1, abs=0.01)


def test_fine_noise_is_skewed_and_coarse_noise_is_not(generator):
    """A detector counts electrons: sums of many pixels are nearly Gaussian, whatever the filter."""
    knots = torch.linspace(-4, 4, 65)
    bent = knots + 0.15 * (knots**2 - 1)
    weight = torch.exp(-knots**2 / 2) / torch.exp(-knots**2 / 2).sum()
    radius = torch.hypot(torch.fft.fftfreq(TILE)[:, None], torch.fft.rfftfreq(TILE))
    noise = ColouredNoise(1 + 200 * torch.exp(-(radius / 0.02) ** 2), bent / (weight * bent**2).sum().sqrt())
    image = noise.draw((1024, 1024), generator)
    frequency = torch.hypot(torch.fft.fftfreq(1024)[:, None], torch.fft.rfftfreq(1024))
    spectrum = torch.fft.rfft2(image)
    coarse, fine = (torch.fft.irfft2(spectrum * chosen, image.shape) for chosen in (frequency < 0.04, frequency > 0.25))
    assert float((fine / fine.std()).pow(3).mean()) > 0.4
    # Some 1000 independent places: the skewness is known to 0.08.
    assert abs(float((coarse / coarse.std()).pow(3).mean())) < 0.25
    # The curve does not change the power spectrum: 200 bins of this band and 1e6 of all.
    power = spectrum.abs().square() / image.numel()
    assert float(power[frequency > 0.25].mean()) == pytest.approx(1, rel=0.01)
    assert float(power[frequency < 0.005].mean()) == pytest.approx(201, rel=0.4)


def test_noise_of_binned_counts_has_the_skewness_of_counts_at_each_frequency(generator):
    """A detector counts electrons on fine pixels, and the image is cropped in Fourier space, as motion correction does.

    The skewness of the counts is known: 1 / sqrt(mean). The fitted noise has the skewness of the image in bands that
    were not used for the fit.
    """
    def counted():
        counts = torch.poisson(torch.full((1024, 1024), 4.0), generator=generator)
        spectrum = torch.fft.rfft2(counts - counts.mean())
        return torch.fft.irfft2(torch.cat([spectrum[:256], spectrum[-256:]])[:, :257], (512, 512)) / 8

    images = [counted() for _ in range(6)]
    reals = [RealImage(image, GreyScale(float(image.median()), float(image.std()))) for image in images]
    physical = fit_noise(measure_real_noise(reals, 0.1), [CleanImage(torch.ones(512, 512))] * 4, generator)
    assert physical.noise.curve_at == "fine"
    drawn = [physical.noise.draw((512, 512), generator) for _ in range(12)]
    radius = torch.hypot(torch.fft.fftfreq(512)[:, None], torch.fft.rfftfreq(512))

    def skewness(some, lowest, highest):
        chosen = (radius >= lowest) & (radius < highest)
        values = torch.stack([torch.fft.irfft2(torch.fft.rfft2(image) * chosen, (512, 512)) for image in some])
        return float((values / values.std()).pow(3).mean())

    for band in ((0.0, 1.0), (0.0, 0.3), (0.15, 1.0), (0.3, 1.0)):
        # 1.5 million pixels: the skewness is known to 0.004 and more in narrow bands, and the fit's to 0.01.
        assert skewness(drawn, *band) == pytest.approx(skewness(images, *band), abs=0.02), band
    assert skewness(images, 0.0, 1.0) == pytest.approx(0.5 * 0.75 / 2, abs=0.06)


@pytest.mark.parametrize("skewness", [-0.2, 0.0, 0.3])
def test_the_skewness_of_fine_noise_is_measured(skewness, generator):
    """Real noise has the skewness and a spectrum of its own; the ice that lies over it is coarse and Gaussian."""
    radius = torch.hypot(torch.fft.fftfreq(384)[:, None], torch.fft.rfftfreq(384))

    def micrograph():
        values = torch.randn(384, 384, generator=generator)
        values = (values + skewness / 6 * (values**2 - 1)) / math.sqrt(1 + skewness**2 / 18)
        coarse = torch.fft.irfft2(torch.fft.rfft2(torch.randn(384, 384, generator=generator))
                                  * 5 * torch.exp(-(radius / 0.03) ** 2), (384, 384))
        return values + coarse

    reals = [RealImage(image, GreyScale(float(image.median()), 1.0)) for image in (micrograph() for _ in range(4))]
    physical = fit_noise(measure_real_noise(reals, 0.1), [CleanImage(torch.ones(384, 384))] * 4, generator)
    fine = radius > 0.25
    if skewness:
        assert physical.noise.curve_at == "pixels"

    def fine_skewness(images):
        values = torch.stack([torch.fft.irfft2(torch.fft.rfft2(image) * fine, (384, 384)) for image in images])
        return float((values / values.std()).pow(3).mean())

    drawn = fine_skewness(physical.noise.draw((384, 384), generator) for _ in range(8))
    expected = fine_skewness(real.grey for real in reals)
    # Some 500000 pixels on either side: the skewness is known to 0.004, and a fit of three rounds to 0.02.
    assert drawn == pytest.approx(expected, abs=0.025)
    assert expected == pytest.approx(0.8 * skewness, abs=0.06)  # the filter leaves 0.8 of the plane


def test_ice_is_interpolated_smoothly_and_straight_to_the_border():
    slope = torch.arange(5.0)[:, None] * 0.1 + torch.arange(7.0)[None] * 0.02 + 1
    image = IceMap(slope, (100, 140)).window((0.0, 0.0), (100, 140))
    for axis in (0, 1):
        steps = image.diff(dim=axis)
        assert torch.allclose(steps, steps[0, 0].expand_as(steps), atol=1e-5)
    # The first cell's middle lies between pixels 9 and 10.
    assert float(image[9:11, 9:11].mean()) == pytest.approx(float(slope[0, 0]), abs=1e-5)


def test_a_window_of_the_ice_is_a_part_of_the_whole(generator):
    ice = IceMap(1 + 0.1 * torch.rand(6, 4, generator=generator), (120, 90))
    whole = ice.window((0.0, 0.0), (120, 90))
    assert torch.allclose(ice.window((30.0, 20.0), (40, 50)), whole[30:70, 20:70], atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (150, 80), (300, 200)])
def test_drawn_ice_fits_any_shape_and_keeps_to_its_range(shape, generator):
    ice = IceMap(1 + 0.1 * torch.rand(6, 4, generator=generator), (120, 90))
    for _ in range(8):
        drawn = draw_ice((ice,), shape, generator)
        assert drawn.shape == shape
        assert 0.9 < float(drawn.min()) <= float(drawn.max()) < 1.2
    assert torch.equal(draw_ice((), shape, generator), torch.ones(shape))


def test_physical_image_is_ice_times_clean_plus_fresh_noise(generator):
    clean = torch.ones(200, 300)
    clean[:, 150:] = 0.8
    before = clean.clone()
    physical = PhysicalNoise(0.05)
    first, second = physical(clean, generator), physical(clean, generator)
    assert not torch.equal(first, second)
    assert torch.equal(clean, before)
    assert float((first - clean).std()) == pytest.approx(0.05, rel=0.02)
    assert float(first[:, 150:].mean()) == pytest.approx(0.8, abs=0.002)
    repeated = [physical(clean, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*repeated)


def test_noise_follows_transmission_by_the_exponent(generator):
    clean = torch.ones(300, 600)
    clean[:, 300:] = 0.5
    noise = PhysicalNoise(0.05, exponent=0.5)(clean, generator) - clean
    assert float(noise[:, 300:].std() / noise[:, :300].std()) == pytest.approx(math.sqrt(0.5), rel=0.02)


def test_analytic_model_has_the_grey_values_of_the_real_set(generator):
    image = AnalyticModel(PhysicalNoise(0.05), GreyScale(500.0, 25.0), 0.1)(torch.ones(301, 200), generator)
    assert float(image.mean()) == pytest.approx(500, abs=1)
    assert float(image.std()) == pytest.approx(25, rel=0.02)


def real_image(truth, clean, generator, hot=True):
    image = 400 * truth(clean, generator)
    if hot:
        image[5, 7], image[40, 41] = 9000.0, -3000.0
    return RealImage(image, GreyScale(400.0, 400 * truth.background_deviation))


def test_measured_noise_is_that_of_the_real_micrographs(generator):
    power = coloured_power()
    truth = PhysicalNoise(0.05, noise=ColouredNoise(power / ColouredNoise(power).variance))
    clean = torch.ones(384, 384)
    clean[100:140, 100:140] = clean[300:350, 40:90] = 0.96
    reals = [real_image(truth, clean, generator) for _ in range(3)]
    reals[0].grey[200:260, 200:260] *= 0.4  # a contaminant
    measured = fit_noise(measure_real_noise(reals, 0.05), [CleanImage(clean)], generator).noise
    ratio = (measured.power / truth.noise.power)[2:-2, 2:-2].log()
    # 75 half-overlapping tiles: 16 % chance a bin before the smoothing.
    assert abs(float(ratio.mean())) < 0.06
    assert float(ratio.std()) < 0.2
    assert measured.variance == pytest.approx(1, abs=0.06)


def test_measured_exponent(generator):
    ice = IceMap(torch.tensor([[0.7, 1.0, 1.3], [0.8, 1.0, 1.2], [0.7, 1.0, 1.3]]), (384, 384))
    transmission = ice.window((0.0, 0.0), (384, 384))
    image = 400 * PhysicalNoise(0.05, exponent=0.5)(transmission, generator)
    physical = fit_noise(measure_real_noise([RealImage(image, GreyScale(400.0, 20.0), ice)], 0.05),
                         [CleanImage(torch.ones(256, 256))], generator)
    assert physical.exponent == pytest.approx(0.5, abs=0.15)
    assert physical.ice == (ice,)


def test_noise_cannot_be_fitted_to_no_image_or_to_small_images(generator):
    with pytest.raises(DataError, match="no real micrographs"):
        measure_real_noise([], 0.05)
    real = measure_real_noise([RealImage(torch.rand(200, 200), GreyScale(1.0, 0.1))], 0.05)
    with pytest.raises(DataError, match="no simulated micrographs"):
        fit_noise(real, [], generator)
    with pytest.raises(DataError, match="needs at least 128"):
        measure_real_noise([RealImage(torch.rand(90, 200), GreyScale(1.0, 0.1))], 0.05)
