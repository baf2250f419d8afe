# SPDX-License-Identifier: GPL-3.0-or-later
"""The training: continuing from a checkpoint, files, refusals, the effect of the losses."""
import csv
from itertools import islice

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cryogem_scipion.engine.compute import devices
from cryogem_scipion.engine.compute.processor import read_processor
from cryogem_scipion.engine.errors import CheckpointError, DataError, SettingsError
from cryogem_scipion.engine.noise.models import AnalyticModel, GreyScale, PhysicalNoise
from cryogem_scipion.engine.settings import TrainSettings, parse
from cryogem_scipion.engine.translator import discriminator_advantage, training_state
from cryogem_scipion.engine.translator.crops import RealImages, SimulatedImages
from cryogem_scipion.engine.translator.distributed import ProcessGroup
from cryogem_scipion.engine.translator.model import load_model
from cryogem_scipion.engine.translator.networks import build_generator
from cryogem_scipion.engine.translator.tensor_files import load_tensors, save_tensors
from cryogem_scipion.engine.translator.training import (
    CHECKPOINT,
    LOSSES,
    MODEL,
    PREVIEWS,
    REALISM,
    ModelProperties,
    train,
)
from cryogem_scipion.engine.translator.training_results import training_results
from cryogem_scipion.engine.translator.training_state import TrainingState
from cryogem_scipion.engine.translator.validation import VALUES, HeldOutSet, ValidationMetric

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short_average(monkeypatch):
    """The generator learns from the third step on."""
    monkeypatch.setattr(discriminator_advantage, "STEPS", 3)


@pytest.fixture
def data():
    rng = np.random.default_rng(4)
    images = [rng.normal(500, 25, (80, 72)).astype(np.float32) for _ in range(2)]
    mask = np.zeros((80, 72), np.uint8)
    mask[20:36, 30:50] = 1
    clean = (1 - 0.02 * mask).astype(np.float32)
    return RealImages(images, [500.0] * 2, [25.0] * 2), SimulatedImages([clean], [mask])


PROPERTIES = ModelProperties(PhysicalNoise(0.05), GreyScale(500.0, 25.0), 5.0, 0.1, 0.002, {"source": "test"})


def settings(folder, **changes):
    values = {"steps": 6, "crop": 32, "batch": 2, "generator_width": 4, "discriminator_width": 4,
              "preview_every": 3, "checkpoint_every": 2, "discriminator": "patch", "adaptive_rate": False}
    return parse(TrainSettings, {"real": ("a.mrc",), "simulation": "sim", "out": folder, **values, **changes})


def trained(folder, data, count=None, held_out=None, **changes):
    """Records of a training in a folder, which stops after ``count`` records if this number is given."""
    folder.mkdir(exist_ok=True)
    steps = train(*data, PROPERTIES, settings(folder, **changes), folder, CPU, held_out)
    records = list(steps if count is None else islice(steps, count))
    steps.close()
    return records


@pytest.mark.parametrize("changes", [{"adaptive_rate": True}, {"generator": "published",
                                                                 "contrastive_form": "published"}])
def test_a_stopped_and_continued_training_equals_one_without_a_stop(changes, data, tmp_path):
    uninterrupted = trained(tmp_path / "uninterrupted", data, **changes)
    # Killed after step 5: the last checkpoint is that of step 4.
    first = trained(tmp_path / "continued", data, 5, **changes)
    second = trained(tmp_path / "continued", data, **changes)
    assert [r.step for r in first] == [1, 2, 3, 4, 5]
    assert [r.step for r in second] == [5, 6]
    assert [r.contrastive for r in second] == [r.contrastive for r in uninterrupted[4:]]
    for name, kind in ((CHECKPOINT, "checkpoint"), (MODEL, "model")):
        tensors, others = (load_tensors(tmp_path / folder / name, kind)[0]
                           for folder in ("uninterrupted", "continued"))
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[key], others[key]) for key in tensors)
    rows = [list(csv.DictReader((tmp_path / folder / LOSSES).open())) for folder in ("uninterrupted", "continued")]
    assert [r["step"] for r in rows[1]] == ["1", "2", "3", "4", "5", "6"]
    assert [r["discriminator"] for r in rows[0]] == [r["discriminator"] for r in rows[1]]


def same(folders, name, kind):
    """Whether two files hold the same tensors and values, bit for bit."""
    (tensors, values), (other_tensors, other_values) = (load_tensors(folder / name, kind) for folder in folders)
    return values == other_values and tensors.keys() == other_tensors.keys() and all(
        torch.equal(tensors[key], other_tensors[key]) for key in tensors)


