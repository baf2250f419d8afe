# SPDX-License-Identifier: GPL-3.0-or-later
"""Published checkpoints from file to labelled micrographs, through the program."""
import hashlib
import sys

import numpy as np
import pytest
import torch

from cryogem_scipion.__main__ import main
from cryogem_scipion.engine.io.dataset import path_inside, read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.translator.model import load_model
from tests import published_layout

LEVELS, WIDTH = 6, 4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """``latest_net_G.pth`` and ``latest_net_F.pth``, as a wrapper for several GPUs saves them."""
    folder = tmp_path_factory.mktemp("published")
    random = torch.Generator().manual_seed(11)
    for name, shapes in (("G", published_layout.generator_shapes(LEVELS, WIDTH)),
                         ("F", published_layout.projection_shapes(WIDTH))):
        state = published_layout.state_dict(shapes, random)
        torch.save({f"module.{key}": value for key, value in state.items()}, folder / f"latest_net_{name}.pth")
    return folder


def cryogem(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["cryogem", *map(str, arguments)])
    return main()


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("imported") / "model"
    with pytest.MonkeyPatch.context() as patch:
        assert cryogem(patch, "import-model", "--generator", files / "latest_net_G.pth", "--features",
                       files / "latest_net_F.pth", "--pixel-size", 6, "--snr", 0.2, "--out", out) == 0
    return out


def test_the_model_holds_the_weights_and_says_where_they_are_from(files, imported):
    manifest = read_manifest(imported)
    assert (manifest.stage, manifest.model, manifest.pixel_size) == ("import-model", "model.safetensors", 6.0)
    assert manifest.figures["levels"] == LEVELS
    model = load_model(imported / "model.safetensors")
    state = torch.load(files / "latest_net_G.pth", weights_only=True)
    assert {f"module.{name}" for name in model.network.state_dict()} == set(state)
    assert all(torch.equal(value, state[f"module.{name}"]) for name, value in model.network.state_dict().items())
    assert set(model.features) == set(published_layout.projection_shapes(WIDTH))
    assert (model.snr, model.details["crop"], model.physical.ice) == (0.2, 64, ())
    assert model.details["imported"]["latest_net_G.pth"] == hashlib.sha256(
        (files / "latest_net_G.pth").read_bytes()).hexdigest()
    from PIL import Image
    picture = np.asarray(Image.open(imported / "previews/imported.png"))
    assert picture.shape == (64, 2 * 64 + 4)
    assert picture.std() > 20


@pytest.mark.parametrize("ice", [False, True])
def test_it_generates_and_takes_its_ice_from_real_micrographs(world, imported, ice, tmp_path, monkeypatch):
    real = ["--real", world / "real/*.mrc"] if ice else []
    out = tmp_path / "gen"
    assert cryogem(monkeypatch, "generate", "--model", imported / "model.safetensors", "--simulation", world / "sim",
                   "--micrographs", 2, "--keep", "physical", "--out", out, *real) == 0
    manifest = read_manifest(out)
    assert manifest.contrast.snr == 0.2
    _, micrographs = read_table(out / "micrographs.star", "micrographs")
    assert len(micrographs) == 2
    for name in micrographs["rlnMicrographName"]:
        image, pixel_size = read_mrc(path_inside(out, name), 2)
        assert (image.shape, pixel_size) == ((192, 224), 6.0)
        assert float(image.mean()) == pytest.approx(0, abs=1e-4)
        assert float(image.std()) == pytest.approx(1, abs=1e-4)
        # The gradient of the real micrographs, 10 % from side to side, turned any way, is in the physical image.
        physical, _ = read_mrc(out / "physical" / name.rpartition("/")[2], 2)
        slopes = [np.polyfit(np.linspace(-0.5, 0.5, physical.shape[1 - axis]), physical.mean(axis), 1)[0]
                  for axis in (0, 1)]
        assert np.hypot(*slopes) == pytest.approx(0.1 if ice else 0.0, abs=0.03)
    # A real set tells how strong its noise is; without one the simulation and the model agree on a usual value.
    assert manifest.contrast.background_deviation == pytest.approx(0.05, rel=0.06)
    assert ("background_deviation" in manifest.figures) == ice


