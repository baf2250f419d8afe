# SPDX-License-Identifier: GPL-3.0-or-later
"""The training loop: stopped and continued is never stopped; files; refusals; what the losses drive."""
import csv
from itertools import islice

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cryogem_scipion.engine.errors import CheckpointError, DataError, SettingsError
from cryogem_scipion.engine.noise.models import AnalyticModel, GreyScale, PhysicalNoise
from cryogem_scipion.engine.settings import TrainSettings, parse
from cryogem_scipion.engine.translator.checkpoint import load_model
from cryogem_scipion.engine.translator.networks import generator as network
from cryogem_scipion.engine.translator.patches import RealPieces, SimulatedPieces
from cryogem_scipion.engine.translator.tensor_files import load_tensors
from cryogem_scipion.engine.translator.training import CHECKPOINT, LOSSES, MODEL, PREVIEWS, REALISM, Goal, train
from cryogem_scipion.engine.translator.validation import DISTANCES, HeldOut, Judge

CPU = torch.device("cpu")


@pytest.fixture
def data():
    rng = np.random.default_rng(4)
    images = [rng.normal(500, 25, (80, 72)).astype(np.float32) for _ in range(2)]
    mask = np.zeros((80, 72), np.uint8)
    mask[20:36, 30:50] = 1
    clean = (1 - 0.02 * mask).astype(np.float32)
    return RealPieces(images, [500.0] * 2, [25.0] * 2), SimulatedPieces([clean], [mask])


GOAL = Goal(PhysicalNoise(0.05), GreyScale(500.0, 25.0), 5.0, 0.1, 0.002, {"source": "test"})


def settings(folder, **changes):
    values = {"steps": 6, "crop": 32, "batch": 2, "generator_width": 4, "discriminator_width": 4,
              "preview_every": 3, "checkpoint_every": 2, "discriminator": "patch"}
    return parse(TrainSettings, {"real": ("a.mrc",), "simulation": "sim", "out": folder, **values, **changes})


def trained(folder, data, count=None, held_out=None, **changes):
    """Train in a folder, for ``count`` records only when given; returns the records."""
    folder.mkdir(exist_ok=True)
    steps = train(*data, GOAL, settings(folder, **changes), folder, CPU, held_out)
    records = list(steps if count is None else islice(steps, count))
    steps.close()
    return records


@pytest.mark.parametrize("changes", [{}, {"generator": "published", "contrastive_form": "published"}])
def test_stopped_and_continued_is_never_stopped(changes, data, tmp_path):
    whole = trained(tmp_path / "whole", data, **changes)
    # Killed after step 5: the checkpoint of step 4 is the last.
    first = trained(tmp_path / "parts", data, 5, **changes)
    second = trained(tmp_path / "parts", data, **changes)
    assert [r.step for r in first] == [1, 2, 3, 4, 5]
    assert [r.step for r in second] == [5, 6]
    assert [r.contrastive for r in second] == [r.contrastive for r in whole[4:]]
    for name, kind in ((CHECKPOINT, "checkpoint"), (MODEL, "model")):
        tensors, others = (load_tensors(tmp_path / folder / name, kind)[0] for folder in ("whole", "parts"))
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[key], others[key]) for key in tensors)
    rows = [list(csv.DictReader((tmp_path / folder / LOSSES).open())) for folder in ("whole", "parts")]
    assert [r["step"] for r in rows[1]] == ["1", "2", "3", "4", "5", "6"]
    assert [r["discriminator"] for r in rows[0]] == [r["discriminator"] for r in rows[1]]


def same(folders, name, kind):
    """Whether two files hold the same tensors and values, bit for bit."""
    (tensors, values), (others, other) = (load_tensors(folder / name, kind) for folder in folders)
    return values == other and tensors.keys() == others.keys() and all(
        torch.equal(tensors[key], others[key]) for key in tensors)


@pytest.fixture
def judged():
    """Data, and a held-out micrograph, large enough to be judged."""
    rng = np.random.default_rng(6)
    noises = [gaussian_filter(rng.normal(0, 1, (96, 128)), 2) for _ in range(3)]
    images = [(500 + 25 * noise / noise.std()).astype(np.float32) for noise in noises]
    clean = np.ones((112, 96), np.float32)
    clean[20:36, 30:50] = 0.98
    real = RealPieces(images[:2], [500.0] * 2, [25.0] * 2)
    return (real, SimulatedPieces([clean], [(clean < 1).astype(np.uint8)])), HeldOut(
        RealPieces(images[2:], [500.0], [25.0]), PhysicalNoise(0.05))