@pytest.fixture
def data_and_held_out_set():
    """Data and a held-out micrograph, large enough for the validation metric."""
    rng = np.random.default_rng(6)
    noises = [gaussian_filter(rng.normal(0, 1, (96, 128)), 2) for _ in range(3)]
    images = [(500 + 25 * noise / noise.std()).astype(np.float32) for noise in noises]
    clean = np.ones((112, 96), np.float32)
    clean[20:36, 30:50] = 0.98
    real = RealImages(images[:2], [500.0] * 2, [25.0] * 2)
    return (real, SimulatedImages([clean], [(clean < 1).astype(np.uint8)])), HeldOutSet(
        RealImages(images[2:], [500.0], [25.0]), PhysicalNoise(0.05))


@pytest.fixture
def best_is_third(monkeypatch):
    """Replace the metric by given values, one for each new state of the network; the same state has the same value."""
    values = {}

    def metric(self, network, precision):
        weights = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
        if weights not in values:
            values[weights] = (3.0, 2.0, 1.0, 4.0, 5.0)[len(values)]
        return {**dict.fromkeys(VALUES, values[weights]), "realism": 1.0}

    monkeypatch.setattr(ValidationMetric, "__call__", metric)


@pytest.mark.usefixtures("best_is_third")
def test_the_best_weights_become_the_model_also_after_a_stop(data_and_held_out_set, tmp_path):
    data, held_out = data_and_held_out_set
    changes = {"steps": 10, "judge_every": 3, "checkpoint_every": 4, "learning_rate": 0.05, "held_out": held_out,
               "averaging": 0.0}
    uninterrupted, continued = tmp_path / "uninterrupted", tmp_path / "continued"
    trained(uninterrupted, data, **changes)
    trained(continued, data, 7, **changes)  # killed after the metric of step 6, before the next checkpoint
    trained(continued, data, **changes)
    assert same((uninterrupted, continued), MODEL, "model")
    assert same((uninterrupted, continued), CHECKPOINT, "checkpoint")
    assert (uninterrupted / REALISM).read_bytes() == (continued / REALISM).read_bytes()
    rows = [(int(row["step"]), float(row["auc"])) for row in csv.DictReader((uninterrupted / REALISM).open())]
    assert rows == [(0, 3.0), (3, 2.0), (6, 1.0), (9, 4.0), (10, 5.0)]
    model = load_model(uninterrupted / MODEL)
    assert (model.details["best_step"], model.details["auc"]) == (6, 1.0)
    # The weights are those of that step: a training that stops there has them as its average.
    trained(tmp_path / "short", data, 6, **{**changes, "checkpoint_every": 6})
    tensors, _ = load_tensors(tmp_path / "short" / CHECKPOINT, "checkpoint")
    assert all(torch.equal(value, tensors[f"average.{name}"]) for name, value in model.network.state_dict().items())


@pytest.fixture
def never_better(monkeypatch):
    """Replace the validation by one in which no later state is better than the first."""
    aucs = iter([0.6, *[0.7] * 99])
    monkeypatch.setattr(ValidationMetric, "__call__", lambda *_: {**dict.fromkeys(VALUES, 1.0), "auc": next(aucs)})


@pytest.mark.usefixtures("never_better")
def test_a_training_without_improvement_stops_early_and_gives_the_untrained_model(data_and_held_out_set, tmp_path,
                                                                                  caplog):
    data, held_out = data_and_held_out_set
    changes = {"steps": 40, "judge_every": 2, "learning_rate": 0.05, "averaging": 0.0, "held_out": held_out}
    with caplog.at_level("INFO", "cryogem"):
        records = trained(tmp_path, data, patience=3, **changes)
    assert [record.step for record in records] == list(range(1, 7))
    assert "stopped early at step 6 of 40: no better validation since step 0 (patience 3)" in caplog.text
    results = training_results(tmp_path)
    assert (results["stopped_early_at"], results["best_step"], results["auc"]) == (6, 0, 0.6)
    model = load_model(tmp_path / MODEL)
    assert model.details["best_step"] == 0
    images = [noise_model(torch.ones(96, 96), torch.Generator().manual_seed(1))
              for noise_model in (model, AnalyticModel(model.physical, model.scale, model.snr))]
    assert torch.equal(*images)  # the untrained network returns the physical image
    # A stopped training stays stopped, and goes on with more patience.
    assert trained(tmp_path, data, patience=3, **changes) == []
    assert [record.step for record in trained(tmp_path, data, patience=4, **changes)] == [7, 8]


@pytest.mark.usefixtures("never_better")
def test_without_patience_all_steps_are_done(data_and_held_out_set, tmp_path):
    data, held_out = data_and_held_out_set
    records = trained(tmp_path, data, steps=6, judge_every=1, patience=0, held_out=held_out)
    assert len(records) == 6
    assert "stopped_early_at" not in training_results(tmp_path)


