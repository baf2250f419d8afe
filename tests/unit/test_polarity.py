# SPDX-License-Identifier: GPL-3.0-or-later
"""Inverted micrographs: they are recognised whatever their grey values are, and inverted if the user asks for it."""
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import read_manifest
from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
from cryogem_scipion.engine.noise.contrast_check import check_contrast_sign
from cryogem_scipion.engine.noise.contrast_sign import measure_contrast_sign
from cryogem_scipion.engine.noise.simulated_set import open_simulated_set
from cryogem_scipion.engine.settings import GenerateSettings, TrainSettings
from cryogem_scipion.engine.stages import generate, train

INVERSIONS = {"mirrored": lambda image: 2 * np.median(image) - image, "negative": lambda image: -image,
              "from the top": lambda image: image.max() + image.min() - image,
              "normalised": lambda image: (image.mean() - image) / image.std()}


def micrographs(world, folder, inversion=None, count=6):
    """Other specimens than the simulation's, with stronger contrast because the fields are small."""
    folder.mkdir()
    random = np.random.default_rng(8)
    for number, path in enumerate((2 * sorted((world / "hidden/micrographs").iterdir()))[:count]):
        clean, _ = read_mrc(path, 2)
        image = (400 * (1 - 1.6 * (1 - clean) + 0.05 * random.normal(size=clean.shape))).astype(np.float32)
        write_mrc(folder / f"mic_{number:06d}.mrc", INVERSIONS[inversion](image) if inversion else image, 6.0)
    return [str(folder / "*.mrc")]


