# SPDX-License-Identifier: GPL-3.0-or-later
from pathlib import Path

import numpy as np
import pytest
import torch

import cryogem_scipion
from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.noise.ice_map import background_deviation, ice_map, upsample_ice

COUNTS, NOISE = 500.0, 0.05


def coordinates(shape):
    """Positions (y, x) from 0 to 1."""
    return np.meshgrid(*((np.arange(size) + 0.5) / size for size in shape), indexing="ij")


def micrograph(transmission, seed=0):
    noise = NOISE * np.random.default_rng(seed).normal(size=transmission.shape)
    return (COUNTS * (transmission + noise)).astype(np.float32)


def measured(image):
    image = torch.from_numpy(image)
    return upsample_ice(ice_map(image), tuple(image.shape)).numpy()


def with_particles(transmission, count=90, radius=25, depth=0.04, seed=1):
    rng = np.random.default_rng(seed)
    out = transmission.copy()
    y, x = np.ogrid[: out.shape[0], : out.shape[1]]
    for cy, cx in rng.uniform(0, 1, (count, 2)) * out.shape:
        box = tuple(slice(max(int(c) - radius, 0), int(c) + radius + 2) for c in (cy, cx))
        squares = (y[box[0]] - cy) ** 2 + (x[:, box[1]] - cx) ** 2
        out[box] *= 1 - depth * np.sqrt(np.clip(1 - squares / radius**2, 0, 1))
    return out


@pytest.mark.parametrize("shape", [(768, 768), (640, 901), (1024, 333)])
def test_flat_ice_within_one_percent(shape):
    # the demand; the noise of a spline is about 0.1 %
    assert np.abs(measured(micrograph(np.ones(shape))) - 1).max() < 0.01


@pytest.mark.parametrize("slope", [0.05, 0.20, -0.20])
@pytest.mark.parametrize("direction", [(1, 0), (0, 1), (0.5, 0.5)])
def test_gradients_within_one_point(slope, direction):
    y, x = coordinates((768, 800))
    truth = 1 + slope * (direction[0] * (y - 0.5) + direction[1] * (x - 0.5))
    image = micrograph(with_particles(truth))
    # the demand: one point everywhere, the border included
    assert np.abs(measured(image) - truth).max() < 0.01


def test_smooth_hills_and_valleys_are_followed():
    y, x = coordinates((1024, 1024))
    truth = 1 + 0.1 * np.exp(-((y - 0.6) ** 2 + (x - 0.4) ** 2) / (2 * 0.09**2))
    truth -= 0.1 * np.exp(-((y - 0.2) ** 2 + (x - 0.8) ** 2) / (2 * 0.09**2))
    # 1 point of a hill of 10, which is no wider than two splines a side
    assert np.abs(measured(micrograph(with_particles(truth))) - truth / np.median(truth)).max() < 0.01


def disturbances():
    """Name, true transmission, disturbed transmission, and the mask in which the ice map is compared."""
    shape = (900, 1024)
    y, x = coordinates(shape)
    truth = 1 + 0.1 * (x - 0.5)
    everywhere = np.ones(shape, bool)
    hot = truth.copy()
    rng = np.random.default_rng(2)
    hot[rng.integers(0, shape[0], 400), rng.integers(0, shape[1], 400)] *= 6
    yield "hot pixels", truth, hot, everywhere
    yield "particles", truth, with_particles(truth), everywhere
    spot = np.hypot(900 * (y - 0.3), 1024 * (x - 0.6)) < 45
    yield "contaminant", truth, np.where(spot, 0.6, 1) * truth, everywhere
    for strength in (0.6, 0.85):
        carbon = 0.7 * y + 0.5 * x > 0.85
        yield f"carbon {strength}", truth, np.where(carbon, strength, 1) * truth, ~carbon
    both = np.where(carbon, 0.6, 1) * np.where(spot, 0.5, 1) * with_particles(truth)
    yield "all", truth, both, ~carbon


@pytest.mark.parametrize("case", list(disturbances()), ids=lambda case: case[0])
def test_disturbances_do_not_change_the_ice_map(case):
    _, truth, image, mask = case
    undisturbed, disturbed = measured(micrograph(truth)), measured(micrograph(image))
    # a tenth of the contrast of the disturbances: particles 4 %, carbon 15 to 40 %, hot pixels 500 %
    assert np.abs(disturbed - undisturbed)[mask].max() < 0.005
    assert np.abs(disturbed - truth)[mask].max() < 0.01


def test_brightness_does_not_matter_and_the_argument_stays():
    image = torch.from_numpy(micrograph(np.ones((256, 300))))
    before = image.clone()
    grid = ice_map(image)
    assert torch.equal(image, before)
    assert grid.dtype == image.dtype
    # float32 grey values
    torch.testing.assert_close(ice_map(0.01 * image), grid, atol=1e-5, rtol=0)
    assert float(grid.median()) == pytest.approx(1, abs=1e-3)  # torch takes the lower of the two middle values


def test_micrographs_without_noise():
    assert np.allclose(measured(np.full((100, 100), 7.0, np.float32)), 1)
    y, _ = coordinates((200, 300))
    ramp = (1 + 0.2 * (y - 0.5)).astype(np.float32)
    np.testing.assert_allclose(measured(ramp), ramp, atol=1e-4)  # float32, and the weak ridge of the fit