@pytest.mark.usefixtures("never_better")
def test_without_validations_the_last_step_becomes_the_model(data_and_held_out_set, tmp_path):
    data, held_out = data_and_held_out_set
    trained(tmp_path, data, steps=3, judge_every=0, held_out=held_out)
    assert load_model(tmp_path / MODEL).details["steps"] == 3
    assert "best_step" not in training_results(tmp_path)


@pytest.mark.usefixtures("never_better")
def test_a_training_of_a_version_without_the_critic_keeps_its_best_checkpoint(data_and_held_out_set, tmp_path):
    data, held_out = data_and_held_out_set
    changes = {"steps": 4, "judge_every": 2, "held_out": held_out}
    trained(tmp_path, data, **changes)
    tensors, values = load_tensors(tmp_path / CHECKPOINT, "checkpoint")
    for name in ("first_realism", "best_auc", "without_improvement"):
        del values[name]
    del tensors["score_differences"]
    save_tensors(tmp_path / CHECKPOINT, "checkpoint", tensors, values)
    (tmp_path / REALISM).write_text("step,realism,spectrum\n0,1,1\n2,3,1\n4,2,1\n")
    assert trained(tmp_path, data, **changes) == []
    assert (load_model(tmp_path / MODEL).details["best_step"], training_results(tmp_path)["best_step"]) == (0, 0)


def test_all_processes_stop_early_with_the_first_one(tmp_path):
    class SecondProcess(ProcessGroup):
        def mean(self, values):
            return {name: 0.5 * (name == "stop") for name in values}  # one of two processes stops

    for processes, stops in ((SecondProcess(1, 2), True), (ProcessGroup(), False)):
        state = TrainingState(settings(tmp_path), PROPERTIES, CPU, processes)
        state.share_validation()
        assert state.finished == stops


def test_a_state_that_is_too_far_returns_to_the_best_one(data, tmp_path):
    state = TrainingState(settings(tmp_path, averaging=0.0), PROPERTIES, CPU)
    state.update_best({"realism": 1.0, "auc": 0.6})
    state.train_step(*data)
    weights = {name: value.clone() for name, value in state.average.state_dict().items()}
    state.update_best({"realism": 1.1, "auc": 0.6})
    assert all(torch.equal(value, weights[name]) for name, value in state.average.state_dict().items())
    state.update_best({"realism": 1.3, "auc": 0.5})
    for network in (state.generator, state.average):
        assert all(torch.equal(value, state.best.state_dict()[name]) for name, value in network.state_dict().items())
    assert not state.generator.leave.weight.any()
    assert weights["leave.weight"].any()


def test_the_critic_gives_the_same_bytes_after_a_stop(data_and_held_out_set, tmp_path):
    data, held_out = data_and_held_out_set
    changes = {"steps": 4, "judge_every": 2, "checkpoint_every": 2, "held_out": held_out, "precision": "float32"}
    trained(tmp_path / "uninterrupted", data, **changes)
    trained(tmp_path / "continued", data, 3, **changes)
    trained(tmp_path / "continued", data, **changes)
    tables = [(tmp_path / folder / REALISM).read_bytes() for folder in ("uninterrupted", "continued")]
    assert tables[0] == tables[1]
    assert b"auc_textures" in tables[0]


@pytest.mark.slow
def test_a_prolonged_training_equals_a_new_one_with_all_steps(data_and_held_out_set, tmp_path):
    data, held_out = data_and_held_out_set
    changes = {"judge_every": 2, "checkpoint_every": 2, "held_out": held_out}
    new, prolonged = tmp_path / "new", tmp_path / "prolonged"
    trained(new, data, steps=10, **changes)
    trained(prolonged, data, steps=5, **changes)
    # It continues from before the fall of the learning rate, after the second of five steps.
    assert [r.step for r in trained(prolonged, data, steps=10, **changes)] == list(range(3, 11))
    for name, kind in ((CHECKPOINT, "checkpoint"), (MODEL, "model")):
        assert same((new, prolonged), name, kind)
    assert (new / REALISM).read_bytes() == (prolonged / REALISM).read_bytes()
    before = (prolonged / MODEL).read_bytes()
    with pytest.raises(CheckpointError, match="training of 10 steps, which cannot be changed to 6 steps"):
        trained(prolonged, data, steps=6, **changes)
    assert (prolonged / MODEL).read_bytes() == before


def test_the_multiscale_discriminator_continues_exactly(data, tmp_path):
    """Its gradient penalty is computed every few steps, counted from the first step."""
    changes = {"crop": 64, "batch": 1, "discriminator": "multiscale", "steps": 4, "checkpoint_every": 2}
    trained(tmp_path / "uninterrupted", data, **changes)
    trained(tmp_path / "continued", data, 2, **changes)
    trained(tmp_path / "continued", data, **changes)
    tensors, others = (load_tensors(tmp_path / folder / CHECKPOINT, "checkpoint")[0]
                       for folder in ("uninterrupted", "continued"))
    assert all(torch.equal(tensors[key], others[key]) for key in tensors)


