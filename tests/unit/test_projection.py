# SPDX-License-Identifier: GPL-3.0-or-later
"""Projections compared with the exact ones of Gaussians, and the convention of rotations."""
import itertools
import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation import projection
from cryogem_scipion.engine.simulation.phantom import Gaussians, exact_projections, gaussian_density, phantom
from cryogem_scipion.engine.simulation.projection import euler_angles, prepare_projector, project, rotation_matrices
from cryogem_scipion.engine.simulation.slices import SliceGrid, compiled_slices, torch_slices
from cryogem_scipion.engine.simulation.volume import Volume


def beads(box, generator, count=30, narrowest=2.0, reach=0.35):
    """Gaussians with standard deviations of 2 to 5 voxels of 1 Å, inside a radius of 0.35 of the box."""
    sigmas = narrowest + 3 * torch.rand(count, generator=generator)
    directions = torch.randn(count, 3, generator=generator)
    radii = torch.rand(count, 1, generator=generator) ** (1 / 3) * (reach * box - 2 * sigmas[:, None])
    weights = 0.5 + torch.rand(count, generator=generator)
    return Gaussians(directions / directions.norm(dim=1, keepdim=True) * radii, sigmas, weights)


def eulers(count, generator):
    return torch.rand(count, 3, generator=generator) * torch.tensor([360.0, 180.0, 360.0])


AXES = torch.tensor([[0.0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 90, 90], [90, 90, 0], [0, 180, 0], [270, 90, 180]])
IN_PLANE = torch.tensor([[0.0, 0, 33], [0, 0, 45], [0, 90, 17], [120, 0, 5.5]])


def errors(images, exact_images):
    """Relative L2 error of each image."""
    return (images - exact_images).flatten(1).norm(dim=1) / exact_images.flatten(1).norm(dim=1)


@pytest.mark.parametrize("box", [64, 65, 128])
def test_projections_agree_with_the_exact_ones(box, generator):
    model = beads(box, generator)
    rotations = rotation_matrices(torch.cat([eulers(8, generator), AXES, IN_PLANE]))
    shifts = 4 * torch.rand(len(rotations), 2, generator=generator) - 2
    exact = exact_projections(model, rotations, shifts, box, 1.0)
    volume = gaussian_density(model, box, 1.0)
    # An error of 0.015 with the defaults and 0.005 with more padding would suffice; cubic interpolation is better.
    assert errors(project(prepare_projector(volume), rotations, shifts, box, 1.0), exact).max() < 0.005
    assert errors(project(prepare_projector(volume, padding=2.0), rotations, shifts, box, 1.0), exact).max() < 0.001


def test_the_error_decreases_with_padding_and_interpolation_order(generator):
    model = beads(48, generator)
    rotations, shifts = rotation_matrices(eulers(6, generator)), torch.zeros(6, 2)
    exact = exact_projections(model, rotations, shifts, 48, 1.0)
    volume = gaussian_density(model, 48, 1.0)
    worst = {}
    for order, padding in itertools.product((1, 3), (1.0, 2.0, 3.0)):
        images = project(prepare_projector(volume, padding, order), rotations, shifts, 48, 1.0)
        worst[order, padding] = errors(images, exact).max()
    assert worst[1, 1.0] > 2 * worst[1, 2.0] > 3 * worst[1, 3.0]
    assert worst[3, 1.0] > 10 * worst[3, 2.0]
    assert worst[1, 2.0] > 10 * worst[3, 2.0]


def test_wrong_conventions_change_the_images(generator):
    """Negative controls: each wrong convention gives images that are far from the right ones."""
    volume = phantom(48, 5.0)
    projector = prepare_projector(volume)
    angles, shifts = eulers(6, generator), 3 * torch.rand(6, 2, generator=generator) + 1
    right = project(projector, rotation_matrices(angles), shifts, 48, 5.0)
    mirrored = prepare_projector(Volume(volume.density.flip(2).roll(1, 2), 5.0))
    negated = angles * torch.tensor([1.0, 1.0, -1.0])
    for wrong in (project(projector, rotation_matrices(angles).mT, shifts, 48, 5.0),
                  project(projector, rotation_matrices(negated), shifts, 48, 5.0),
                  project(projector, rotation_matrices(angles), -shifts, 48, 5.0),
                  project(projector, rotation_matrices(angles), shifts.flip(1), 48, 5.0),
                  project(mirrored, rotation_matrices(angles), shifts, 48, 5.0)):
        assert errors(wrong, right).mean() > 0.2


