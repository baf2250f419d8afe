# SPDX-License-Identifier: GPL-3.0-or-later
"""The validation metric of a training, its features, and the TensorBoard files."""
import numpy as np
import pytest
import torch

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.models import PhysicalNoise
from cryogem_scipion.engine.noise.spectrum import ColouredNoise
from cryogem_scipion.engine.realism.features.random_filters import random_filter_features
from cryogem_scipion.engine.realism.frechet import frechet_distance
from cryogem_scipion.engine.translator import validation_critic
from cryogem_scipion.engine.translator.crops import RealImages, SimulatedImages
from cryogem_scipion.engine.translator.networks import build_generator
from cryogem_scipion.engine.translator.residual_networks import ResidualGenerator
from cryogem_scipion.engine.translator.tensorboard import TENSORBOARD, TensorBoardWriter
from cryogem_scipion.engine.translator.validation import HeldOutSet, prepare_validation_metric
from cryogem_scipion.engine.translator.validation_critic import prepare_validation_critic


def coloured(fall, shape, generator):
    """Noise of variance 1 whose power falls with frequency."""
    n = 128
    radius = torch.hypot(torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(n))
    power = ColouredNoise(torch.exp(-fall * radius))
    return power.draw(shape, generator) / power.variance**0.5


class Blur(ResidualGenerator):
    """Replacement for a trained generator: it filters white noise with a kernel of three pixels."""

    latent_channels = 0

    def __init__(self, weight):
        super().__init__(width=1)
        self.weight = weight

    def forward(self, image, latent=None):
        neighbours = image.roll(1, -1) + image.roll(-1, -1) + image.roll(1, -2) + image.roll(-1, -2)
        return image + self.weight * neighbours, []


def test_the_metric_falls_to_1_as_the_generator_approaches_the_real_images(generator, monkeypatch):
    """Real images are filtered white noise; a generator with the same filter has a metric near 1."""
    for name, value in (("MAX_CROPS", 6), ("HELD_OUT_FACTOR", 2), ("FLOOR_DRAWS", 3)):  # fewer crops take less time
        monkeypatch.setattr(f"cryogem_scipion.engine.translator.validation.{name}", value)
    def real(count):
        images = [Blur(0.3)(torch.randn(1, 1, 256, 272, generator=generator))[0][0, 0] for _ in range(count)]
        return RealImages([(500 + 25 * image).numpy() for image in images], [500.0] * count, [25.0] * count)
    clean = np.ones((256, 256), np.float32)
    held_out, training_set = real(2), real(4)

    def build():
        return prepare_validation_metric(
            Blur(0.0), HeldOutSet(held_out, PhysicalNoise(0.05)), training_set,
            SimulatedImages([clean], [clean]), PhysicalNoise(0.05), torch.Generator().manual_seed(1))
    metric = build()
    results = {weight: metric(Blur(weight)) for weight in (0.0, 0.15, 0.3)}
    values = [result["realism"] for result in results.values()]
    assert values[0] > values[1] > values[2]
    assert 0.7 < values[2] < 1.6  # as near as other real images, within chance
    assert values[0] > 2.5
    assert results[0.15] == build()(Blur(0.15))
    assert set(results[0.0]) == {"realism", "spectrum", "histogram", "local", "frechet", "auc", "auc_pixels",
                                 "auc_textures"}


@pytest.mark.slow
def test_the_critic_tells_other_noise_apart_and_its_own_noise_not(generator):
    """Each set of images learns against white noise and is judged against other white noise."""
    def images(fall, count=4):
        return [coloured(fall, (128, 128), generator) for _ in range(count)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation_critic, "CRITIC_STEPS", {"pixels": 40, "textures": 20})
        patch.setattr(validation_critic, "JUDGED_SQUARES", 128)
        critic = prepare_validation_critic(images(0), images(0), 1)
        same, near, far = (critic(images(fall), images(fall), torch.device("cpu"), "float32") for fall in (0, 0.5, 4))
        again = critic([image.clone() for image in critic.real_training], list(critic.real_judged),
                       torch.device("cpu"), "float32")
    assert 0.5 <= same["auc"] < 0.65  # 128 squares: chance gives 0.5 with a deviation of 0.04
    assert same["auc"] < far["auc"]
    assert near["auc"] <= far["auc"]
    assert far["auc_pixels"] > 0.9
    assert far["auc_textures"] > 0.9
    assert again["auc"] < 0.65


def test_small_crops_have_no_scale_of_textures(generator):
    crops = [torch.randn(80, 80, generator=generator) for _ in range(3)]
    values = prepare_validation_critic(crops, crops, 1)(crops, crops, torch.device("cpu"), "float32")
    assert np.isnan(values["auc_textures"])
    assert values["auc"] == max(values["auc_pixels"], 0.5)


def test_there_is_no_metric_if_images_are_too_small(generator, caplog):
    tiny = RealImages([np.ones((50, 90), np.float32)], [1.0], [1.0])
    simulated = SimulatedImages([np.ones((99, 99), np.float32)], [np.ones((99, 99), np.float32)])
    network = build_generator({"name": "residual", "width": 4})
    held_out = HeldOutSet(tiny, PhysicalNoise(0.05))
    assert prepare_validation_metric(network, held_out, tiny, simulated, PhysicalNoise(0.05), generator) is None
    assert "too small for the validation metric" in caplog.text


def test_random_filter_features_distinguish_noises_and_not_grey_levels(generator):
    sets = [torch.cat([random_filter_features(coloured(fall, (256, 256), generator)) for _ in range(12)])
            for fall in (4, 4, 6)]
    same, other = frechet_distance(sets[0], sets[1]), frechet_distance(sets[0], sets[2])
    assert other > 3 * same
    image = coloured(4, (130, 200), generator)
    assert random_filter_features(image).shape == (2 * 3, 2 * (8 + 12 + 16))
    assert torch.allclose(random_filter_features(image), random_filter_features(image + 7), atol=1e-3)
    with pytest.raises(DataError, match="63 x 90 pixels"):
        random_filter_features(torch.randn(63, 90))


def test_tensorboard_reads_the_events(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # A session that is killed after step 4, and a session that continues after step 2.
    for first, last, scale in ((0, 4, 1.0), (2, 300, 10.0)):
        with TensorBoardWriter(tmp_path / TENSORBOARD, first) as writer:
            for step in range(first + 1, last + 1):
                writer.add(step, {"adversarial": scale * step, "realism/spectrum": -0.5})
    events = accumulator.EventAccumulator(str(tmp_path / TENSORBOARD), size_guidance={"scalars": 0})
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"adversarial", "realism/spectrum"}
    values = {event.step: event.value for event in events.Scalars("adversarial")}
    assert values == {1: 1.0, 2: 2.0, **{step: 10.0 * step for step in range(3, 301)}}