@pytest.fixture
def best_is_third(monkeypatch):
    """Judgements that say so: of every new state in turn, and the same again where a training comes by once more."""
    figures = {}

    def figure(judging, network):
        weights = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
        if weights not in figures:
            figures[weights] = (3.0, 2.0, 1.0, 4.0, 5.0)[len(figures)]
        return dict.fromkeys(("realism", *DISTANCES), figures[weights])

    monkeypatch.setattr(Judge, "__call__", figure)


@pytest.mark.usefixtures("best_is_third")
def test_the_best_state_becomes_the_model_and_survives_a_stop(judged, tmp_path):
    data, held_out = judged
    changes = {"steps": 10, "judge_every": 3, "checkpoint_every": 4, "learning_rate": 0.05, "held_out": held_out,
               "averaging": 0.0}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trained(whole, data, **changes)
    trained(parts, data, 7, **changes)  # killed after the second judgement, before its checkpoint
    trained(parts, data, **changes)
    assert same((whole, parts), MODEL, "model")
    assert same((whole, parts), CHECKPOINT, "checkpoint")
    assert (whole / REALISM).read_bytes() == (parts / REALISM).read_bytes()
    rows = [(int(row["step"]), float(row["realism"])) for row in csv.DictReader((whole / REALISM).open())]
    assert rows == [(0, 3.0), (3, 2.0), (6, 1.0), (9, 4.0), (10, 5.0)]
    model = load_model(whole / MODEL)
    assert (model.details["best_step"], model.details["realism"]) == (6, 1.0)
    # The weights are those of that step: a training stopped there has them as its average.
    trained(tmp_path / "short", data, 6, **{**changes, "checkpoint_every": 6})
    tensors, _ = load_tensors(tmp_path / "short" / CHECKPOINT, "checkpoint")
    assert all(torch.equal(value, tensors[f"average.{name}"]) for name, value in model.network.state_dict().items())


def test_a_training_that_only_makes_it_worse_gives_the_start(judged, tmp_path):
    """The real micrographs are what the noise already is."""
    (_, simulated), _ = judged
    rng = np.random.default_rng(8)
    real, held = (RealPieces([rng.normal(500, 25, (96, 128)).astype(np.float32) for _ in range(2)], [500.0] * 2,
                             [25.0] * 2) for _ in range(2))
    trained(tmp_path, (real, simulated), steps=4, judge_every=2, learning_rate=0.05, averaging=0.0,
            held_out=HeldOut(held, PhysicalNoise(0.05)))
    rows = [float(row["realism"]) for row in csv.DictReader((tmp_path / REALISM).open())]
    assert rows[0] == min(rows)
    model = load_model(tmp_path / MODEL)
    assert model.details["best_step"] == 0
    made = [maker(torch.ones(96, 96), torch.Generator().manual_seed(1))
            for maker in (model, AnalyticModel(model.physical, model.scale, model.snr))]
    assert torch.equal(*made)  # the noise that it started from


@pytest.mark.slow
def test_a_longer_training_is_as_if_begun_as_such(judged, tmp_path):
    data, held_out = judged
    changes = {"judge_every": 2, "checkpoint_every": 2, "held_out": held_out}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trained(whole, data, steps=10, **changes)
    trained(parts, data, steps=5, **changes)
    # Continues before the learning rate fell, after the second of five steps.
    assert [r.step for r in trained(parts, data, steps=10, **changes)] == list(range(3, 11))
    for name, kind in ((CHECKPOINT, "checkpoint"), (MODEL, "model")):
        assert same((whole, parts), name, kind)
    assert (whole / REALISM).read_bytes() == (parts / REALISM).read_bytes()
    before = (parts / MODEL).read_bytes()
    with pytest.raises(CheckpointError, match="training of 10 steps, which cannot become one of 6"):
        trained(parts, data, steps=6, **changes)
    assert (parts / MODEL).read_bytes() == before


