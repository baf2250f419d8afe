# SPDX-License-Identifier: GPL-3.0-or-later
"""Losses against loops; places of the contrastive loss; empty and full masks."""
import math

import pytest
import torch
from torch.nn.functional import normalize

from cryogem_scipion.engine.translator.losses import (
    contrast_drift,
    contrastive_loss,
    gradient_penalty,
    least_squares_loss,
    patch_nce_loss,
    sample_points,
)
from cryogem_scipion.engine.translator.networks import PatchProjections, build_generator
from tests.unit.conftest import with_random_output_layer


def unit_vectors(count, generator):
    return normalize(torch.randn(count, 8, generator=generator, dtype=torch.float64), dim=1)


def loop_loss(query, key, inside, guided, temperature=0.07):
    """Contrastive loss by loops over queries and negatives."""
    total = 0.0
    for i in range(len(query)):
        positive = math.exp(float(query[i] @ key[i]) / temperature)
        denominator = positive
        for j in range(len(key)):
            if j != i and (not guided or (i < inside) != (j < inside)):
                denominator += math.exp(float(query[i] @ key[j]) / temperature)
        total -= math.log(positive / denominator)
    return total / len(query)


def published_loop_loss(query, key, half, temperature=0.07):
    """Published form by loops: the negatives of row i are negative key i with all queries of the region."""
    total = 0.0
    for own, other in ((0, half), (half, 0)):
        for i in range(half):
            positive = math.exp(float(query[own + i] @ key[own + i]) / temperature)
            rest = sum(math.exp(float(key[other + i] @ query[own + j]) / temperature) for j in range(half))
            total -= math.log(positive / (positive + rest))
    return total / (2 * half)


@pytest.mark.parametrize("inside", [5, 12, 20])
@pytest.mark.parametrize("form", ["guided", "unguided"])
def test_contrastive_loss_is_that_of_a_double_loop(form, inside, generator):
    query, key = unit_vectors(24, generator), unit_vectors(24, generator)
    loss = float(patch_nce_loss(query, key, inside, form=form))
    assert loss == pytest.approx(loop_loss(query, key, inside, form == "guided"), rel=1e-12)


def test_published_form_is_that_of_a_double_loop(generator):
    query, key = unit_vectors(20, generator), unit_vectors(20, generator)
    loss = float(patch_nce_loss(query, key, 10, form="published"))
    assert loss == pytest.approx(published_loop_loss(query, key, 10), rel=1e-12)


@pytest.mark.parametrize("inside", [0, 24])
@pytest.mark.parametrize("form", ["guided", "published"])
def test_if_all_places_are_in_one_region_all_others_are_negatives(form, inside, generator):
    query, key = unit_vectors(24, generator), unit_vectors(24, generator)
    loss = float(patch_nce_loss(query, key, inside, form=form))
    assert loss == pytest.approx(loop_loss(query, key, inside, guided=False), rel=1e-12)


def test_a_single_place_has_no_loss(generator):
    assert float(patch_nce_loss(unit_vectors(1, generator), unit_vectors(1, generator), 1)) == 0


@pytest.mark.parametrize("grid", [(16, 16), (8, 24), (5, 7)])
def test_places_lie_in_their_regions_without_repetition(grid, generator):
    mask = torch.zeros(48, 72)
    mask[:24, :40] = 1
    cells = torch.nn.functional.adaptive_avg_pool2d(mask[None, None], grid).flatten()
    inside, outside = sample_points(mask, grid, 32, generator)
    assert bool((cells[inside] >= 0.5).all())
    assert bool((cells[outside] < 0.5).all())
    assert len(set(inside.tolist())) == len(inside)
    assert len(inside) + len(outside) == min(32, grid[0] * grid[1])


def test_the_other_region_gets_the_places_that_a_small_region_lacks(generator):
    mask = torch.zeros(32, 32)
    mask[3, 3:6] = 1
    inside, outside = sample_points(mask, (32, 32), 64, generator)
    assert (len(inside), len(outside)) == (3, 61)
    for value, counts in ((0.0, (0, 64)), (1.0, (64, 0))):
        inside, outside = sample_points(torch.full((32, 32), value), (32, 32), 64, generator)
        assert (len(inside), len(outside)) == counts


@pytest.mark.parametrize("form", ["guided", "published", "unguided"])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_loss_of_batches_of_oblong_images_is_finite(form, value, generator):
    torch.manual_seed(3)
    projections = PatchProjections((3, 4), 16)
    features = [torch.randn(2, c, s, 2 * s, generator=generator, requires_grad=True) for c, s in ((3, 16), (4, 8))]
    masks = torch.zeros(2, 32, 64)
    masks[:, :, :int(64 * value)] = 1
    keys = [f.detach() + 0.1 for f in features]
    loss = contrastive_loss(projections, features, keys, masks, generator, patches=32, form=form)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(bool(torch.isfinite(f.grad).all()) and bool(f.grad.any()) for f in features)


