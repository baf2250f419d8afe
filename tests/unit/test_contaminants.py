# SPDX-License-Identifier: GPL-3.0-or-later
"""Contaminants are found where they are and nowhere else, and look the same on generated as on real micrographs."""
import pytest
import torch
from scipy import ndimage

from cryogem_scipion.engine.noise.contaminant_search import find_contaminants, measure_range
from cryogem_scipion.engine.noise.contaminants import (
    Contaminant,
    FieldPart,
    draw_field_part,
    lay_contaminants,
    opacity_map,
)
from cryogem_scipion.engine.noise.ice import IceMap
from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise
from cryogem_scipion.engine.translator.model import Translator, load_model, save_model
from cryogem_scipion.engine.translator.networks import build_generator

SHAPE, SIZE = (256, 320), 24
PARTS = [FieldPart(0, turns, mirrored, SHAPE if turns % 2 == 0 else SHAPE[::-1], (0.0, 0.0))
         for turns in range(4) for mirrored in (False, True)]


def micrograph(generator, particles=25):
    """Noise with round textured particles of half its variance."""
    axis = torch.arange(SIZE) - SIZE / 2 + 0.5
    inside = axis[:, None] ** 2 + axis[None] ** 2 < (SIZE / 2) ** 2
    image = torch.randn(SHAPE, generator=generator)
    for _ in range(particles):
        texture = torch.from_numpy(ndimage.gaussian_filter(torch.randn(SIZE, SIZE, generator=generator).numpy(), 1.0))
        y, x = (int(torch.randint(edge - SIZE, (), generator=generator)) for edge in SHAPE)
        image[y:y + SIZE, x:x + SIZE] -= torch.where(inside, 0.7 * texture / texture.std(), 0.0)
    return image


@pytest.fixture
def usual(generator):
    return measure_range([micrograph(generator) for _ in range(8)], float(SIZE))


def overlap(contaminants, truth):
    """Share of the true contaminants that is found, and share of the micrograph that is found by mistake."""
    mask = opacity_map(contaminants, SHAPE) > 0.5
    return float((mask & truth).sum() / truth.sum()), float((mask & ~truth).sum() / truth.numel())


def test_crystal_aggregate_and_edge_are_found(usual, generator):
    image, truth = micrograph(generator), torch.zeros(SHAPE, dtype=torch.bool)
    image[40:60, 100:120] -= 6
    truth[40:60, 100:120] = True
    clump = torch.from_numpy(ndimage.gaussian_filter(torch.randn(48, 48, generator=generator).numpy(), 1.0))
    image[120:168, 200:248] += 2.5 * clump / clump.std()
    truth[120:168, 200:248] = True
    image[:, :30] -= 10
    truth[:, :30] = True
    contaminants = find_contaminants(image, usual)
    hit, false = overlap(contaminants, truth)
    # Their rims are found as well, up to a quarter of a particle.
    assert hit > 0.9
    assert false < 0.12
    assert sorted(contaminant.fixed for contaminant in contaminants) == [False, False, True]


def test_particles_and_noise_are_no_contaminants(usual, generator):
    results = [find_contaminants(micrograph(generator), usual) for _ in range(8)]
    # The extremes come from as many images: about one new image exceeds them by chance.
    assert sum(map(len, results)) <= 4
    assert sum(float(opacity_map(contaminants, SHAPE).mean()) for contaminants in results) / 8 < 0.005


def test_hot_pixels_are_no_contaminants(usual, generator):
    image = micrograph(generator)
    image[::64, ::64] = 200.0
    assert float(opacity_map(find_contaminants(image, usual), SHAPE).mean()) < 0.005


@pytest.mark.parametrize("part", PARTS)
def test_a_fixed_contaminant_turns_with_its_micrograph(part, generator):
    whole, opacity = torch.randn(SHAPE, generator=generator), torch.zeros(SHAPE)
    opacity[200:, 7:90] = 1.0
    contaminant = Contaminant(whole[200:, 7:90], opacity[200:, 7:90], (200, 7), True)
    layer = lay_contaminants([contaminant], SHAPE, part, part.field, generator)
    turned = [torch.rot90(image, part.turns) for image in (whole, opacity)]
    turned = [image.flip(1) if part.mirrored else image for image in turned]
    assert torch.equal(layer.opacity, turned[1])
    assert torch.equal(layer.values, turned[0] * turned[1])