def test_a_blob_appears_at_its_rotated_centre():
    # A point at (12, 0, 0) Å seen along z with psi = 90: A rotates x into -y.
    model = Gaussians(torch.tensor([[12.0, 0.0, 0.0]]), torch.tensor([4.0]), torch.tensor([1.0]))
    projector = prepare_projector(gaussian_density(model, 40, 2.0))
    image = project(projector, rotation_matrices(torch.tensor([[0.0, 0.0, 90.0]])), torch.zeros(1, 2), 40, 2.0)[0]
    assert divmod(int(image.argmax()), 40) == (20 - 6, 20)
    # The line integral through the middle of a Gaussian of height 1; 1 % for the interpolation.
    assert float(image.max()) == pytest.approx(4 * math.sqrt(2 * math.pi), rel=0.01)


@pytest.mark.parametrize(("box", "pixel_size"), [(32, 2.0), (33, 1.9), (48, 1.37), (96, 0.7), (45, 1.0)])
def test_projections_are_right_for_any_pixel_size_and_box(box, pixel_size, generator):
    model = beads(48, generator, narrowest=4.0, reach=0.4)  # two of the coarsest pixels wide, inside the smallest box
    rotations = rotation_matrices(eulers(5, generator))
    shifts = torch.rand(5, 2, generator=generator) - 0.5
    projector = prepare_projector(gaussian_density(model, 48, 1.0), padding=2.0)
    images = project(projector, rotations, shifts, box, pixel_size)
    # 0.005 is the error of the interpolation, for Gaussians that reach further out than above.
    assert errors(images, exact_projections(model, rotations, shifts, box, pixel_size)).max() < 0.005


def test_larger_boxes_are_zero_outside_the_map_and_smaller_boxes_crop(generator):
    projector = prepare_projector(phantom(40, 6.0))
    rotations, shifts = rotation_matrices(eulers(3, generator)), torch.rand(3, 2, generator=generator)
    large, same, small = (project(projector, rotations, shifts, box, 6.0) for box in (101, 40, 15))
    assert torch.equal(large[:, 50 - 20 : 50 + 20, 50 - 20 : 50 + 20], same)
    assert not large[:, :29].any()
    assert torch.equal(same[:, 20 - 7 : 20 + 8, 20 - 7 : 20 + 8], small)


def test_shifted_particles_are_cut_off_and_do_not_wrap_around(generator):
    projector = prepare_projector(phantom(40, 6.0))
    rotations = rotation_matrices(eulers(1, generator)).expand(4, 3, 3)
    shifts = torch.tensor([[0.0, 0.0], [7.0, -3.0], [25.0, 0.0], [0.0, -300.0]])
    still, moved, half_out, out = project(projector, rotations, shifts, 40, 6.0)
    assert torch.equal(moved[7:, :-3], still[:-7, 3:])
    assert torch.equal(half_out[25:], still[:-25])
    assert not half_out[:25].any()
    assert not out.any()


def test_density_in_the_corners_of_the_box_does_not_wrap_around(generator):
    centres = torch.tensor([[15.0, 15.0, 15.0], [-15.0, -15.0, 15.0], [0.0, 0.0, 0.0]])
    model = Gaussians(centres, torch.tensor([2.5, 2.5, 2.5]), torch.ones(3))
    rotations, shifts = rotation_matrices(eulers(6, generator)), torch.zeros(6, 2)
    # 0.02, because the box holds the Gaussians to only 3 standard deviations along an axis.
    images = project(prepare_projector(gaussian_density(model, 46, 1.0)), rotations, shifts, 46, 1.0)
    assert errors(images, exact_projections(model, rotations, shifts, 46, 1.0)).max() < 0.02


def test_projection_keeps_the_integral_of_the_density(generator):
    volume = phantom(48, 5.0)
    rotations, shifts = rotation_matrices(eulers(4, generator)), torch.rand(4, 2, generator=generator)
    images = project(prepare_projector(volume), rotations, shifts, 40, 6.0)
    # 1e-3, because the spectrum at zero frequency is interpolated from its neighbours.
    mass = (volume.density.sum() * 5.0**3).expand(4)
    torch.testing.assert_close(images.sum((1, 2)) * 6.0**2, mass, rtol=1e-3, atol=0)


@pytest.mark.parametrize("box", [32, 33])
def test_batches_and_threads_do_not_change_a_bit(box, generator, torch_threads, processor):
    projector = prepare_projector(phantom(box, 8.0))
    rotations, shifts = rotation_matrices(eulers(300, generator)), torch.rand(300, 2, generator=generator)
    torch_threads(2)
    together = project(projector, rotations, shifts, box, 8.0)
    torch_threads(1)
    assert torch.equal(project(projector, rotations, shifts, box, 8.0), together)
    for size in (1, 2, 3, 7):
        parts = [slice(start, start + size) for start in range(0, 42, size)]
        apart = [project(projector, rotations[part], shifts[part], box, 8.0) for part in parts]
        assert torch.equal(torch.cat(apart), together[:42])


