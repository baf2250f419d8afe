# SPDX-License-Identifier: GPL-3.0-or-later
"""The judge of a training, its features, and what TensorBoard reads of it."""
import numpy as np
import pytest
import torch

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.models import PhysicalNoise
from cryogem_scipion.engine.noise.spectrum import ColouredNoise
from cryogem_scipion.engine.realism.features.random_filters import random_filter_features
from cryogem_scipion.engine.realism.frechet import frechet_distance
from cryogem_scipion.engine.translator.crops import RealMicrographs, SimulatedMicrographs
from cryogem_scipion.engine.translator.networks import generator as named_generator
from cryogem_scipion.engine.translator.residual_networks import ResidualGenerator
from cryogem_scipion.engine.translator.tensorboard import FOLDER, TensorBoardWriter
from cryogem_scipion.engine.translator.validation import HeldOutSet, judge


def coloured(fall, shape, generator):
    """Noise of variance one whose power falls with frequency."""
    n = 128
    radius = torch.hypot(torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(n))
    power = ColouredNoise(torch.exp(-fall * radius))
    return power.draw(shape, generator) / power.variance**0.5


class Blur(ResidualGenerator):
    """Stands for a trained generator: makes white noise coloured, by a filter of three pixels."""

    latent_channels = 0

    def __init__(self, weight):
        super().__init__(width=1)
        self.weight = weight

    def forward(self, image, latent=None):
        around = image.roll(1, -1) + image.roll(-1, -1) + image.roll(1, -2) + image.roll(-1, -2)
        return image + self.weight * around, []


def test_the_judge_prefers_what_is_nearer_and_calls_equal_one(generator, monkeypatch):
    """Real images are white noise through a known filter: the nearer the filter, the better, and that filter is 1."""
    for name, value in (("MOST", 6), ("MORE", 2), ("DRAWS", 3)):  # fewer fields take less time
        monkeypatch.setattr(f"cryogem_scipion.engine.translator.validation.{name}", value)
    def real(count):
        images = [Blur(0.3)(torch.randn(1, 1, 256, 272, generator=generator))[0][0, 0] for _ in range(count)]
        return RealMicrographs([(500 + 25 * image).numpy() for image in images], [500.0] * count, [25.0] * count)
    clean = np.ones((256, 256), np.float32)
    real_held, real_seen = real(2), real(4)

    def build():
        return judge(Blur(0.0), HeldOutSet(real_held, PhysicalNoise(0.05)), real_seen, SimulatedMicrographs([clean], [clean]),
                     torch.Generator().manual_seed(1))
    judging = build()
    found = {weight: judging(Blur(weight)) for weight in (0.0, 0.15, 0.3)}
    values = [one["realism"] for one in found.values()]
    assert values[0] > values[1] > values[2]
    assert 0.7 < values[2] < 1.6  # as near as other real ones are, chance apart
    assert values[0] > 2.5
    assert found[0.15] == build()(Blur(0.15))
    assert set(found[0.0]) == {"realism", "spectrum", "histogram", "local", "frechet"}


def test_nothing_is_judged_where_images_are_too_small(generator, caplog):
    tiny = RealMicrographs([np.ones((50, 90), np.float32)], [1.0], [1.0])
    simulated = SimulatedMicrographs([np.ones((99, 99), np.float32)], [np.ones((99, 99), np.float32)])
    network = named_generator({"name": "residual", "width": 4})
    assert judge(network, HeldOutSet(tiny, PhysicalNoise(0.05)), tiny, simulated, generator) is None
    assert "too small to judge" in caplog.text


def test_textures_tell_noises_apart_and_not_grey_levels(generator):
    sets = [torch.cat([random_filter_features(coloured(fall, (256, 256), generator)) for _ in range(12)]) for fall in (4, 4, 6)]
    same, other = frechet_distance(sets[0], sets[1]), frechet_distance(sets[0], sets[2])
    assert other > 3 * same
    image = coloured(4, (130, 200), generator)
    assert random_filter_features(image).shape == (2 * 3, 2 * (8 + 12 + 16))
    assert torch.allclose(random_filter_features(image), random_filter_features(image + 7), atol=1e-3)
    with pytest.raises(DataError, match="63 x 90 pixels"):
        random_filter_features(torch.randn(63, 90))


def test_tensorboard_reads_the_events(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # A session that is killed after step 4, and one that goes on after step 2.
    for first, last, scale in ((0, 4, 1.0), (2, 300, 10.0)):
        with TensorBoardWriter(tmp_path / FOLDER, first) as events:
            for step in range(first + 1, last + 1):
                events.add(step, {"adversarial": scale * step, "realism/spectrum": -0.5})
    found = accumulator.EventAccumulator(str(tmp_path / FOLDER), size_guidance={"scalars": 0})
    found.Reload()
    assert set(found.Tags()["scalars"]) == {"adversarial", "realism/spectrum"}
    values = {event.step: event.value for event in found.Scalars("adversarial")}
    assert values == {1: 1.0, 2: 2.0, **{step: 10.0 * step for step in range(3, 301)}}
