# SPDX-License-Identifier: GPL-3.0-or-later
"""Composition of micrographs: positions, masks, and a CTF for each particle."""
import math

import pytest
import torch

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation import composition
from cryogem_scipion.engine.simulation.composition import (
    box_corners,
    boxes_inside,
    compose,
    compose_defocused,
    particle_mask,
    plane_heights,
    projection_masks,
    subpixel_shifts,
)
from cryogem_scipion.engine.simulation.ctf import Optics, apply_ctf, at_height, delocalisation_margin

OPTICS = Optics(300.0, 2.7, 0.1, 15000.0, 14000.0, 25.0)


def sphere(box, radius, shift=(0.0, 0.0)):
    """Projection of a uniform ball whose centre lies at box // 2 plus the shift."""
    grid = torch.arange(box, dtype=torch.float64) - box // 2
    squares = (grid[:, None] - shift[0]) ** 2 + (grid - shift[1]) ** 2
    return 2 * (radius**2 - squares).clamp(min=0).sqrt()


def spot(box, shift, sigma=2.0):
    grid = torch.arange(box, dtype=torch.float64) - box // 2
    return torch.exp(-((grid[:, None] - shift[0]) ** 2 + (grid - shift[1]) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize("margin", [0, 7])
def test_particles_appear_at_their_centres(box, margin, generator):
    centres = torch.tensor([[20.3, 30.9], [50.0, 15.5], [2.25, 60.75]], dtype=torch.float64)
    images = torch.stack([spot(box, shift) for shift in subpixel_shifts(centres).tolist()])
    before = images.clone(), centres.clone()
    canvas = compose(images, centres, (64, 70), margin)
    assert torch.equal(images, before[0])
    assert torch.equal(centres, before[1])
    assert canvas.shape == (64 + 2 * margin, 70 + 2 * margin)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(70.0), indexing="ij")
    truth = sum(torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 8) for cy, cx in centres.tolist())
    field = canvas[margin : margin + 64, margin : margin + 70]
    # The Gaussians end at the border of their boxes, eleven pixels from the centre: exp(−11² / 8) = 3e-7.
    torch.testing.assert_close(field, truth.double(), atol=3e-6, rtol=0)


def test_only_the_parts_outside_the_canvas_are_cut_off(generator):
    images = torch.rand(5, 16, 16, generator=generator)
    centres = torch.tensor([[-20.0, 5.0], [-3.0, -3.0], [39.0, 49.0], [20.0, 25.0], [60.0, 60.0]])
    wide = compose(images, centres, (40, 50), margin=40)
    assert torch.equal(compose(images, centres, (40, 50)), wide[40:80, 40:90])
    # Sums of 1280 numbers below one, in float32.
    assert float(wide.sum()) == pytest.approx(float(images.sum()), rel=1e-5)
    assert compose(torch.zeros(0, 8, 8), torch.zeros(0, 2), (12, 13)).shape == (12, 13)


def test_overlapping_particles_add_up():
    images = torch.ones(2, 8, 8)
    canvas = compose(images, torch.tensor([[10.0, 10.0], [12.0, 10.0]]), (30, 30))
    assert canvas.max() == 2
    assert int((canvas == 2).sum()) == 6 * 8


