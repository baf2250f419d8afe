# SPDX-License-Identifier: GPL-3.0-or-later
"""The evaluate stage as a user runs it."""
import json

import numpy as np
import pytest
import torch

from cryogem_scipion.engine.compute.resampling import fourier_crop
from cryogem_scipion.engine.errors import CheckpointError, DataError
from cryogem_scipion.engine.io.dataset import read_manifest
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.realism import micrograph_sets
from cryogem_scipion.engine.realism.micrograph_sets import measure_set, open_set
from cryogem_scipion.engine.settings import EvaluateSettings, GenerateSettings, PhantomSettings, SimulateSettings, parse
from cryogem_scipion.engine.stages import evaluate, generate, phantom, simulate


def write_set(folder, count, generator, blur=0.0, shape=(320, 300), pixel_size=4.0, scale=(100.0, 5.0)):
    """White or blurred noise, as grey values."""
    folder.mkdir()
    for number in range(count):
        image = torch.randn(shape, generator=generator)
        image = image + blur * (image.roll(1, 0) + image.roll(1, 1))
        write_mrc(folder / f"mic_{number}.mrc", (scale[0] + scale[1] * image).numpy(), pixel_size)
    return str(folder / "*.mrc")


@pytest.fixture
def without_figure(monkeypatch):
    """Most of a small run's time is the figure's."""
    monkeypatch.setattr(evaluate, "save_figure", lambda figure, path: None)


def settings(out, generated, real, **changes):
    return parse(EvaluateSettings, {"generated": [str(generated)], "real": [str(real)], "out": out,
                                    "two_sample": False, **changes})


@pytest.mark.slow
def test_alike_is_at_the_floor_and_other_noise_is_far_from_it(generator, tmp_path):
    real = write_set(tmp_path / "real", 6, generator)
    alike = write_set(tmp_path / "alike", 6, generator, scale=(-3.0, 0.1))
    other = write_set(tmp_path / "other", 5, generator, blur=0.5)
    near = evaluate.run(settings(tmp_path / "near", alike, real)).figures
    far = evaluate.run(settings(tmp_path / "far", other, real)).figures
    # Of few pieces (25 a half, 72 features) the Fréchet distance is mostly chance.
    for name, factor in (("spectrum", 3), ("autocorrelation", 3), ("frechet", 1.5)):
        assert near[name + "_halves"] < 1.3 * near[name + "_floor"]
        assert far[name + "_halves"] > factor * far[name + "_floor"]
        assert far[name + "_low"] <= far[name] <= far[name + "_high"]
    report = json.loads((tmp_path / "far/evaluation.json").read_text())
    assert report["sets"]["generated"]["micrographs"] == 5
    assert report["figures"]["spectrum"]["value"] == far["spectrum"]
    assert set(report["lattice_db"]) == {"2", "4", "8", "16", "32", "64"}
    assert report["sets"]["real"]["mean"] == pytest.approx(100, rel=0.01)
    assert (tmp_path / "far/evaluation.png").stat().st_size > 50_000
    with np.load(tmp_path / "far/evaluation.npz", allow_pickle=False) as arrays:
        assert arrays["real_examples"].shape == (2, 256, 256)
        assert arrays["generated_spectrum"].shape == arrays["frequencies"].shape
    assert read_manifest(tmp_path / "far").stage == "evaluate"


def test_the_finer_set_is_brought_to_the_coarser_pixel_size(generator, tmp_path, without_figure):
    """The same fields at two pixel sizes: no difference is left."""
    for name in ("fine", "coarse"):
        (tmp_path / name).mkdir()
    for number in range(4):
        fine = torch.randn(800, 520, generator=generator)
        fine = fine + 0.5 * fine.roll(1, 0)
        write_mrc(tmp_path / f"fine/{number}.mrc", fine.numpy(), 2.5)
        write_mrc(tmp_path / f"coarse/{number}.mrc", fourier_crop(fine, (400, 260)).numpy(), 5.0)
    figures = evaluate.run(settings(tmp_path / "report", tmp_path / "fine/*.mrc", tmp_path / "coarse/*.mrc"))
    assert figures.pixel_size == 5.0
    assert figures.figures["spectrum"] < 1e-4
    assert figures.figures["frechet"] < 1e-4