def test_a_part_of_a_micrograph_shows_a_part_of_its_contaminants(generator):
    contaminant = Contaminant(torch.randn(30, 30, generator=generator), torch.ones(30, 30), (50, 60), True)
    near, far = (FieldPart(0, 0, False, SHAPE, (top, 40.0)) for top in (65.0, 100.0))
    layer = lay_contaminants([contaminant], SHAPE, near, (64, 64), generator)
    assert torch.equal(layer.values[:15, 20:50], contaminant.values[15:])
    assert float(layer.opacity.sum()) == 15 * 30
    assert lay_contaminants([contaminant], SHAPE, far, (64, 64), generator) is None


def test_movable_contaminants_lie_anywhere_and_whole(generator):
    contaminant = Contaminant(torch.ones(20, 30), torch.ones(20, 30), (0, 0), False)
    square = (256, 256)
    covers = [lay_contaminants([contaminant], square, draw_field_part([square], square, generator), square, generator)
              for _ in range(40)]
    assert all(float(layer.opacity.sum()) == 600 for layer in covers)
    assert len({tuple(layer.opacity.nonzero()[0].tolist()) for layer in covers}) > 30


def test_a_scene_hides_particles_and_shows_the_contaminant(generator):
    """Where the opacity is 1, the image shows the real contaminant in the drawn ice; elsewhere nothing changes."""
    values = torch.randn(40, 50, generator=generator)
    contaminant = Contaminant(values, torch.ones(40, 50), (30, 40), True)
    ice = IceMap(torch.full((3, 3), 0.9), SHAPE)
    physical = PhysicalNoise(0.05, (ice,), contaminants=((contaminant,),))
    seed = torch.Generator().manual_seed(4)
    scene = physical.scene(SHAPE, seed)
    image = physical(torch.ones(SHAPE), seed, scene)
    bare = PhysicalNoise(0.05, (ice,))(torch.ones(SHAPE), torch.Generator().manual_seed(4))
    hidden = scene.contaminants.opacity == 1
    assert int(hidden.sum()) == 2000
    assert torch.equal(image[~hidden], bare[~hidden])
    shown = (image[hidden] / 0.9 - 1) / 0.05
    assert torch.allclose(shown.sort().values, values.flatten().sort().values, atol=1e-4)
    inside, outside = hidden.nonzero()[1000].double(), (~hidden).nonzero()[0].double()
    assert scene.hidden(torch.stack([inside, outside])).tolist() == [True, False]
    assert torch.equal(image, physical(torch.ones(SHAPE), torch.Generator().manual_seed(4)))


def test_micrographs_that_were_not_searched_take_movable_contaminants_of_others(generator):
    contaminants = (Contaminant(torch.ones(9, 9), torch.ones(9, 9), (5, 5), False),
                    Contaminant(torch.ones(256, 10), torch.ones(256, 10), (0, 0), True))
    square = (256, 256)
    physical = PhysicalNoise(0.05, tuple(IceMap(torch.ones(3, 3), square) for _ in range(2)),
                             contaminants=(None, contaminants))
    sizes = {int(physical.scene(square, generator).contaminants.opacity.sum()) for _ in range(40)}
    assert min(sizes) == 81
    assert max(sizes) >= 2560


def test_a_model_keeps_its_contaminants(tmp_path, generator):
    values, opacity = (draw(4, 6, generator=generator) for draw in (torch.randn, torch.rand))
    contaminant = Contaminant(values, opacity, (3, 8), True)
    ice = (IceMap(torch.ones(3, 3), SHAPE),) * 3
    physical = PhysicalNoise(0.05, ice, contaminants=((), None, (contaminant,)))
    config = {"name": "residual", "width": 4}
    save_model(tmp_path / "m", Translator(build_generator(config), config, physical, GreyScale(0.0, 1.0), 5.0, 0.1, 1.0,
                                          {}))
    [loaded] = load_model(tmp_path / "m").physical.contaminants[2]
    assert load_model(tmp_path / "m").physical.contaminants[:2] == ((), None)
    assert torch.equal(loaded.values, contaminant.values)
    assert torch.equal(loaded.opacity, contaminant.opacity)
    assert (loaded.corner, loaded.fixed) == ((3, 8), True)


def test_one_object_may_lie_anywhere_and_a_network_of_edges_may_not():
    radius = torch.hypot(torch.arange(101.0)[:, None] - 50, torch.arange(101.0) - 50)
    ring = (radius > 30) & (radius < 36)  # the edge of a particle: its area is that of 44 circles of 3 px radius
    for opacity, movable in ((radius < 30, True), (radius[:, 20:] < 45, True), (ring, False)):
        contaminant = Contaminant(torch.zeros(opacity.shape), opacity.float(), (0, 0), False)
        assert contaminant.movable == movable
    assert not Contaminant(torch.zeros(101, 101), (radius < 30).float(), (0, 0), True).movable
