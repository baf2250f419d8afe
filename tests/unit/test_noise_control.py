# SPDX-License-Identifier: GPL-3.0-or-later
"""The control of assign-poses: confidences of particles against those of images with random phases."""
import numpy as np
import pandas as pd
import pytest
import torch

from cryogem_scipion.engine.io.dataset import read_manifest, write_table
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.pose_estimation import evaluation, training
from cryogem_scipion.engine.pose_estimation.noise_control import FEWEST, MOST, RandomPhases, noise_control
from cryogem_scipion.engine.pose_estimation.particle_images import read_particles
from cryogem_scipion.engine.settings import (
    AssignPosesSettings,
    GenerateSettings,
    PhantomSettings,
    SimulateSettings,
    TrainPosesSettings,
)
from cryogem_scipion.engine.stages import assign_poses, generate, phantom, simulate, train_poses


def write_particles(folder, images, pixel_size):
    """A stack of images and its STAR file, without CTFs."""
    write_mrc(folder / "stack.mrcs", images, pixel_size, stack=True)
    optics = pd.DataFrame([{"rlnOpticsGroup": 1, "rlnOpticsGroupName": "one", "rlnImagePixelSize": pixel_size}])
    rows = pd.DataFrame([{"rlnImageName": f"{number:06d}@stack.mrcs", "rlnOpticsGroup": 1}
                         for number in range(1, len(images) + 1)])
    write_table(folder / "particles.star", "particles", optics, rows)
    return folder / "particles.star"


@pytest.fixture
def particles(tmp_path):
    random = np.random.default_rng(3)
    disc = np.hypot(*(np.mgrid[:48, :48] - 24)) < 12
    images = (2.0 * disc + random.normal(0, 1, (250, 48, 48))).astype(np.float32)
    return read_particles(write_particles(tmp_path, images, 4.0), None)


def test_random_phases_keep_the_power_and_nothing_else(particles):
    rows = [0, 7, 249]
    noise = RandomPhases(**vars(particles))
    own, other = particles.images(rows, True), noise.images(rows, True)
    inner = (slice(None), slice(None), slice(1, -1))  # values on the edge of the half plane belong to a real image
    powers = [torch.fft.rfft2(images).abs()[inner] for images in (own, other)]
    torch.testing.assert_close(*powers, rtol=1e-3, atol=1e-2)
    centred = [(images - images.mean((1, 2), keepdim=True)).flatten(1) for images in (own, other)]
    correlation = torch.nn.functional.cosine_similarity(*centred)
    assert correlation.abs().max() < 0.3  # few coefficients have most of the disc's power
    # The phases of a particle do not depend on which others are read, nor on the contrast.
    assert torch.equal(noise.images([7], True)[0], other[1])
    assert torch.equal(noise.images([7], False)[0], other[1])


@pytest.mark.parametrize(("level", "warns"), [(0.3, False), (0.49, True), (0.6, True)])
def test_particles_have_to_be_more_confident_than_noise(level, warns, particles):
    confidence = torch.full((250,), 0.5) + 0.2 * torch.rand(250, generator=torch.Generator().manual_seed(1)) - 0.1
    asked = []

    def find(some, rows):
        asked.extend(rows)
        assert isinstance(some, RandomPhases)
        return torch.full((len(rows),), level)

    control = noise_control(particles, confidence, find)
    assert asked == list(range(0, 250, 3))
    assert len(asked) <= MOST
    assert control.of_noise == pytest.approx(level)
    assert control.of_particles == pytest.approx(0.5, abs=0.02)
    assert control.error == pytest.approx(0.2 / 12**0.5 / 84**0.5, rel=0.15)
    assert bool(control.warning) == warns
    if warns:
        assert "not clearly more confident (0.50 ± 0.01) than images with random phases" in control.warning


def test_a_few_particles_are_not_compared(tmp_path):
    images = np.random.default_rng(0).normal(0, 1, (FEWEST - 1, 16, 16)).astype(np.float32)
    few = read_particles(write_particles(tmp_path, images, 4.0), None)
    assert noise_control(few, torch.ones(FEWEST - 1), lambda _, rows: torch.ones(len(rows))) is None


@pytest.mark.slow
def test_noise_is_told_from_particles(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "VALIDATED", 2)
    monkeypatch.setattr(evaluation, "MOST", 40)
    phantom.run(PhantomSettings(out=tmp_path / "map", box=32, pixel_size=6, diameter_angstrom=130))
    simulate.run(SimulateSettings(out=tmp_path / "sim", volume=(tmp_path / "map/phantom.mrc",), micrographs=2,
                                  micrograph_size=(224, 224), particles_mean=14, particles_sigma=0, snr=0.6))
    generate.run(GenerateSettings(out=tmp_path / "gen", simulation=tmp_path / "sim", noise="gaussian", micrographs=8,
                                  extract=True))
    train_poses.run(TrainPosesSettings(particles=tmp_path / "gen", out=tmp_path / "model", steps=40, batch=64,
                                       validate_every=20))

    def assigned(particles, name):
        assign_poses.run(AssignPosesSettings(model=tmp_path / "model/model.safetensors", particles=particles,
                                             out=tmp_path / name))
        return read_manifest(tmp_path / name)

    good = assigned(tmp_path / "gen", "good")
    assert good.figures["confidence_of_noise"] < good.figures["mean_confidence"] - 0.1
    assert not any("random phases" in warning for warning in good.warnings)
    shape = (good.particles, good.box_size, good.box_size)
    noise = np.random.default_rng(5).normal(0, 1, shape).astype(np.float32)
    nothing = assigned(write_particles(tmp_path, noise, 6.0), "nothing")
    assert any("random phases" in warning for warning in nothing.warnings)
