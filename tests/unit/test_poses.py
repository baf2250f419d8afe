# SPDX-License-Identifier: GPL-3.0-or-later
"""Random orientations: uniform, in preferred views, and drawn from a list."""
import numpy as np
import pytest
import torch
from scipy import stats

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation.poses import (
    preferred_rotations,
    resampled_rotations,
    uniform_rotations,
    view_directions,
)
from cryogem_scipion.engine.simulation.projection import euler_angles, rotation_matrices

IMPOSSIBLE = 1e-4  # correct random numbers fail at this level for one seed in ten thousand; the seed is fixed


def assert_rotations(matrices):
    identity = torch.eye(3, dtype=matrices.dtype).expand_as(matrices)
    torch.testing.assert_close(matrices @ matrices.mT, identity, atol=1e-12, rtol=0)  # float64 rounding
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(len(matrices)).double(), atol=1e-12, rtol=0)


def angles_between(a, b):
    trace = torch.einsum("nij,nij->n", a, b)
    return torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)))


def assert_uniform_euler(rotations):
    rot, tilt, psi = euler_angles(rotations).double().numpy().T
    for angle in (rot, psi):
        assert stats.kstest((angle % 360) / 360, "uniform").pvalue > IMPOSSIBLE
    assert stats.kstest((1 - np.cos(np.deg2rad(tilt))) / 2, "uniform").pvalue > IMPOSSIBLE


def test_uniform_rotations_have_uniform_euler_marginals(generator):
    rotations = uniform_rotations(4000, generator)
    assert_rotations(rotations)
    assert_uniform_euler(rotations)


def test_angles_between_uniform_rotations_follow_the_law_of_so3(generator):
    rotations = uniform_rotations(4000, generator)
    # Angles ω between independent uniform rotations have the density (1 − cos ω) / π.
    omega = np.deg2rad(angles_between(rotations[:2000], rotations[2000:]).numpy())
    assert stats.kstest(omega, lambda w: (w - np.sin(w)) / np.pi).pvalue > IMPOSSIBLE


def test_distances_of_nearest_rotations_are_those_of_chance(generator):
    count = 1500
    rotations = uniform_rotations(count, generator).reshape(count, 9)
    trace = rotations @ rotations.T
    trace.fill_diagonal_(-1)
    nearest = np.arccos(((trace.amax(dim=1).numpy() - 1) / 2).clip(-1, 1))
    # Each of the others is nearer than ω with the probability (ω − sin ω) / π.
    chance = (nearest - np.sin(nearest)) / np.pi
    # Pairs share neighbours, so only the mean is compared: 1 / count, within twice five standard errors.
    assert chance.mean() == pytest.approx(1 / count, rel=10 / np.sqrt(count))


def test_same_seed_gives_the_same_poses():
    draw = [uniform_rotations(5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


@pytest.mark.parametrize("view", [(0.0, 0.0), (40.0, 70.0), (0.0, 180.0), (-100.0, 90.0)])
def test_preferred_views_fill_their_cone_and_stay_inside_it(view, generator):
    cone = 20.0
    rotations = preferred_rotations(2000, generator, [view], cone_degrees=cone)
    assert_rotations(rotations)
    axis = view_directions(torch.tensor([view], dtype=torch.float64))[0]
    cosine = (rotations[:, 2] @ axis).numpy()
    edge = np.cos(np.deg2rad(cone))
    assert cosine.min() >= edge - 1e-12  # float64 rounding
    assert stats.kstest((1 - cosine) / (1 - edge), "uniform").pvalue > IMPOSSIBLE
    psi = euler_angles(rotations)[:, 2].double().numpy()
    if view[1] not in (0.0, 180.0):  # at the poles psi and rot are one angle
        assert stats.kstest((psi % 360) / 360, "uniform").pvalue > IMPOSSIBLE


def test_view_directions_agree_with_the_euler_convention():
    angles = torch.tensor([[30.0, 50.0, 0.0], [-120.0, 110.0, 77.0]], dtype=torch.float64)
    rows = rotation_matrices(angles)[:, 2]
    torch.testing.assert_close(view_directions(angles[:, :2]), rows, atol=1e-12, rtol=0)  # float64 rounding


def test_views_are_drawn_with_their_weights(generator):
    views = [(0.0, 0.0), (0.0, 90.0)]
    rotations = preferred_rotations(6000, generator, views, [1.0, 3.0], cone_degrees=5.0, uniform_weight=2.0)
    axes = view_directions(torch.tensor(views, dtype=torch.float64))
    near = (rotations[:, 2] @ axes.T > np.cos(np.deg2rad(5.0))).double().mean(dim=0)
    cap = (1 - np.cos(np.deg2rad(5.0))) / 2
    # five standard errors of a share of 6000 draws: 5 · √(¼ / 6000) = 0.032
    assert near[0] == pytest.approx(1 / 6 + cap / 3, abs=0.032)
    assert near[1] == pytest.approx(1 / 2 + cap / 3, abs=0.032)


def test_resampled_rotations_keep_the_view_and_have_random_in_plane_angles(generator):
    orientations = uniform_rotations(7, generator)
    before = orientations.clone()
    drawn = resampled_rotations(1000, generator, orientations)
    assert torch.equal(orientations, before)
    assert_rotations(drawn)
    closeness = drawn[:, 2] @ orientations[:, 2].T
    assert bool((closeness.amax(dim=1) > 1 - 1e-12).all())  # float64 rounding
    assert set(closeness.argmax(dim=1).tolist()) == set(range(7))
    in_plane = (euler_angles(drawn)[:, 2] - euler_angles(orientations[closeness.argmax(dim=1)])[:, 2]).double().numpy()
    assert stats.kstest((in_plane % 360) / 360, "uniform").pvalue > IMPOSSIBLE


def test_resampled_rotations_are_tilted_up_to_the_spread(generator):
    orientation = uniform_rotations(1, generator)
    drawn = resampled_rotations(500, generator, orientation, spread_degrees=10.0)
    tilt = torch.rad2deg(torch.arccos((drawn[:, 2] @ orientation[0, 2]).clamp(-1, 1)))
    assert 7.0 < tilt.max() <= 10.0 + 1e-6  # arccos near 1 loses half of float64's digits


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda g: uniform_rotations(-1, g), "number of poses is -1"),
        (lambda g: preferred_rotations(1, g, []), "no preferred view"),
        (lambda g: preferred_rotations(1, g, [(0.0, 0.0)], [1.0, 2.0]), "2 weights for 1 views"),
        (lambda g: preferred_rotations(1, g, [(0.0, 0.0)], [0.0]), "not all 0"),
        (lambda g: preferred_rotations(1, g, [(0.0, 0.0)], cone_degrees=200.0), "cone is 200.0"),
        (lambda g: resampled_rotations(1, g, torch.zeros(0, 3, 3)), "no orientation to draw from"),
        (lambda g: resampled_rotations(1, g, torch.eye(3)[None], spread_degrees=-1.0), "spread is -1.0"),
    ],
)
def test_unusable_arguments_are_refused(action, message, generator):
    with pytest.raises(SettingsError, match=message):
        action(generator)


def test_zero_poses_are_allowed(generator):
    assert uniform_rotations(0, generator).shape == (0, 3, 3)
    assert preferred_rotations(0, generator, [(0.0, 0.0)]).shape == (0, 3, 3)
