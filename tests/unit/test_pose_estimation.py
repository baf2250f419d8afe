# SPDX-License-Identifier: GPL-3.0-or-later
"""Pose estimation: rings of frequencies, search, refinement and confidence, on exact projections of a known density."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryogem_scipion.engine.figures.pose_training import reliability
from cryogem_scipion.engine.pose_estimation.assignment import PoseFinder, with_outliers
from cryogem_scipion.engine.pose_estimation.calibration import SHARPNESS, chosen_class_sharpness, chosen_confidence
from cryogem_scipion.engine.pose_estimation.estimator import Confidence, Particles, PoseEstimator
from cryogem_scipion.engine.pose_estimation.orientations import (
    about_z,
    angles_between,
    angles_modulo,
    rotations_by,
    shift_grid,
    view_frames,
)
from cryogem_scipion.engine.pose_estimation.polar_spectra import (
    ImageGeometry,
    PolarGrid,
    centred_spectra,
    ctf_on_rings,
    full_turn,
    normalised_spectra,
)
from cryogem_scipion.engine.pose_estimation.reference import Reference
from cryogem_scipion.engine.simulation.ctf import Optics, apply_ctf
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.symmetry import symmetry_operators, to_asymmetric_unit

GRID = PolarGrid(120.0, 8)
OPTICS = Optics(300.0, 2.7, 0.1, 15200.0, 14800.0, 30.0)


def blobs(box, pixel_size, centres, width=9.0):
    """Image of Gaussians at centres (x, y) in Å."""
    axis = (torch.arange(box) - box // 2) * pixel_size
    return sum(torch.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * width**2)) for x, y in centres)


def spectra(*images, box=40, pixel_size=6.0):
    return normalised_spectra(torch.stack(images), ImageGeometry(box, pixel_size), GRID)


CENTRES = [(20.0, 5.0), (-15.0, 25.0), (3.0, -30.0)]


def test_a_rotated_image_moves_along_the_rings():
    steps = 5
    angle = 2 * math.pi * steps / GRID.angles
    rotated = [(x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle))
               for x, y in CENTRES]
    first, second = full_turn(spectra(blobs(40, 6.0, CENTRES), blobs(40, 6.0, rotated)))
    # The corners of the pixels under the soft edge differ a little.
    assert (second - first.roll(steps, 1)).abs().max() < 0.01 * first.abs().max()


def test_relions_origin_brings_a_particle_to_the_centre():
    moved = [(x + 7.0, y - 4.0) for x, y in CENTRES]
    centre, shifted = spectra(blobs(40, 6.0, CENTRES), blobs(40, 6.0, moved))
    back = centred_spectra(shifted, torch.tensor([-7.0, 4.0]), GRID.frequencies())
    # The mean inside the circle differs, because the tails of the Gaussians leave it on another side.
    assert (back - centre).abs().max() < 0.03 * centre.abs().max()
    assert (shifted - centre).abs().max() > 0.3 * centre.abs().max()


@pytest.mark.parametrize(("box", "pixel_size"), [(41, 6.0), (75, 3.2), (30, 7.0), (200, 1.5)])
def test_box_pixel_size_scale_and_offset_change_nothing(box, pixel_size):
    expected = spectra(blobs(40, 6.0, CENTRES))
    found = spectra(-3 + 50 * blobs(box, pixel_size, CENTRES), box=box, pixel_size=pixel_size)
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_rings_beyond_the_nyquist_frequency_are_empty_and_the_scale_is_kept():
    fine = spectra(blobs(40, 6.0, CENTRES))
    power = fine[0].abs().square().mean(1)
    geometry = ImageGeometry(24, 12.0)
    coarse = normalised_spectra(blobs(24, 12.0, CENTRES)[None], geometry, GRID, power)[0]
    usable = int(GRID.period_angstrom / 24)
    assert (coarse[usable:] == 0).all()
    assert (coarse[:usable] - fine[0, :usable]).abs().max() < 0.05 * fine.abs().max()


def test_the_ctf_on_rings_is_the_ctf_of_the_images():
    plain = blobs(64, 4.0, CENTRES, 12.0)
    with_ctf = apply_ctf(plain, 4.0, OPTICS)
    large = PolarGrid(200.0, 8)  # the ripples around the blobs stay inside
    first, second = (normalised_spectra(image[None], ImageGeometry(64, 4.0), large)[0] for image in (plain, with_ctf))
    expected = first * ctf_on_rings(OPTICS, large)
    correlation = (expected.conj() * second).sum().real / (expected.norm() * second.norm())
    assert correlation > 0.99


def test_rotation_vectors_and_angles():
    vectors = torch.tensor([[0.0, 0.0, 0.3], [1e-4, 0.0, 0.0], [0.0, 2.0, 0.0]])
    rotations = rotations_by(vectors)
    assert torch.allclose(rotations[0], about_z(torch.tensor(0.3)), atol=1e-6)
    angles = angles_between(rotations, torch.eye(3).expand(3, 3, 3))
    assert torch.allclose(angles, torch.rad2deg(vectors.norm(dim=1)), rtol=1e-3)
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3).expand(3, 3, 3), atol=1e-6)


@pytest.mark.parametrize(("symmetry", "order"), [("C1", 1), ("C7", 7), ("D2", 4), ("T", 12), ("O", 24), ("I", 60)])
def test_symmetry_lowers_the_number_of_views(symmetry, order):
    everywhere = len(view_frames(5.0, "C1"))
    assert len(view_frames(5.0, symmetry)) == pytest.approx(everywhere / order, rel=0.15)


def test_the_shifts_reach_the_largest_one_on_each_axis():
    shifts = shift_grid(20.0, 9.0)
    assert shifts.abs().amax(0).tolist() == [20.0, 20.0]
    assert (shifts.norm(dim=1) <= 25.001).all()
    assert (shifts == 0).all(1).any()
    assert shift_grid(0.0, 9.0).tolist() == [[0.0, 0.0]]


def estimator(symmetry="C1", classes=1, noise=1.0):
    """An estimator whose reference is known: Gaussians at random places, made symmetric."""
    random = torch.Generator().manual_seed(3)
    reference = Reference(GRID, classes)
    edge = reference.density.shape[1]
    axis = (torch.arange(edge) - edge // 2) * GRID.period_angstrom / edge
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    with torch.no_grad():
        for index in range(classes):
            for centre in 25 * torch.randn(5, 3, generator=random):
                copies = symmetry_operators(symmetry).float() @ centre
                for u, v, w in copies:
                    square = (x - u) ** 2 + (y - v) ** 2 + (z - w) ** 2
                    reference.density[index] += 25 / len(copies) * torch.exp(-square / (2 * 8.0**2))
    return PoseEstimator(reference.requires_grad_(False), symmetry, torch.full((2, GRID.rings), noise),
                         torch.ones(GRID.rings), torch.ones(GRID.rings), True, 8.0, (Confidence(), Confidence()),
                         tuple(range(1, classes + 1)), {})


def projections(model, rotations, origins, generator, noise=0.0, classes=None):
    """Particles at poses, with white noise of a given power inside the circle."""
    reference = model.reference
    slices = reference.slices(reference.spectra(), rotations, classes)
    ctf = ctf_on_rings(OPTICS, GRID)
    values = centred_spectra(slices * ctf, -origins, GRID.frequencies())
    if noise:
        # White noise in an image, so that samples of the rings are correlated as those of real images are.
        box, pixel_size = 40, 6.0
        images = torch.randn(len(rotations), box, box, generator=generator)
        values = values + math.sqrt(noise) * normalised_spectra(images, ImageGeometry(box, pixel_size), GRID)
    return Particles(values, ctf.expand_as(values))


@pytest.mark.parametrize("symmetry", ["C1", "D2", "O"])
def test_poses_of_noise_free_particles_are_exact(symmetry, generator):
    model = estimator(symmetry, noise=0.01)
    rotations = uniform_rotations(6, generator).float()
    origins = 14 * (torch.rand(6, 2, generator=generator) - 0.5)
    found = PoseFinder(model, True, GRID.rings).find_all(projections(model, rotations, origins, generator))
    operators = symmetry_operators(symmetry).float()
    assert angles_modulo(found.rotations[:, 0], rotations, operators).max() < 0.7
    assert (found.origins[:, 0] - origins).norm(dim=1).max() < 0.3
    assert torch.allclose(to_asymmetric_unit(found.rotations[:, 0], symmetry), found.rotations[:, 0])
    assert found.confidence.min() > 0.99


def test_an_image_rotated_in_the_plane_gives_the_rotated_pose(generator):
    model = estimator(noise=0.01)
    rotations = uniform_rotations(3, generator).float()
    angle = torch.tensor(0.7)
    particles = projections(model, rotations, torch.zeros(3, 2), generator)
    turned = projections(model, about_z(angle) @ rotations, torch.zeros(3, 2), generator)
    finder = PoseFinder(model, True, GRID.rings)
    first, second = (finder.find_all(part).rotations[:, 0] for part in (particles, turned))
    assert angles_between(about_z(angle) @ first, second).max() < 1.0


def test_the_other_particles_of_a_batch_change_nothing(generator):
    model = estimator()
    particles = projections(model, uniform_rotations(3, generator).float(), torch.zeros(3, 2), generator, 1.0)
    finder = PoseFinder(model, True, GRID.rings, 3)
    together, alone = finder.find(particles), finder.find(particles.part(1, 2))
    assert angles_between(together.rotations[1], alone.rotations[0]).max() < 0.05
    assert torch.allclose(together.probabilities[1], alone.probabilities[0], atol=1e-3)


def test_candidates_are_distinct_and_their_probabilities_are_ordered(generator):
    model = estimator(noise=30.0)
    particles = projections(model, uniform_rotations(4, generator).float(), torch.zeros(4, 2), generator, 30.0)
    found = PoseFinder(model, True, GRID.rings, 4).find_all(particles)
    assert (found.probabilities > 0).sum() > 8
    assert (found.probabilities.sum(1) <= 1.0001).all()
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angles = angles_between(found.rotations[:, first], found.rotations[:, second])
        both = found.probabilities[:, second] > 0
        assert (angles[both] > 4.9).all()
    assert (found.probabilities[:, 0] >= found.probabilities[:, 3] - 0.2).all()


@pytest.mark.slow
def test_the_confidence_is_right(generator):
    """Particles so noisy that about half of the poses are wrong: the confidence says which."""
    noise, count = 90.0, 50
    model = estimator(noise=noise)
    rotations = uniform_rotations(2 * count, generator).float()
    particles = projections(model, rotations, torch.zeros(2 * count, 2), generator, noise)
    finder = PoseFinder(model, True, GRID.rings)
    near, _ = finder.probabilities_near(particles.part(0, count), rotations[:count], SHARPNESS)
    chosen = chosen_confidence(near, float(with_outliers(torch.zeros(1), Confidence(1.0, 1.0), 1)))
    trusted = PoseFinder(replace(model, confidence=(chosen, chosen)), True, GRID.rings)
    found = trusted.find_all(particles.part(count, 2 * count))
    right = (angles_between(found.rotations[:, 0], rotations[count:]) <= 15).numpy()
    assert 0.15 < right.mean() < 0.9
    # The standard error of a fraction of 50 particles is at most 0.07.
    assert found.confidence.mean() == pytest.approx(right.mean(), abs=0.16)
    confidence, fraction, _ = reliability(found.confidence.numpy(), right, 3)
    assert fraction[0] < fraction[2]
    # And that of 16 particles is at most 0.125.
    assert np.abs(confidence - fraction).max() < 0.36


def test_overconfident_probabilities_are_softened():
    probabilities = torch.ones(len(SHARPNESS), 100)
    probabilities[0, :20] = 1e-9  # a fifth of the particles is far away from the only pose with a probability
    probabilities[1:, :20] = 0.3
    probabilities[1:, 20:] = 0.95
    assert chosen_confidence(probabilities, 0.001).sharpness < 1
    certain = chosen_confidence(torch.ones(len(SHARPNESS), 100), 0.001)
    assert certain.sharpness == 1
    # So many particles cannot exclude outliers of about one in a hundred.
    assert certain.outliers == pytest.approx(1 / 102)


def test_with_two_maps_the_class_is_found(generator):
    model = estimator(classes=2, noise=1.0)
    classes = torch.tensor([0, 1, 1, 0, 1, 0])
    particles = projections(model, uniform_rotations(6, generator).float(), torch.zeros(6, 2), generator, 1.0, classes)
    found = PoseFinder(model, True, GRID.rings).find_all(particles)
    assert found.classes[:, 0].tolist() == classes.tolist()
    assert torch.allclose(found.class_probabilities.sum(1), torch.ones(6), atol=1e-4)
    assert (found.class_probabilities.argmax(1) == classes).all()


def test_classes_that_cannot_be_told_apart_get_soft_probabilities(generator):
    classes = torch.randint(2, (400,), generator=generator)
    true_difference = torch.randn(400, generator=generator) + 2.0 * classes - 1.0  # log-likelihood ratio: 2 times this
    fits = torch.stack([torch.zeros(400), 2 * true_difference / 0.25], 1)  # four times too sure
    assert chosen_class_sharpness(fits, classes) == pytest.approx(0.25)