@pytest.mark.parametrize("box", [10, 11])
def test_boxes_inside_are_those_that_fit_completely(box):
    shape = (40, 50)
    y = torch.arange(-2, 44, dtype=torch.float64) + 0.5
    centres = torch.stack([y, torch.full_like(y, 25.0)], dim=1)
    whole = boxes_inside(centres, box, shape)
    canvas_sum = [float(compose(torch.ones(1, box, box), c[None], shape).sum()) for c in centres]
    assert whole.tolist() == [total == box * box for total in canvas_sum]
    assert box_corners(centres[:1], box).tolist() == [[-2 - box // 2, 25 - box // 2]]


def test_an_inset_of_half_a_box_makes_all_particles_whole(generator):
    from cryogem_scipion.engine.simulation.placement import place_centres

    for box in (10, 11):
        centres = place_centres(2000, (40, 50), 0.0, generator, inset=box / 2)
        assert bool(boxes_inside(centres, box, (40, 50)).all())


@pytest.mark.parametrize("radius", [12.0, 20.5, 31.0])
@pytest.mark.parametrize("box", [80, 121])
def test_the_mask_of_a_ball_has_the_area_of_the_ball(radius, box):
    centres = torch.tensor([[100.3, 90.8]], dtype=torch.float64)
    image = sphere(box, radius, subpixel_shifts(centres)[0].tolist())[None]
    mask = particle_mask(image, centres, (200, 210))
    assert mask.dtype == torch.bool
    # A mask at a tenth of the peak holds 1 − 0.1² of a ball's area; the pixels at its border add about 1 %.
    assert int(mask.sum()) == pytest.approx(0.99 * math.pi * radius**2, rel=0.02)
    inside = mask.nonzero().double()
    torch.testing.assert_close(inside.mean(dim=0), centres[0], atol=0.2, rtol=0)  # a fifth of a pixel


def test_each_particle_has_its_own_threshold():
    """A weak particle keeps its mask beside one a hundred times as strong."""
    images = torch.stack([sphere(64, 15.0), 0.01 * sphere(64, 15.0)])
    mask = particle_mask(images, torch.tensor([[50.0, 50.0], [50.0, 120.0]]), (100, 170))
    assert int(mask[:, :85].sum()) == int(mask[:, 85:].sum())


def test_soft_mask_is_half_at_the_hard_border():
    image = sphere(64, 20.0)[None]
    hard, soft = projection_masks(image), projection_masks(image, soft=True)
    assert torch.equal(soft > 0.5, hard)
    assert float(soft.max()) == 1.0
    assert float(soft[0, 0, 0]) == 0.0
    assert bool(((soft > 0.02) & (soft < 0.98)).any())
    mask = particle_mask(image, torch.tensor([[10.0, 10.0]]), (30, 30), soft=True)
    assert mask.dtype == torch.float32


def test_masks_are_clipped_at_the_border_and_empty_without_particles():
    image = sphere(64, 20.0)[None]
    cut = particle_mask(image, torch.tensor([[0.0, 50.0]]), (100, 100))
    full = particle_mask(image, torch.tensor([[50.0, 50.0]]), (100, 100))
    assert torch.equal(cut[:50], full[50:])
    assert not particle_mask(torch.zeros(1, 8, 8), torch.tensor([[5.0, 5.0]]), (20, 20)).any()
    assert not particle_mask(torch.zeros(0, 8, 8), torch.zeros(0, 2), (20, 20)).any()


@pytest.mark.parametrize("box", [40, 41])
def test_particles_at_one_height_have_the_ctf_of_the_micrograph(box, generator):
    """The sum of particles with one CTF each equals the CTF of their sum, if all CTFs are the same."""
    pixel_size, shape = 3.0, (90, 110)
    centres = torch.tensor([[30.4, 40.2], [60.0, 80.0], [4.5, 100.9]], dtype=torch.float64)
    images = torch.stack([spot(box, shift) for shift in subpixel_shifts(centres).tolist()])
    margin = 2 * delocalisation_margin(pixel_size, OPTICS)
    together = apply_ctf(compose(images, centres, shape, margin), pixel_size, OPTICS, margin)
    one_by_one = compose_defocused(images, [OPTICS] * 3, centres, shape, pixel_size)
    assert one_by_one.shape == shape
    # The paddings differ; their ripples at the border are below 1 % of the strongest value.
    assert (one_by_one - together).abs().max() < 0.01 * together.abs().max()


def test_each_particle_has_its_own_defocus():
    pixel_size, box = 3.0, 48
    raised = at_height(OPTICS, 3000.0)
    centres = torch.tensor([[80.0, 80.0], [80.0, 240.0]])
    images = torch.stack([spot(box, (0.0, 0.0), sigma=1.0)] * 2).float()
    field = compose_defocused(images, [OPTICS, raised], centres, (160, 320), pixel_size)
    for state, part in ((OPTICS, field[:, :160]), (raised, field[:, 160:])):
        alone = compose(images[:1], centres[:1], (160, 160))
        truth = apply_ctf(alone, pixel_size, state)
        assert (part - truth).abs().max() < 0.01 * truth.abs().max()  # ripples at the borders, as above
    assert (field[:, :160] - field[:, 160:]).abs().max() > 0.1 * field.abs().max()


def test_result_does_not_depend_on_the_chunks(generator, monkeypatch, processor):
    images = torch.rand(37, 12, 12, generator=generator)
    centres = 60 * torch.rand(37, 2, generator=generator)
    states = [at_height(OPTICS, 100.0 * index) for index in range(37)]
    together = compose_defocused(images, states, centres, (60, 60), 5.0)
    for chunk in (1, 5, 100):
        monkeypatch.setattr(composition, "CHUNK", chunk)
        assert torch.equal(compose_defocused(images, states, centres, (60, 60), 5.0), together)


def test_plane_heights_follow_the_tilt_and_its_axis():
    shape, pixel_size = (101, 201), 2.0
    centres = torch.tensor([[50.0, 100.0], [50.0, 0.0], [100.0, 100.0]], dtype=torch.float64)
    slope = math.tan(math.radians(30.0))
    flat = plane_heights(centres, shape, pixel_size, 30.0, axis_degrees=0.0)  # axis along x: height follows y
    # float64 rounding
    torch.testing.assert_close(flat, torch.tensor([0.0, 0.0, 100.0 * slope]).double(), atol=1e-5, rtol=0)
    turned = plane_heights(centres, shape, pixel_size, 30.0, axis_degrees=90.0)  # axis along y: height follows −x
    torch.testing.assert_close(turned, torch.tensor([0.0, 200.0 * slope, 0.0]).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: compose(torch.zeros(2, 4, 4), torch.zeros(1, 2), (9, 9)), "2 projections for 1 centres"),
        (lambda: projection_masks(torch.zeros(1, 4, 4), 0.0), "threshold of the mask is 0.0"),
        (lambda: plane_heights(torch.zeros(1, 2), (9, 9), 1.0, 90.0, 0.0), "tilt of the ice is 90.0"),
        (
            lambda: compose_defocused(torch.zeros(1, 4, 4), [], torch.zeros(1, 2), (9, 9), 1.0),
            "0 microscope states for 1 projections",
        ),
    ],
)
def test_unusable_arguments_are_refused(action, message):
    with pytest.raises(SettingsError, match=message):
        action()
