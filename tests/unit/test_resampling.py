# SPDX-License-Identifier: GPL-3.0-or-later
"""Fourier cropping, and the image size that fits a working pixel size."""
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryogem_scipion.engine.compute.resampling import fourier_crop, working_shape
from cryogem_scipion.engine.errors import DataError, SettingsError


def wave(shape):
    """Return a sum of waves with at most three periods along the image, sampled on a grid of this shape."""
    y, x = torch.arange(shape[0]).double()[:, None] / shape[0], torch.arange(shape[1]).double() / shape[1]
    return (1.5 + torch.cos(2 * math.pi * (2 * y + x) + 0.4) + 0.3 * torch.sin(2 * math.pi * (2 * x - y))
            + 0.2 * torch.cos(2 * math.pi * 3 * x + 1))


@pytest.mark.parametrize("before", [(40, 41), (33, 24), (16, 15)])
@pytest.mark.parametrize("after", [(8, 9), (9, 10), (40, 41), (51, 64), (13, 40)])
def test_waves_are_resampled_exactly(before, after):
    image = wave(before)
    original = image.clone()
    # The waves are below Nyquist on both grids, so only rounding differs.
    torch.testing.assert_close(fourier_crop(image, after), wave(after), rtol=0, atol=1e-12)
    assert torch.equal(image, original)


def test_batch_dtype_and_mean_stay_the_same(generator):
    images = torch.rand(2, 3, 20, 31, generator=generator)
    resampled = fourier_crop(images, (9, 12))
    assert resampled.shape == (2, 3, 9, 12)
    assert resampled.dtype == torch.float32
    torch.testing.assert_close(resampled.mean((-1, -2)), images.mean((-1, -2)))
    assert torch.equal(fourier_crop(images, (20, 31)), images)


def test_frequencies_above_the_new_nyquist_are_removed():
    x = torch.arange(60).double()
    image = torch.cos(2 * math.pi * 20 * x / 60).expand(60, 60)
    assert fourier_crop(image, (60, 30)).abs().max() < 1e-12


def test_white_noise_stays_white(generator):
    noise = torch.randn(400, 64, 64, generator=generator)
    power = torch.fft.fft2(fourier_crop(noise, (32, 32))).abs().square().mean(0)
    level = power[1:15, 1:15].mean()
    # A quarter of the pixels has a quarter of the power each. From 400 images each value is known to 5 %.
    assert float(level) == pytest.approx(32 * 32 / 4, rel=0.02)
    assert power[16].mean() < level
    assert power[:, 16].mean() < level


def test_a_size_below_one_pixel_is_refused():
    with pytest.raises(SettingsError, match=r"cannot resample to the size \(0, 4\); give sizes of at least 1 pixel"):
        fourier_crop(torch.zeros(8, 8), (0, 4))


@given(st.tuples(st.integers(200, 6000), st.integers(200, 6000)), st.floats(0.3, 3.0), st.floats(1.01, 8.0))
def test_the_working_pixel_size_is_exact_and_equal_along_both_axes(shape, pixel_size, ratio):
    working = working_shape(shape, pixel_size, pixel_size * ratio)
    tolerance = 1e-3 if min(shape) >= 500 else 5e-3  # a short axis may have no better size
    for length, cropped, resampled in zip(shape, working.crop, working.shape, strict=True):
        assert length / 2 < cropped <= length
        assert abs(pixel_size * cropped / resampled / working.pixel_size - 1) <= tolerance
    assert abs(working.pixel_size / (pixel_size * ratio) - 1) <= tolerance


def test_large_micrographs_lose_no_pixel():
    working = working_shape((3838, 3710), 0.854, 5.0)
    assert working.crop == (3838, 3710)
    assert working.shape == (656, 634)
    assert working.pixel_size == pytest.approx(5.0, rel=1e-3)


def test_a_micrograph_at_the_working_pixel_size_is_not_changed():
    assert working_shape((1000, 900), 5.0, 5.003) == ((1000, 900), 5.0, (1000, 900))
    assert working_shape((1000, 900), 5.003, 5.0) == ((1000, 900), 5.003, (1000, 900))


@pytest.mark.parametrize(("arguments", "message"), [
    (((100, 100), 6.0, 5.0), "pixel size is 6 Å, "
     "coarser than the working pixel size 5 Å; use micrographs with a smaller pixel size"),
    (((100, 100), 0.0, 5.0), "pixel sizes must be above 0; found 0 and 5 Å; set the pixel size"),
    (((2, 2), 1.0, 7.3), r"an axis of 2 pixels cannot be made 7.3 times coarser \(no whole size fits\); use larger")])
def test_unusable_sizes_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        working_shape(*arguments)