def test_groups_change_nothing_but_the_number_of_averages(generator, tmp_path, monkeypatch):
    write_set(tmp_path / "a", 5, generator)
    files = sorted((tmp_path / "a").glob("*.mrc"))
    whole = measure_set(open_set("real", files, None), 2, 1)
    monkeypatch.setattr(micrograph_sets, "GROUPS", 2)
    few = measure_set(open_set("real", files, None), 2, 2)
    assert few.statistics.counts.tolist() == [3, 2]
    for one, other in zip(whole.statistics.mean(torch.ones(5).double()), few.statistics.mean(torch.ones(2).double()),
                          strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    assert few.binned_deviation == pytest.approx(whole.binned_deviation)


def test_the_signal_that_was_kept_is_reported(tmp_path, without_figure):
    """White noise over the optical image: the correlation is what the signal-to-noise ratio says."""
    phantom.run(PhantomSettings(out=tmp_path / "map", box=40, pixel_size=4.0, diameter_angstrom=120))
    simulate.run(SimulateSettings(out=tmp_path / "sim", volume=(tmp_path / "map/phantom.mrc",), pixel_size=6.0,
                                  micrograph_size=(192, 224), particles_mean=12, particles_sigma=0, micrographs=3,
                                  particle_distance=110.0))
    for snr in (4.0, 0.25):
        generate.run(GenerateSettings(out=tmp_path / f"gen {snr}", simulation=tmp_path / "sim", noise="gaussian",
                                      snr=snr, keep=("optical",), extract=False))
    real = tmp_path / "gen 0.25/micrographs/*.mrc"
    manifest = evaluate.run(settings(tmp_path / "report", tmp_path / "gen 4.0/micrographs/*.mrc", real))
    signal = json.loads((tmp_path / "report/evaluation.json").read_text())["signal"]
    weak = evaluate.run(settings(tmp_path / "weak", real, tmp_path / "gen 4.0/micrographs/*.mrc")).figures
    # Inside the particles' discs the ratio is about the one asked for (inside the masks): √(snr / (1 + snr)).
    assert signal["correlation"] == pytest.approx((4 / 5) ** 0.5, abs=0.05)
    assert weak["signal_correlation"] == pytest.approx((0.25 / 1.25) ** 0.5, abs=0.08)
    assert abs(signal["chance"]) < 0.15
    assert signal["low"] <= signal["correlation"] <= signal["high"]
    assert "lattices" in " ".join(manifest.warnings)  # 192 pixels are too few to look for them


def test_what_cannot_be_compared_is_refused_before_anything_is_written(generator, tmp_path):
    real = write_set(tmp_path / "real", 2, generator)
    small = write_set(tmp_path / "small", 1, generator, shape=(300, 50))
    far = write_set(tmp_path / "far", 1, generator, pixel_size=100.0)
    bare = write_set(tmp_path / "bare", 1, generator, pixel_size=0.0)
    mixed = write_set(tmp_path / "mixed", 2, generator)
    write_mrc(tmp_path / "mixed/other.mrc", torch.randn(300, 300, generator=generator).numpy(), 5.0)
    for generated, message in ((real, "2 files are given both as generated and as real"),
                               (small, "has 50 pixels on its shorter side at 4 Å per pixel; a comparison "
                                "needs at least 64"),
                               (far, "pixel sizes of 100 \\(generated\\) and 4 Å \\(real\\) cannot be compared"),
                               (bare, "no pixel size in its header; set generated_pixel_size"),
                               (mixed, "has 4 and .* has 5 Å per pixel; give micrographs with the same"),
                               (tmp_path / "none*.mrc", "no file matches")):
        with pytest.raises(DataError, match=message):
            evaluate.run(settings(tmp_path / "out", generated, real))
    (tmp_path / "x.sav").write_text("text")
    with pytest.raises(CheckpointError, match=r"x\.sav is damaged"):
        evaluate.run(settings(tmp_path / "out", mixed.replace("*", "mic*"), real, features=tmp_path / "x.sav"))
    assert not (tmp_path / "out").exists()


def test_a_single_real_micrograph_has_no_floor(generator, tmp_path, without_figure):
    manifest = evaluate.run(settings(tmp_path / "out", write_set(tmp_path / "a", 2, generator),
                                     write_set(tmp_path / "b", 1, generator)))
    assert "spectrum_floor" not in manifest.figures
    assert "one real micrograph cannot be split" in " ".join(manifest.warnings)