@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (50, 33)])
def test_small_images_give_small_grids(shape):
    grid = ice_map(torch.from_numpy(micrograph(np.ones(shape))))
    assert min(grid.shape) >= 2
    assert bool(torch.isfinite(grid).all())


def test_scale_sets_the_grid():
    image = torch.from_numpy(micrograph(np.ones((400, 800))))
    assert ice_map(image, scale=1 / 8).shape == (16, 32)
    assert min(ice_map(image, scale=1 / 16).shape) > 16


@pytest.mark.parametrize("shape", [(97, 120), (8, 300), (1, 1)])
def test_upsampling_keeps_even_slopes(shape):
    y, x = coordinates((12, 20))
    grid = torch.from_numpy(1 + 0.2 * (y - 0.5) - 0.1 * (x - 0.5))
    fine_y, fine_x = coordinates(shape)
    expected = 1 + 0.2 * (fine_y - 0.5) - 0.1 * (fine_x - 0.5)
    np.testing.assert_allclose(upsample_ice(grid, shape).numpy(), expected, atol=1e-12)  # float64 rounding


def test_upsampling_meets_the_cells():
    grid = torch.rand(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fine = upsample_ice(grid, (5 * 3, 7 * 3))
    torch.testing.assert_close(fine[1::3, 1::3], grid, atol=1e-12, rtol=0)  # float64 rounding


@pytest.mark.parametrize("sigma", [0.03, 0.06])
@pytest.mark.parametrize("disturb", [False, True])
def test_background_deviation(sigma, disturb):
    y, _ = coordinates((800, 800))
    truth = 1 + 0.1 * (y - 0.5)
    image = with_particles(truth, count=60) if disturb else truth
    if disturb:
        image = np.where(y > 0.8, 0.6, 1) * image
    image = image + sigma * np.random.default_rng(4).normal(size=image.shape)
    if disturb:
        image[::50, ::50] *= 5
    image = torch.from_numpy((COUNTS * image).astype(np.float32))
    deviation = background_deviation(image, ice_map(image))
    # 640000 pixels have an error of 0.1 %. Particles in background bins may add 4 % · 4 % / 2 σ² of their few pixels.
    assert deviation == pytest.approx(sigma, rel=0.03 if disturb else 0.005)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.ones(10, 100), "needs at least 16 on each side"),
        (torch.full((20, 20), float("nan")), "not finite"),
        (torch.zeros(20, 20), "the median of the micrograph is 0, so its ice map"),
        (-torch.ones(20, 20), "the median of the micrograph is -1, so its ice map"),
    ],
)
def test_unusable_micrographs(image, message):
    with pytest.raises(DataError, match=message):
        ice_map(image)
    with pytest.raises(DataError, match=message):
        background_deviation(image, torch.ones(2, 2))


def test_refusals():
    with pytest.raises(SettingsError, match="scale of the ice map is 0"):
        ice_map(torch.ones(20, 20), scale=0.0)
    with pytest.raises(SettingsError, match=r"ice map is \(1, 5\) cells"):
        upsample_ice(torch.ones(1, 5), (10, 10))


@pytest.fixture(scope="module")
def krios():
    """The real micrograph in the package."""
    path = Path(cryogem_scipion.__file__).parent / "data/krios_micrograph_3.4A.mrc"
    return torch.tensor(read_mrc(path, 2)[0]).float()


def block_means(image, edge=64):
    return torch.nn.functional.avg_pool2d(image[None, None], edge)[0, 0]


def test_ice_of_a_real_micrograph_is_thin_and_smooth(krios):
    grid = ice_map(krios)
    # A flat stretch of ice without carbon: a few per cent, and never a jump from one cell to the next (30 pixels).
    assert 0.9 < float(grid.min()) < 0.99 < 1.01 < float(grid.max()) < 1.1
    assert max(float(grid.diff(dim=axis).abs().max()) for axis in (0, 1)) < 0.006  # measured 0.003


def test_ice_of_a_real_micrograph_accounts_for_its_slow_changes(krios):
    ice = upsample_ice(ice_map(krios), tuple(krios.shape))
    before, after = (float(block_means(image).std() / block_means(image).mean()) for image in (krios, krios / ice))
    # Measured 1.23 % and 0.13 %. White noise alone would leave the pixels' 4.6 % / 64 = 0.07 %; the rest is its colour.
    assert before > 0.01
    assert after < 0.0025


def test_both_halves_of_a_real_micrograph_have_the_same_ice(krios):
    # The same ice under independent noise: pixels of even and of odd rows.
    rows = [krios[start::2] for start in (0, 1)]
    even, odd = (upsample_ice(ice_map(half), tuple(half.shape)) for half in rows)
    # Measured 0.10 %, a thirtieth of the map's range; 0.63 % at most, in a corner.
    assert float((even - odd).square().mean().sqrt()) < 0.003
    assert float((even - odd).abs().max()) < 0.01
    # The left and the right half by themselves follow the map of the whole, as far as their own medians.
    whole = upsample_ice(ice_map(krios), tuple(krios.shape))
    for part in (slice(0, 463), slice(463, 926)):
        alone = upsample_ice(ice_map(krios[:, part]), (krios.shape[0], 463))
        expected = whole[:, part] / whole[:, part].median()
        assert float((alone / alone.median() - expected).square().mean().sqrt()) < 0.003  # measured 0.0007
