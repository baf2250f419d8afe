# SPDX-License-Identifier: GPL-3.0-or-later
"""Inverted micrographs: they are recognised whatever their grey values are, and inverted if the user asks for it."""
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import read_manifest
from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
from cryogem_scipion.engine.noise.contrast_sign import measure_contrast_sign
from cryogem_scipion.engine.noise.spectrum import ColouredNoise
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


@pytest.fixture
def scene():
    """Two functions: micrographs with clumps of five blobs, dark (-1), bright (1) or none (0); and their contrast sign.
    """
    random = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    radius = torch.hypot(torch.fft.fftfreq(128)[:, None], torch.fft.rfftfreq(128))
    noise = ColouredNoise(torch.exp(-4 * radius))
    noise = ColouredNoise(noise.power / noise.variance)

    def signal():
        blobs = (256 * torch.rand(14, 1, 2, generator=random) + 6 * torch.randn(14, 5, 2, generator=random)).view(-1, 2)
        return sum(torch.exp(-((y - by) ** 2 + (x - bx) ** 2) / 12) for by, bx in blobs.tolist())

    signals = [signal() for _ in range(4)]
    deviation = float(torch.cat([s[s > 0.1] for s in signals]).std())

    def simulate(sign, count=4, snr=0.5):
        return [noise.draw((256, 256), random) + sign * math.sqrt(snr) / deviation * signal() for _ in range(count)]

    def measure(flats):
        return measure_contrast_sign(flats, signals, deviation, 24.0, torch.Generator().manual_seed(1))
    return simulate, measure


def test_dark_and_bright_discs_are_told_apart(scene):
    simulate, measure = scene
    dark, bright = measure(simulate(-1)), measure(simulate(1))
    assert not dark.doubtful
    assert bright.inverted
    assert dark.measured < -3 * dark.error
    single = measure(simulate(1, count=1))
    assert single.inverted or single.doubtful


@pytest.mark.parametrize("seed", range(4))
def test_noise_without_particles_is_never_called_inverted(scene, seed):
    simulate, measure = scene
    for _ in range(seed):
        simulate(0)
    assert not measure(simulate(0)).inverted


def test_hot_pixels_and_dust_do_not_count_as_bright_particles(scene):
    simulate, measure = scene
    flats = simulate(-1)
    for flat in flats:
        flat.view(-1)[::997] = 6.0  # the value at which outliers are clipped
        flat[100:112, 40:52] -= 6.0  # dust
    assert not measure([flat.clamp(-6, 6) for flat in flats]).doubtful


def test_the_sample_micrograph_is_dark(world, tmp_path):
    sample = Path(train.__file__).parents[2] / "data/krios_micrograph_3.4A.mrc"
    manifest = generate.run(GenerateSettings(real=[str(sample)], simulation=world / "sim", out=tmp_path / "gen",
                                             noise="gaussian", micrographs=1))
    assert not any("bright" in warning for warning in manifest.warnings)
    assert read_manifest(tmp_path / "gen").figures["background_deviation"] > 0