@pytest.mark.parametrize("order", [1, 3])
def test_torch_and_the_compiled_kernel_give_the_same_slices(order, generator):
    projector = prepare_projector(phantom(40, 6.0), 1.5, order)
    rotations, shifts = rotation_matrices(eulers(5, generator)), torch.rand(5, 2, generator=generator)
    grid = SliceGrid(width=34, scale=projector.padded_box * 6 / (34 * 7.1), radius=17.0, gain=0.3, order=order)
    compiled, gathered = (of(projector.spectrum, rotations, shifts, grid) for of in (compiled_slices, torch_slices))
    # Rounding: in float32, positions up to 30 are known to 2e-6, and the spectrum varies over a few grid points.
    compiled = torch.from_numpy(compiled)
    assert (compiled - gathered).abs().max() < 2e-6 * compiled.abs().max()


def test_projection_without_the_compiled_kernel_gives_the_same_images(generator, monkeypatch):
    projector = prepare_projector(phantom(40, 6.0))
    rotations, shifts = rotation_matrices(eulers(5, generator)), 20 * torch.rand(5, 2, generator=generator) - 10
    compiled = project(projector, rotations, shifts, 47, 5.3)
    monkeypatch.setattr(projection, "_has_kernel", lambda device: False)
    # Rounding in float32, summed over the frequencies.
    assert errors(project(projector, rotations, shifts, 47, 5.3), compiled).max() < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_images(generator):
    volume = phantom(40, 6.0)
    rotations, shifts = rotation_matrices(eulers(5, generator)), 20 * torch.rand(5, 2, generator=generator) - 10
    projector = prepare_projector(Volume(volume.density.cuda(), volume.pixel_size))
    images = project(projector, rotations.cuda(), shifts.cuda(), 47, 5.3)
    assert images.device.type == "cuda"
    assert errors(images.cpu(), project(prepare_projector(volume), rotations, shifts, 47, 5.3)).max() < 1e-5  # rounding


def test_zero_projections_are_allowed_and_arguments_do_not_change(generator):
    volume = phantom(32, 8.0)
    rotations, shifts = rotation_matrices(eulers(2, generator)), torch.full((2, 2), 1.3)
    before = [volume.density.clone(), rotations.clone(), shifts.clone()]
    projector = prepare_projector(volume)
    spectrum = projector.spectrum.clone()
    project(projector, rotations, shifts, 32, 8.0)
    assert all(torch.equal(*pair) for pair in zip(before, [volume.density, rotations, shifts], strict=True))
    assert torch.equal(spectrum, projector.spectrum)
    assert project(projector, rotations[:0], shifts[:0], 32, 8.0).shape == (0, 32, 32)


def test_rotations_are_those_of_relion(generator):
    angles = eulers(20, generator).double()
    axis_rotations = torch.from_numpy(Rotation.from_euler("ZYZ", angles.numpy(), degrees=True).as_matrix())
    torch.testing.assert_close(rotation_matrices(angles), axis_rotations.mT)
    # The third row is the viewing direction in the map: its azimuth is rot, its inclination is tilt.
    rot, tilt = torch.deg2rad(angles[:, :2]).unbind(1)
    direction = torch.stack([tilt.sin() * rot.cos(), tilt.sin() * rot.sin(), tilt.cos()], dim=1)
    torch.testing.assert_close(rotation_matrices(angles)[:, 2], direction)


def test_euler_angles_of_a_rotation_give_the_same_rotation(generator):
    poles = torch.tensor([[20.0, 0, 50], [-70, 180, 10], [0, 1e-9, 5]])
    rotations = rotation_matrices(torch.cat([eulers(50, generator), AXES, poles]).double())
    angles = euler_angles(rotations)
    assert (angles[:, 1] >= 0).all()
    assert (angles[-3:, 0] == 0).all()
    torch.testing.assert_close(rotation_matrices(angles), rotations, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("padding", "order", "message"), [
    (0.5, 3, "padding is 0.5; give 1 or more"), (float("nan"), 3, "padding is nan"),
    (2.0, 2, r"order of interpolation is 2; give 1 \(linear\) or 3 \(cubic\)")])
def test_unusable_padding_and_order_are_refused(padding, order, message):
    # The type checker of the tests would refuse order 2 before the function itself does.
    prepare_unchecked = getattr(prepare_projector, "__wrapped__", prepare_projector)
    with pytest.raises(SettingsError, match=message):
        prepare_unchecked(phantom(8, 30.0), padding, order)


@pytest.mark.parametrize(("box", "pixel_size"), [(0, 1.0), (10, 0.0), (10, -2.0)])
def test_unusable_boxes_and_pixel_sizes_are_refused(box, pixel_size):
    with pytest.raises(SettingsError, match=f"box {box} and pixel size {pixel_size:g} make no image"):
        project(prepare_projector(phantom(8, 30.0)), torch.eye(3)[None], torch.zeros(1, 2), box, pixel_size)
