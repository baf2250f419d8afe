# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks: published names and shapes, an independent forward pass, encoder alone, finite view."""
import pytest
import torch
from torch.nn import functional as F

from cryogem_scipion.errors import SettingsError
from cryogem_scipion.translator.networks import PatchProjections, discriminator, latent_noise
from cryogem_scipion.translator.networks import generator as named_generator


def published_shapes(levels, width):
    """Names and shapes as the published files have them."""
    channels = [min(width * 2**k, 8 * width) for k in range(levels)]
    shapes = {}
    for k in range(levels):
        prefix = "model." + "submodule." * k
        outer = 1 if k == 0 else channels[k - 1]
        down = "down.0" if k == 0 else "down.1"
        shapes[f"{prefix}{down}.weight"] = (channels[k], outer, 4, 4)
        shapes[f"{prefix}{down}.bias"] = (channels[k],)
        into = channels[k] if k == levels - 1 else 2 * channels[k]
        shapes[f"{prefix}up.1.weight"] = (into, outer, 4, 4)
        shapes[f"{prefix}up.1.bias"] = (outer,)
    return shapes


@pytest.mark.parametrize(("levels", "width"), [(5, 4), (6, 2), (10, 64)])
def test_published_layout(levels, width):
    with torch.device("meta"):
        network = named_generator({"name": "published", "levels": levels, "width": width})
    found = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert found == published_shapes(levels, width)
    if levels == 10:
        assert len(found) == 40
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(79.6e6, rel=0.001)
        assert found["model.submodule.submodule.submodule.up.1.weight"] == (1024, 256, 4, 4)
        assert network.feature_channels == (64, 128, 256, 512, 512)


def straightforward(state, levels, image):
    """The published network written down flat: a way down, a way up."""
    skips, features = [], image
    for k in range(levels):
        prefix = "model." + "submodule." * k + ("down.0" if k == 0 else "down.1")
        features = F.conv2d(F.leaky_relu(features, 0.2) if k else features, state[prefix + ".weight"],
                            state[prefix + ".bias"], 2, 1)
        if 0 < k < levels - 1:
            features = F.instance_norm(features)
        skips.append(features)
    features = skips[-1]
    for k in reversed(range(levels)):
        prefix = "model." + "submodule." * k + "up.1"
        features = F.conv_transpose2d(F.relu(features), state[prefix + ".weight"], state[prefix + ".bias"], 2, 1)
        if k:
            features = torch.cat([F.leaky_relu(skips[k - 1], 0.2), F.instance_norm(features)], 1)
    return torch.tanh(features), [F.leaky_relu(skip, 0.2) for skip in skips[:5]]


@pytest.mark.parametrize("shape", [(64, 64), (64, 128)])
def test_published_forward_pass(shape, generator):

    network = build("published", levels=6, width=2).double()
    image = torch.randn(2, 1, *shape, generator=generator, dtype=torch.float64)
    found, features = network(image)
    wanted, wanted_features = straightforward(network.state_dict(), 6, image / network.scale)
    assert torch.allclose(found, wanted * network.scale, atol=1e-10)
    for a, b in zip(features, wanted_features, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def build(name, **values):
    torch.manual_seed(5)
    return named_generator({"name": name, **values})


@pytest.mark.parametrize(("name", "values"), [("published", {"levels": 6, "width": 2}), ("residual", {"width": 4})])
def test_gradients_of_the_encoder_alone_are_those_of_the_full_pass(name, values, generator):
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


def test_residual_generator_begins_near_its_input(generator):
    network = build("residual", width=8)
    image = torch.randn(1, 1, 96, 64, generator=generator)
    made, features = network(image, latent_noise(network, 1, (96, 64), generator))
    assert made.shape == image.shape
    assert float((made - image).detach().std()) < 0.3
    assert [f.shape[1] for f in features] == list(network.feature_channels)


def test_residual_generator_sees_no_further_than_its_margin(generator):
    network = build("residual", width=4)
    with torch.no_grad():
        network.leave.weight *= 50
    image = torch.randn(1, 1, 512, 512, generator=generator)
    changed = image.clone()
    changed[..., 256, 256] += 100
    with torch.no_grad():
        difference = (network(image)[0] - network(changed)[0]).abs()[0, 0]
    reach = torch.nonzero(difference > 0)
    assert int((reach - 256).abs().max()) <= network.margin
    assert int((reach - 256).abs().max()) > 32


@pytest.mark.parametrize("name", ["multiscale", "patch"])
def test_discriminators_judge_any_shape(name, generator):
    torch.manual_seed(1)
    network = discriminator({"name": name, "width": 4})
    maps = network(torch.randn(2, 1, 128, 160, generator=generator))
    assert len(maps) == (2 if name == "multiscale" else 1)
    assert all(m.shape[:2] == (2, 1) and m.shape[2] < m.shape[3] for m in maps)


def test_published_discriminator_has_the_published_size():
    with torch.device("meta"):
        assert sum(p.numel() for p in discriminator({"name": "patch", "width": 128}).parameters()) == pytest.approx(
            11.0e6, rel=0.01)


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
        named_generator({"name": "diffusion"})
    with pytest.raises(SettingsError, match="'critic' does not exist"):
        discriminator({"name": "critic"})