@pytest.mark.parametrize("form", ["guided", "published", "unguided"])
def test_loss_is_that_of_loops_over_layers_and_images(form, generator):
    """Two oblong images, one mask nearly empty; query, positive and negatives are read at the same places."""
    torch.manual_seed(4)
    projections = PatchProjections((3, 4), 16).double()
    generated, physical = ([torch.randn(2, c, s, 2 * s, generator=generator, dtype=torch.float64)
                            for c, s in ((3, 16), (4, 8))] for _ in range(2))
    masks = torch.zeros(2, 32, 64)
    masks[0, :20, 10:40] = 1
    masks[1, :4, :2] = 1  # half a cell of the coarse layer: one place is inside there
    seed = 77
    loss = contrastive_loss(projections, generated, physical, masks, torch.Generator().manual_seed(seed), patches=24,
                        form=form)
    same_random, values = torch.Generator().manual_seed(seed), []
    for layer in range(2):
        grid = tuple(generated[layer].shape[2:])
        for image in range(2):
            inside, outside = sample_points(masks[image], grid, 24, same_random)
            places = [divmod(place, grid[1]) for place in [*inside.tolist(), *outside.tolist()]]
            query, key = (projections(layer, torch.stack([side[layer][image, :, y, x] for y, x in places])).detach()
                          for side in (generated, physical))
            half = min(len(inside), len(outside))
            if form == "published" and half:
                rows = [*range(half), *range(len(inside), len(inside) + half)]
                values.append(published_loop_loss(query[rows], key[rows], half))
            else:
                guided = form == "guided" and half > 0
                values.append(loop_loss(query, key, len(inside), guided))
    assert float(loss.detach()) == pytest.approx(sum(values) / len(values), rel=1e-10)


@pytest.mark.parametrize(("name", "values"), [("published", {"levels": 6, "width": 2}), ("residual", {"width": 4})])
def test_gradients_of_a_step_are_those_of_three_full_passes(name, values, generator):
    """The features of the input come with its translation; those of the generated image from the encoder."""
    torch.manual_seed(6)
    network = with_random_output_layer(build_generator({"name": name, **values}), 0.003).double()
    for parameter in network.parameters():
        parameter.data *= 5  # every layer then has an influence
    projections = PatchProjections(network.feature_channels, 16).double()
    image = torch.randn(2, 1, 64, 128, generator=generator, dtype=torch.float64)
    masks = torch.zeros(2, 64, 128)
    masks[:, 16:48, 20:70] = 1
    gradients = []
    for encoder_only in (True, False):
        generated, features = network(image)
        generated_features = network.encode(generated) if encoder_only else network(generated)[1]
        physical_features = features if encoder_only else network(image)[1]
        loss = contrastive_loss(projections, generated_features, physical_features, masks,
                                torch.Generator().manual_seed(5), patches=32)
        loss = loss + generated.square().mean()
        parameters = [*network.parameters(), *projections.parameters()]
        gradients.append(torch.autograd.grad(loss, parameters, allow_unused=True))
    assert sum(g is not None and bool(g.any()) for g in gradients[0]) > 20
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert float((one - other).abs().max()) <= 1e-10 * max(1.0, float(other.abs().max()))


def test_all_score_maps_have_the_same_weight():
    scores = [torch.zeros(1, 1, 9, 9), torch.full((1, 1, 2, 2), 3.0)]
    assert float(least_squares_loss(scores, 1.0)) == pytest.approx(2.5)


def test_gradient_penalty_is_the_squared_gradient(generator):
    slopes = torch.randn(1, 1, 6, 8, generator=generator)
    image = torch.randn(3, 1, 6, 8, generator=generator, requires_grad=True)
    scores = (slopes * image).sum((1, 2, 3)).reshape(3, 1, 1, 1)
    penalty = gradient_penalty([scores], image)
    assert float(penalty.detach()) == pytest.approx(float(slopes.square().sum()), rel=1e-5)


@pytest.mark.parametrize("drift", [-0.5, 0.0, 0.3])
def test_contrast_drift_is_the_added_part_of_the_signal(drift, generator):
    signal = torch.zeros(2, 40, 60)
    signal[:, 10:20, 10:30] = -0.4
    change = drift * signal + torch.tensor([1.0, -2.0])[:, None, None]
    assert float(contrast_drift(change, signal)) == pytest.approx(drift, abs=1e-6)
    assert float(contrast_drift(change, torch.zeros_like(signal))) == 0
