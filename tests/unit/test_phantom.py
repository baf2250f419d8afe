# SPDX-License-Identifier: GPL-3.0-or-later
"""The phantom: its size, its lack of symmetry, and its exact projections."""
import itertools

import pytest
import torch

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation.phantom import (
    Gaussians,
    exact_projections,
    gaussian_density,
    phantom,
    phantom_gaussians,
)
from cryogem_scipion.engine.simulation.volume import diameter_angstrom


@pytest.mark.parametrize(("box", "pixel_size", "diameter"), [(96, 2.5, 180.0), (51, 5.0, 180.0), (48, 3.7, 120.0)])
def test_the_phantom_has_the_requested_diameter(box, pixel_size, diameter):
    volume = phantom(box, pixel_size, diameter)
    assert volume.density.shape == (box, box, box)
    # 8 %, because on coarse grids the edge lies between voxels: 5 Å of 180 Å on both sides.
    assert diameter_angstrom(volume) == pytest.approx(diameter, rel=0.08)


def test_each_call_gives_the_same_phantom_and_it_ends_before_the_border():
    volume = phantom(50, 5.0)
    assert torch.equal(volume.density, phantom(50, 5.0).density)
    assert volume.density[0].max() < 1e-3 * volume.density.max()
    assert volume.density.min() >= 0


def test_no_rotation_or_mirror_of_the_cube_maps_it_onto_itself():
    cube = phantom(41, 6.0).density  # odd, so that flips keep the origin
    cube = cube - cube.mean()
    alike = []
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            copy = cube.permute(order).flip([axis for axis in range(3) if flips[axis]])
            alike.append(float((copy * cube).sum() / cube.square().sum()))
    assert sorted(alike)[-1] == pytest.approx(1.0)  # the identity
    assert sorted(alike)[-2] < 0.9


def test_the_centre_of_mass_is_the_origin_and_lobes_differ_in_density():
    beads = phantom_gaussians()
    mass = beads.weights * beads.sigmas**3
    torch.testing.assert_close((mass[:, None] * beads.centres).sum(0) / mass.sum(), torch.zeros(3), atol=1e-4, rtol=0)
    assert len(beads.weights.unique()) >= 6
    assert beads.sigmas.max() > 1.3 * beads.sigmas.min()


def test_exact_projections_agree_with_sums_over_the_map(generator):
    # For a standard deviation of 1.5 voxels or more, the sum over voxels equals the integral to about 1e-9.
    centres, weights = 8 * torch.randn(6, 3, generator=generator), torch.rand(6, generator=generator)
    beads = Gaussians(centres, torch.full((6,), 3.0), weights)
    volume = gaussian_density(beads, 49, 2.0)
    identity = exact_projections(beads, torch.eye(3)[None], torch.zeros(1, 2), 49, 2.0)[0]
    torch.testing.assert_close(identity, volume.density.sum(0) * 2.0, rtol=1e-4, atol=1e-5)
    along_x = torch.tensor([[[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]])  # image x is y, image y is z
    image = exact_projections(beads, along_x, torch.tensor([[2.0, -1.0]]), 49, 2.0)[0]
    torch.testing.assert_close(image[2:, :-1], (volume.density.sum(2) * 2.0)[:-2, 1:], rtol=1e-4, atol=1e-5)


def test_no_rotations_give_no_projections():
    assert exact_projections(phantom_gaussians(), torch.zeros(0, 3, 3), torch.zeros(0, 2), 8, 30.0).shape == (0, 8, 8)


@pytest.mark.parametrize(("arguments", "message"), [
    ((0, 1.0), "box 0 and pixel size 1 make no grid"), ((8, -1.0), "box 8 and pixel size -1 make no grid"),
    ((8, 1.0, 0.0), "the phantom's diameter is 0 Å; give a value above 0")])
def test_unusable_arguments_are_refused(arguments, message):
    with pytest.raises(SettingsError, match=message):
        phantom(*arguments)