def test_a_training_writes_model_previews_and_losses(data, tmp_path):
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
    assert model.details == {"source": "test", "steps": 6, "precision": devices.chosen_precision("auto", CPU)}
    assert not list(tmp_path.glob(".*"))


def test_a_finished_training_that_is_started_again_only_writes_the_model(data, tmp_path):
    trained(tmp_path, data)
    (tmp_path / MODEL).unlink()
    assert trained(tmp_path, data) == []
    assert (tmp_path / MODEL).is_file()


@pytest.mark.parametrize(("advantage", "adaptive", "moves"), [(0.0, True, False), (-1.0, True, False),
                                                              (0.5, True, True), (0.0, False, True)])
def test_the_generator_learns_only_while_the_discriminator_tells_its_images_apart(advantage, adaptive, moves, data,
                                                                                   tmp_path, monkeypatch):
    monkeypatch.setattr(training_state, "score_difference", lambda *_: torch.tensor(advantage))
    trained(tmp_path, data, steps=5, adaptive_rate=adaptive, averaging=0.0)
    network = load_model(tmp_path / MODEL).network
    assert bool(network.leave.weight.any()) == moves


def test_another_seed_gives_other_losses(data, tmp_path):
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


def test_the_crop_must_fit_the_micrographs_and_the_network(data, tmp_path):
    with pytest.raises(DataError, match="less than a crop of 96"):
        trained(tmp_path / "a", data, crop=96)
    for changes, message in [({}, "crop 40 is not a multiple of 16, as the residual generator needs; give 32"),
                           ({"generator": "published"}, "not a multiple of 32, as the published generator needs; "
                            "give 32")]:
        with pytest.raises(SettingsError, match=message):
            settings(tmp_path, crop=40, **changes)


@pytest.mark.parametrize(("name", "crop"), [("residual", 48), ("residual", 272), ("published", 64)])
def test_a_crop_that_the_settings_accept_fits_the_network(name, crop, tmp_path):
    accepted = settings(tmp_path, generator=name, crop=crop)
    details = {"levels": accepted.crop.bit_length() - 1} if name == "published" else {}
    assert accepted.crop % build_generator({"name": name, "width": 2, **details}).multiple == 0


def test_bf16_trains_too(data, tmp_path):
    records = trained(tmp_path, data, steps=2, precision="bf16")
    assert all(np.isfinite(list(vars(r).values())).all() for r in records)
    assert load_model(tmp_path / MODEL).details["precision"] == "bf16"


def test_auto_is_bf16_only_where_the_processor_multiplies_matrices_in_it(tmp_path, monkeypatch):
    for flags, precision in (("fpu avx2 avx512_bf16", "float32"), ("fpu avx2 amx_tile amx_bf16", "bf16")):
        (tmp_path / "cpuinfo").write_text(f"model name\t: A processor\nflags\t\t: {flags}\n")
        processor = read_processor(tmp_path / "cpuinfo")
        assert processor.name == "A processor"
        monkeypatch.setattr(devices, "read_processor", lambda processor=processor: processor)
        assert devices.chosen_precision("auto", CPU) == precision
        assert devices.chosen_precision("float32", CPU) == "float32"
    assert read_processor(tmp_path / "missing").instructions == frozenset()


def test_a_training_goes_on_in_the_precision_it_began_with(data, tmp_path, monkeypatch):
    """A stopped run may go on on another machine."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trained(whole, data, precision="auto")
    trained(parts, data, 4, precision="auto")
    monkeypatch.setattr(training_state, "chosen_precision", lambda *_: "bf16")
    trained(parts, data, precision="auto")
    assert load_model(parts / MODEL).details["precision"] == load_model(whole / MODEL).details["precision"]
    assert (parts / MODEL).read_bytes() == (whole / MODEL).read_bytes()


@pytest.mark.slow
def test_training_brings_the_generated_images_nearer(data, tmp_path):
    """Real images have twice the noise of the physical ones: the network learns it, and the contrast stays."""
    real, simulated = data
    noisier = RealImages([500 + 2 * (image - 500) for image in real.images], real.medians, real.spreads)
    records = trained(tmp_path, (noisier, simulated), steps=60, checkpoint_every=1000, preview_every=1000,
                      learning_rate=2e-3, contrastive_weight=1.0, averaging=0.9, generator_width=8,
                      gradient_penalty=0.0)
    model = load_model(tmp_path / MODEL)
    image = model(torch.ones(96, 96), torch.Generator().manual_seed(1))
    # It is 25 before training and 27 to 36 after so few steps, depending on the seed.
    assert 1.05 * 25 < float(image.std()) < 3.5 * 25
    assert abs(np.mean([r.contrast_drift for r in records[-30:]])) < 0.3