@pytest.mark.parametrize("inversion", INVERSIONS)
def test_inverted_micrographs_are_refused_before_anything_is_written(world, tmp_path, inversion):
    real = micrographs(world, tmp_path / "real", inversion)
    with pytest.raises(DataError, match=r"particles are bright in the real micrographs .* Set real_contrast to bright"):
        train.run(TrainSettings(real=real, simulation=world / "sim", out=tmp_path / "run", steps=1, crop=64))
    with pytest.raises(DataError, match="contrast is inverted"):
        generate.run(GenerateSettings(real=real, simulation=world / "sim", out=tmp_path / "run", noise="spectrum"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_user_chooses_whether_they_are_inverted(world, tmp_path):
    bright, dark = (micrographs(world, tmp_path / f"{name} particles", inversion, 2)
                    for name, inversion in (("bright", "mirrored"), ("dark", None)))
    images = {}
    for choice, patterns in (("auto", dark), ("bright", bright), ("dark", bright)):
        manifest = train.run(TrainSettings(
            real=patterns, simulation=world / "sim", out=tmp_path / choice, steps=1, crop=32, real_contrast=choice,
            generator_width=4, discriminator_width=4, noise="gaussian"))
        assert not any("bright" in warning for warning in manifest.warnings)
        images[choice], _ = read_mrc(tmp_path / choice / "micrographs/mic_000000.mrc", 2)
    # An image that is inverted twice is the same apart from rounding.
    assert np.abs(images["bright"] - images["auto"]).max() < 1e-3 * images["auto"].std()
    assert np.corrcoef(images["dark"].ravel(), images["auto"].ravel())[0, 1] < -0.99


SIZE, DIAMETER = 256, 24.0
"""Pixels of the micrographs and of the particles that the tests below make."""


@dataclass(frozen=True)
class Scene:
    """Simulated micrographs of round particles, and real ones with other particles of the same kind."""

    signals: tuple[Tensor, ...]
    centres: tuple[Tensor, ...]
    deviation: float
    """Of the signal inside the particles."""

    def measure(self, images):
        """The sign of the contrast in images with any grey values."""
        return measure_contrast_sign([flat(image) for image in images], self.signals, self.centres, DIAMETER)


def particles(random, count):
    """Signal of round particles with a bright ring, as defocus makes them, at random places; and their centres."""
    centres = SIZE * torch.rand(count, 2, generator=random)
    squares = ((torch.arange(SIZE) - centres[..., None]) / (DIAMETER / 6)).square()
    disc, ring = (torch.exp(-squares / width).unbind(1) for width in (2, 6))
    return disc[0].T @ disc[1] - 0.3 * ring[0].T @ ring[1], centres


def flat(image):
    """The image in standard deviations, outliers clipped, as the check gives it."""
    return ((image - image.median()) / image.std()).clamp(-6, 6)


def through_detector(image, blur):
    """The image after a detector that loses high frequencies."""
    radius = torch.hypot(fourier.fftfreq(SIZE)[:, None], fourier.rfftfreq(SIZE))
    return fourier.irfft2(fourier.rfft2(image) * torch.exp(-blur * radius), (SIZE, SIZE))


@pytest.fixture(scope="module")
def scene():
    signals, centres = zip(*(particles(torch.Generator().manual_seed(seed), 30) for seed in range(3)), strict=True)
    joined = torch.stack(signals)
    return Scene(signals, centres, float(joined[joined > 0.1].std()))


def counts(scene, seed, snr, dose, sign=-1, micrographs=3, blur=0.0):
    """Counting noise of ``dose`` electrons a pixel on average, with dark (-1) or bright (1) particles."""
    random = torch.Generator().manual_seed(seed)
    contrast = sign * math.sqrt(snr / dose) / scene.deviation
    images = [dose * (1 + contrast * particles(random, 30)[0]) for _ in range(micrographs)]
    return [through_detector(torch.poisson(image.clamp(min=0), generator=random), blur) for image in images]


DOSES, BLURS = (0.5, 1, 5), (0.0, 3.0)


@pytest.mark.parametrize("draws", [3, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("blur", BLURS)
@pytest.mark.parametrize("dose", DOSES)
def test_counting_noise_alone_has_no_sign(scene, dose, blur, inverted, draws):
    """The noise's own skewness is subtracted: the mean over several draws shows none."""
    signs = [scene.measure([(-1) ** inverted * image for image in counts(scene, seed, 0, dose, blur=blur)])
             for seed in range(draws)]
    assert not any(sign.inverted or sign.dark for sign in signs)
    # Four standard errors of the mean.
    assert abs(sum(sign.errors for sign in signs)) / draws < 4 / math.sqrt(draws)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 6])
def test_any_number_of_micrographs_with_counting_noise_has_no_sign(scene, count):
    signs = [scene.measure(counts(scene, seed, 0, 1, micrographs=count)) for seed in range(34)]
    assert not any(sign.inverted or sign.dark for sign in signs)


@pytest.mark.parametrize(("snr", "dose"), [(0.003, 1), (0.003, 20), (0.01, 1), (0.01, 20), (0.03, 5), (0.03, 50),
                                           (0.1, 20), (0.1, 100), (0.3, 50), (0.3, 200)])
def test_no_sign_is_wrong_and_a_strong_one_is_recognised(scene, snr, dose):
    """The doses are so high that particles let some electrons pass."""
    dark, bright, inverted = (scene.measure(images) for images in (
        counts(scene, 0, snr, dose), counts(scene, 0, snr, dose, sign=1),
        [-image for image in counts(scene, 1, snr, dose)]))
    assert not dark.inverted
    assert not bright.dark
    assert not inverted.dark
    if snr >= 0.1:
        assert dark.dark
        assert bright.inverted
        assert inverted.inverted


@pytest.mark.parametrize("sign", [-1, 1])
def test_one_micrograph_tells_its_sign(scene, sign):
    measured = scene.measure(counts(scene, 5, 0.3, 50, sign, micrographs=1))
    assert (measured.dark, measured.inverted) == (sign < 0, sign > 0)


def test_hot_pixels_and_dust_do_not_count_as_bright_particles(scene):
    images = counts(scene, 1, 0.3, 50)
    for image in images:
        image.view(-1)[::997] += 300
        image[100:112, 40:52] = 0  # dust
    assert scene.measure(images).dark


def test_a_minority_of_unusual_micrographs_does_not_decide(scene):
    images = counts(scene, 2, 0, 50, micrographs=4)
    unusual = counts(scene, 3, 1.0, 50, sign=1, micrographs=2)
    sign = scene.measure([*images, *unusual])
    assert sign.errors > 4
    assert sign.measured > 0.1
    assert not sign.inverted


def test_scale_and_offset_do_not_matter(scene):
    images = counts(scene, 4, 0.1, 20)
    sign, other = scene.measure(images), scene.measure([1e4 + 37.5 * image for image in images])
    # float32 keeps about four digits of the noise on this offset.
    assert other.measured == pytest.approx(sign.measured, rel=1e-2)


def test_the_run_says_that_the_sign_cannot_be_told_and_goes_on_with_dark(world, tmp_path, monkeypatch):
    """Also with a relative path of the simulation."""
    monkeypatch.chdir(world)
    random = np.random.default_rng(1)
    for number in range(3):
        write_mrc(tmp_path / f"{number}.mrc", random.poisson(5, (192, 224)).astype(np.float32), 6.0)
    manifest = generate.run(GenerateSettings(real=[str(tmp_path / "*.mrc")], simulation=Path("sim"), snr=0.1,
                                             out=tmp_path / "gen", noise="gaussian", micrographs=1))
    assert any("do not tell whether particles are dark or bright" in warning and "Dark particles are assumed" in warning
               for warning in manifest.warnings)


def test_an_image_with_hardly_any_counts_has_no_sign(world, tmp_path):
    """More than 84 % of its pixels are 0, so its robust deviation is 0."""
    write_mrc(tmp_path / "real.mrc", np.random.default_rng(2).poisson(0.05, (192, 224)).astype(np.float32), 6.0)
    settings = GenerateSettings(real=[str(tmp_path / "real.mrc")], simulation=world / "sim", out=tmp_path / "gen",
                                noise="gaussian")
    (warning,) = check_contrast_sign(settings, open_simulated_set(world / "sim"), [tmp_path / "real.mrc"])
    assert "do not tell" in warning
    assert "nan" not in warning


def test_the_sample_micrograph_is_dark(world, tmp_path):
    sample = Path(train.__file__).parents[2] / "data/krios_micrograph_3.4A.mrc"
    manifest = generate.run(GenerateSettings(real=[str(sample)], simulation=world / "sim", out=tmp_path / "gen",
                                             noise="gaussian", micrographs=1))
    assert not any("may be bright" in warning for warning in manifest.warnings)
    assert read_manifest(tmp_path / "gen").figures["background_deviation"] > 0
