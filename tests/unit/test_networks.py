# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks: published names and shapes, an independent forward pass, the encoder, the receptive field."""
import pytest
import torch

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.translator.networks import (
    PatchProjections,
    build_discriminator,
    build_generator,
    latent_noise,
)
from tests import published_layout
from tests.unit.conftest import with_random_output_layer


@pytest.mark.parametrize(("levels", "width"), [(5, 4), (6, 2), (10, 64)])
def test_published_layout(levels, width):
    with torch.device("meta"):
        network = build_generator({"name": "published", "levels": levels, "width": width})
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes == published_layout.generator_shapes(levels, width)
    if levels == 10:
        assert len(shapes) == 40
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(79.6e6, rel=0.001)
        assert shapes["model.submodule.submodule.submodule.up.1.weight"] == (1024, 256, 4, 4)
        assert network.feature_channels == (64, 128, 256, 512, 512)


def test_published_layout_of_the_projections():
    with torch.device("meta"):
        projections = PatchProjections((64, 128, 256, 512, 512))
    shapes = {name: tuple(tensor.shape) for name, tensor in projections.state_dict().items()}
    assert shapes == published_layout.projection_shapes(64)


@pytest.mark.parametrize("shape", [(64, 64), (64, 128)])
def test_published_forward_pass_layer_by_layer(shape, generator):
    network = build_generator({"name": "published", "levels": 6, "width": 2}).double()
    state = published_layout.state_dict(published_layout.generator_shapes(6, 2), generator)
    network.load_state_dict(state)
    image = torch.randn(2, 1, *shape, generator=generator, dtype=torch.float64)
    outputs = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.register_forward_hook(lambda _, __, out, name=name: outputs.update({name: out}))
    translated, features = network(image)
    expected = published_layout.layer_outputs({name: value.double() for name, value in state.items()}, 6,
                                       image / network.scale)
    assert len(outputs) == 12
    for name, value in outputs.items():
        assert float(value.detach().std()) > 0.05, name  # the comparison of a constant output would show nothing
        assert torch.allclose(value, expected[name], atol=1e-10), name
    assert torch.allclose(translated, expected["image"] * network.scale, atol=1e-10)
    for a, b in zip(features, expected["contrastive"], strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def build(name, **values):
    torch.manual_seed(5)
    return build_generator({"name": name, **values})


@pytest.mark.parametrize(("name", "values"), [("published", {"levels": 6, "width": 2}), ("residual", {"width": 4})])
def test_gradients_through_the_encoder_are_those_of_the_full_pass(name, values, generator):
    network = build(name, **values).double()
    image = torch.randn(1, 1, 64, 64, generator=generator, dtype=torch.float64)
    latent = latent_noise(network, 1, (64, 64), generator)
    latent = latent and [noise.double() for noise in latent]
    gradients = []
    for features in (network.encode(image), network(image, latent)[1]):
        network.zero_grad()
        sum(f.square().sum() for f in features).backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 8
    for a, b in zip(*gradients, strict=True):
        assert float((a - b).abs().max()) <= 1e-10 * max(1.0, float(b.abs().max()))


def test_untrained_residual_generator_returns_its_input(generator):
    network = build("residual", width=8)
    image = torch.randn(1, 1, 96, 64, generator=generator)
    translated, features = network(image, latent_noise(network, 1, (96, 64), generator))
    assert torch.equal(translated, image)
    assert [f.shape[1] for f in features] == list(network.feature_channels)


def test_receptive_field_of_the_residual_generator_is_within_its_margin(generator):
    network = with_random_output_layer(build("residual", width=4), 0.2)
    image = torch.randn(1, 1, 512, 512, generator=generator)
    changed = image.clone()
    changed[..., 256, 256] += 100
    with torch.no_grad():
        difference = (network(image)[0] - network(changed)[0]).abs()[0, 0]
    changed_pixels = torch.nonzero(difference > 0)
    assert int((changed_pixels - 256).abs().max()) <= network.margin
    assert int((changed_pixels - 256).abs().max()) > 32


@pytest.mark.parametrize("name", ["multiscale", "patch"])
def test_discriminators_take_any_shape(name, generator):
    torch.manual_seed(1)
    network = build_discriminator({"name": name, "width": 4})
    score_maps = network(torch.randn(2, 1, 128, 160, generator=generator))
    assert len(score_maps) == (2 if name == "multiscale" else 1)
    assert all(scores.shape[:2] == (2, 1) and scores.shape[2] < scores.shape[3] for scores in score_maps)


def test_published_discriminator_has_the_published_size():
    with torch.device("meta"):
        network = build_discriminator({"name": "patch", "width": 128})
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(11.0e6, rel=0.01)


def test_projections_have_published_names_and_unit_length(generator):
    torch.manual_seed(1)
    projections = PatchProjections((4, 8), 16)
    names = {name: tuple(tensor.shape) for name, tensor in projections.state_dict().items()}
    assert names == {"mlp_0.0.weight": (16, 4), "mlp_0.0.bias": (16,), "mlp_0.2.weight": (16, 16),
                     "mlp_0.2.bias": (16,), "mlp_1.0.weight": (16, 8), "mlp_1.0.bias": (16,),
                     "mlp_1.2.weight": (16, 16),
                     "mlp_1.2.bias": (16,)}
    vectors = projections(1, torch.randn(5, 8, generator=generator))
    assert torch.allclose(vectors.norm(dim=1), torch.ones(5), atol=1e-5)


def test_unknown_networks_are_refused():
    with pytest.raises(SettingsError, match="'diffusion' does not exist"):
        build_generator({"name": "diffusion"})
    with pytest.raises(SettingsError, match="'critic' does not exist"):
        build_discriminator({"name": "critic"})
