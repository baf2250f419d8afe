# SPDX-License-Identifier: GPL-3.0-or-later
"""Model files: writing and reading, tiles without seams, damaged, foreign and newer files."""
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cryogem_scipion.engine.errors import CheckpointError
from cryogem_scipion.engine.noise.ice import IceMap
from cryogem_scipion.engine.noise.models import GreyScale, NoiseModel, PhysicalNoise
from cryogem_scipion.engine.noise.spectrum import ColouredNoise
from cryogem_scipion.engine.translator import tiling
from cryogem_scipion.engine.translator.model import Translator, load_model, save_model
from cryogem_scipion.engine.translator.networks import PatchProjections, build_generator
from cryogem_scipion.engine.translator.published_checkpoint import import_published
from tests.unit.conftest import with_random_output_layer


@pytest.fixture
def model(generator):
    config = {"name": "residual", "width": 4}
    torch.manual_seed(2)
    network = with_random_output_layer(build_generator(config).eval(), 0.1)
    ice = tuple(IceMap(1 + 0.05 * torch.rand(4, 5, generator=generator), (200, 240)) for _ in range(3))
    noise = ColouredNoise(0.5 + torch.rand(128, 65, generator=generator))
    powers = (0.5 + torch.rand(128, 65, generator=generator), None, 0.5 + torch.rand(128, 65, generator=generator))
    physical = PhysicalNoise(0.06, ice, noise, 0.5, relative_powers=powers)
    return Translator(network, config, physical, GreyScale(450.0, 27.0), 5.0, 0.1, 0.003,
                      {"steps": 7})


def test_a_model_is_the_same_after_writing_and_reading(model, tmp_path, generator):
    save_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path / "model.safetensors")
    assert isinstance(loaded, NoiseModel)
    clean = torch.ones(90, 130)
    before = clean.clone()
    images = [m(clean, torch.Generator().manual_seed(3)) for m in (model, loaded)]
    assert torch.equal(*images)
    assert torch.equal(clean, before)
    assert images[0].shape == clean.shape
    assert (loaded.pixel_size, loaded.snr, loaded.signal_factor, loaded.background_deviation) == (5.0, 0.1, 0.003, 0.06)
    assert loaded.details == {"steps": 7}
    assert [ice.field for ice in loaded.physical.ice] == [(200, 240)] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("shape", [(200, 310), (64, 64), (33, 20)])
def test_tiles_have_no_seams(shape, model, monkeypatch, generator):
    image = torch.randn(shape, generator=generator)
    whole = model.translate(image, torch.Generator().manual_seed(1))
    monkeypatch.setattr(tiling, "TILE", 64)
    translate_in_tiles = model.translate(image, torch.Generator().manual_seed(1))
    assert whole.shape == shape
    # Convolutions of other sizes round differently. A seam would be some percent of the spread of 27.
    assert torch.allclose(whole, translate_in_tiles, atol=0.01)


def test_the_border_has_the_deviation_of_the_inside(model, generator):
    images = torch.stack([model.translate(torch.randn(64, 64, generator=generator), generator) for _ in range(40)])
    deviation = images.std(0)
    assert float(deviation[0].mean() / deviation[8:-8, 8:-8].mean()) == pytest.approx(1, abs=0.15)


def rewrite(path, tensors=None, values=None, **metadata):
    """Replace the tensors or some JSON values of a model file."""
    from safetensors import safe_open
    with safe_open(path, "pt") as file:
        old_values = json.loads(file.metadata()["cryogem"])
    save_file(load_file(path) if tensors is None else tensors, path,
              metadata or {"cryogem": json.dumps({**old_values, **(values or {})})})


def test_every_wrong_tensor_is_named(model, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    tensors = load_file(path)
    tensors["generator.extra"] = tensors.pop("generator.leave.bias")
    tensors["generator.enter.weight"] = torch.zeros(3, 1, 5, 5)
    rewrite(path, tensors)
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    for words in ("leave.bias is missing", "extra is unknown", "enter.weight has shape (3, 1, 5, 5), not (8, 1, 5, 5)"):
        assert words in str(caught.value)


def test_unusable_files_are_refused(model, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(path)
    save_model(path, model)
    intact = path.read_bytes()
    for damaged in (intact[:1000], intact[:-50], b"", b"hello world, this is no model"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged|cannot be read"):
            load_model(path)
    for values, words in (({"format_version": 99}, "format 99, but .* update"), ({"format": "cryogem"}, "is needed"),
                          ({"network": {"name": "diffusion"}}, "diffusion"), ({"ice_fields": []}, "wrong form"),
                          ({"sigma_n": "much"}, "wrong form")):
        path.write_bytes(intact)
        rewrite(path, values=values)
        with pytest.raises(CheckpointError, match=words):
            load_model(path)
    path.write_bytes(intact)
    rewrite(path, other="1")
    with pytest.raises(CheckpointError, match="another program"):
        load_model(path)


@pytest.fixture
def published(generator):
    """A state_dict with the published names."""
    network = build_generator({"name": "published", "levels": 6, "width": 4})
    return {name: 0.2 * torch.randn(tensor.shape, generator=generator) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_checkpoints_generate(prefix, published, tmp_path, generator):
    torch.save({prefix + name: tensor for name, tensor in published.items()}, tmp_path / "latest_net_G.pth")
    features = PatchProjections((4, 8, 16, 32, 32)).state_dict()
    torch.save({prefix + name: tensor for name, tensor in features.items()}, tmp_path / "latest_net_F.pth")
    model = import_published(tmp_path / "latest_net_G.pth", tmp_path / "latest_net_F.pth", 5.36)
    assert all(torch.equal(tensor, published[name]) for name, tensor in model.network.state_dict().items())
    save_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.pixel_size == 5.36
    assert loaded.features.keys() == features.keys()
    for shape in ((150, 97), (64, 64), (40, 200)):
        image = loaded(torch.ones(shape), generator)
        assert image.shape == shape
        assert float(image.mean()) == pytest.approx(0, abs=1e-4)
        assert float(image.std()) == pytest.approx(1, abs=1e-4)


def test_files_without_the_published_layout_are_refused(published, tmp_path):
    path = tmp_path / "latest_net_G.pth"
    with pytest.raises(CheckpointError, match="cannot be read"):
        import_published(path, None, 5.0)
    published["model.surplus"] = torch.zeros(3)
    published["model.submodule.down.1.weight"] = torch.zeros(8, 4, 3, 3)
    del published["model.submodule.submodule.up.1.bias"]
    torch.save(published, path)
    with pytest.raises(CheckpointError) as caught:
        import_published(path, None, 5.0)
    for words in ("model.surplus is unknown", "submodule.up.1.bias is missing",
                  "has shape (8, 4, 3, 3), not (8, 4, 4, 4)"):
        assert words in str(caught.value)
    for content, words in (({"model": [1, 2]}, "holds a dict"), ([1, 2], "holds a list"),
                           (tiling.translate_in_tiles, "more than"),
                           ({"other": torch.zeros(1)}, "no model.down.0.weight")):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=words):
            import_published(path, None, 5.0)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        import_published(path, None, 5.0)


def test_a_failed_write_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(path, model)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_model(path, model)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_loaded_tensors_are_aligned_in_memory(model, tmp_path):
    """The last bit of a result can depend on the alignment of the tensors."""
    save_model(tmp_path / "model.safetensors", model)
    assert {tensor.data_ptr() % 64 for tensor in load_model(tmp_path / "model.safetensors").network.parameters()} == {0}