def test_a_trained_model_has_ice_of_its_own_and_says_so(world, tmp_path, monkeypatch, capsys):
    common = ["--simulation", world / "sim", "--real", world / "real/*.mrc"]
    assert cryogem(monkeypatch, "train", *common, "--steps", 1, "--crop", 32, "--generator-width", 4,
                   "--discriminator-width", 4, "--out", tmp_path / "run") == 0
    assert cryogem(monkeypatch, "generate", *common, "--model", tmp_path / "run/model.safetensors", "--micrographs", 1,
                   "--out", tmp_path / "gen") == 0
    assert any("real is not used" in warning for warning in read_manifest(tmp_path / "gen").warnings)


def test_refusals_leave_nothing_behind(files, tmp_path, monkeypatch, capsys):
    state = torch.load(files / "latest_net_G.pth", weights_only=True)
    state["module.model.surplus"] = torch.zeros(2)
    del state["module.model.up.1.bias"]
    state["module.model.down.0.weight"] = torch.zeros(WIDTH, 3, 4, 4)
    torch.save(state, tmp_path / "bad.pth")
    good = files / "latest_net_G.pth"
    nan = torch.load(good, weights_only=True)
    nan["module.model.down.0.bias"][1] = float("nan")
    torch.save(nan, tmp_path / "nan.pth")
    cases = [(["--generator", tmp_path / "bad.pth"], ["model.surplus is unknown", "model.up.1.bias is missing",
                                                      "shape (4, 3, 4, 4), not (4, 1, 4, 4)"]),
             (["--generator", tmp_path / "nan.pth"], ["not finite in model.down.0.bias"]),
             (["--generator", good, "--features", good], ["mlp_0.0.weight is missing",
                                                         "model.down.0.weight is unknown"]),
             (["--generator", tmp_path / "none.pth"], ["cannot be read"])]
    for arguments, words in cases:
        assert cryogem(monkeypatch, "import-model", *arguments, "--pixel-size", 6, "--out", tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert all(word in said for word in words), said
        assert not (tmp_path / "out").exists()
    assert cryogem(monkeypatch, "import-model", "--generator", good, "--out", tmp_path / "out") == 2
    assert "pixel_size is missing" in capsys.readouterr().err


@pytest.mark.slow
def test_the_full_published_size(tmp_path, monkeypatch, generator):
    """1024 pixels, 64 channels: 79.6 million weights, every layer as in the straightforward pass."""
    state = published_layout.state_dict(published_layout.generator_shapes(10, 64), generator)
    torch.save(state, tmp_path / "latest_net_G.pth")
    assert cryogem(monkeypatch, "import-model", "--generator", tmp_path / "latest_net_G.pth", "--pixel-size", 5.36,
                   "--out", tmp_path / "model") == 0
    assert read_manifest(tmp_path / "model").figures["weights"] == pytest.approx(79.6e6, rel=0.001)
    network = load_model(tmp_path / "model/model.safetensors").network
    seen = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    image = torch.randn(1, 1, 1024, 1024, generator=generator)
    with torch.no_grad():
        found, features = network(image)
        wanted = published_layout.layer_outputs(state, 10, image / network.scale)
    assert len(seen) == 20
    for name, value in seen.items():
        # float32 in the same order of operations; deeper layers are normalised over few pixels.
        assert float((value - wanted[name]).abs().max()) < 1e-3 * float(wanted[name].std()), name
    assert float((found / network.scale - wanted["image"]).abs().max()) < 1e-4
    assert [f.shape[1] for f in features] == [64, 128, 256, 512, 512]