def test_the_multiscale_discriminator_continues_exactly(data, tmp_path):
    """Its gradient penalty comes every few steps, counted from the first."""
    size = {"crop": 64, "batch": 1, "discriminator": "multiscale", "steps": 4, "checkpoint_every": 2}
    trained(tmp_path / "whole", data, **size)
    trained(tmp_path / "parts", data, 2, **size)
    trained(tmp_path / "parts", data, **size)
    tensors, others = (load_tensors(tmp_path / folder / CHECKPOINT, "checkpoint")[0] for folder in ("whole", "parts"))
    assert all(torch.equal(tensors[key], others[key]) for key in tensors)


def test_a_run_leaves_model_previews_and_losses(data, tmp_path):
    before = torch.random.get_rng_state()
    records = trained(tmp_path, data)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [r.step for r in records] == list(range(1, 7))
    assert all(np.isfinite(list(vars(r).values())).all() for r in records)
    assert sorted(p.name for p in (tmp_path / PREVIEWS).iterdir()) == ["step_0000003.png", "step_0000006.png"]
    from PIL import Image
    picture = np.asarray(Image.open(tmp_path / PREVIEWS / "step_0000006.png"))
    assert picture.shape == (64, 3 * 32 + 8)
    assert picture.std() > 10
    model = load_model(tmp_path / MODEL)
    assert model.details == {"source": "test", "steps": 6}
    assert not list(tmp_path.glob(".*"))


def test_training_again_when_all_is_done_only_writes_the_model(data, tmp_path):
    trained(tmp_path, data)
    (tmp_path / MODEL).unlink()
    assert trained(tmp_path, data) == []
    assert (tmp_path / MODEL).is_file()


def test_another_seed_is_another_training(data, tmp_path):
    first = trained(tmp_path / "a", data, steps=1, seed=1)
    second = trained(tmp_path / "b", data, steps=1, seed=2)
    assert first[0].contrastive != second[0].contrastive


def test_a_checkpoint_of_other_settings_is_refused(data, tmp_path):
    trained(tmp_path, data, 3)
    with pytest.raises(CheckpointError, match="other networks, data or seed"):
        trained(tmp_path, data, learning_rate=1e-3)


def test_a_damaged_checkpoint_is_refused(data, tmp_path):
    trained(tmp_path, data, 3)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:500])
    with pytest.raises(CheckpointError, match="damaged"):
        trained(tmp_path, data)


def test_pieces_must_fit(data, tmp_path):
    with pytest.raises(DataError, match="pieces of 96"):
        trained(tmp_path / "a", data, crop=96)
    for changes, found in [({}, "crop 40 is not a multiple of 16, as the residual generator needs; give 32"),
                           ({"generator": "published"}, "no multiple of 32, which the published generator needs; "
                            "give 32")]:
        with pytest.raises(SettingsError, match=found):
            settings(tmp_path, crop=40, **changes)


@pytest.mark.parametrize(("name", "crop"), [("residual", 48), ("residual", 272), ("published", 64)])
def test_a_crop_that_the_settings_take_fits_the_network(name, crop, tmp_path):
    taken = settings(tmp_path, generator=name, crop=crop)
    details = {"levels": taken.crop.bit_length() - 1} if name == "published" else {}
    assert taken.crop % network({"name": name, "width": 2, **details}).multiple == 0


def test_bf16_trains_too(data, tmp_path):
    records = trained(tmp_path, data, steps=2, precision="bf16")
    assert all(np.isfinite(list(vars(r).values())).all() for r in records)


@pytest.mark.slow
def test_training_brings_the_generated_images_nearer(data, tmp_path):
    """Real images have twice the noise of the physical ones: the translator finds out, and the contrast stays."""
    real, simulated = data
    louder = RealPieces([500 + 2 * (image - 500) for image in real.images], real.medians, real.spreads)
    records = trained(tmp_path, (louder, simulated), steps=60, checkpoint_every=1000, preview_every=1000,
                      learning_rate=2e-3, contrastive_weight=1.0, averaging=0.9, generator_width=8,
                      gradient_penalty=0.0)
    model = load_model(tmp_path / MODEL)
    image = model(torch.ones(96, 96), torch.Generator().manual_seed(1))
    # Untrained it is 25; so few steps bring it to 27 to 36, by the seed.
    assert 1.05 * 25 < float(image.std()) < 3.5 * 25
    assert abs(np.mean([r.contrast_drift for r in records[-30:]])) < 0.3
