# SPDX-License-Identifier: GPL-3.0-or-later
"""Point groups: their operators, their axes, and the asymmetric unit."""
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import euler_angles, prepare_projector, project
from cryogem_scipion.engine.simulation.symmetry import symmetry_operators, to_asymmetric_unit
from cryogem_scipion.engine.simulation.volume import Volume

ORDERS = {"C1": 1, "C5": 5, "D2": 4, "D7": 14, "T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60, "I3": 60, "I4": 60}


def contains(group, matrices):
    """For each matrix, whether the group holds it (the trace of AᵀB is 3 for equal rotations)."""
    return torch.einsum("nij,mij->nm", matrices, group).amax(dim=1) > 3 - 1e-9


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_operators_are_a_group_of_rotations(name, order):
    group = symmetry_operators(name)
    assert group.shape == (order, 3, 3)
    assert torch.equal(group[0], torch.eye(3, dtype=torch.float64))
    # Rounding of products of a few float64 matrices.
    torch.testing.assert_close(group @ group.mT, torch.eye(3).double().expand(order, 3, 3), atol=1e-12, rtol=0)
    assert bool((torch.linalg.det(group) > 0).all())
    products = (group[:, None] @ group).reshape(-1, 3, 3)
    assert bool(contains(group, products).all())
    assert bool(contains(group, group.mT).all())


@pytest.mark.parametrize(
    ("name", "axis", "fold"),
    [
        ("C5", (0, 0, 1), 5),
        ("D7", (0, 0, 1), 7),
        ("D7", (1, 0, 0), 2),
        ("T", (0, 0, 1), 3),
        ("O", (0, 0, 1), 4),
        ("O", (1, 0, 0), 4),
        ("O", (1, 1, 1), 3),
        ("I2", (0, 0, 1), 2),
        ("I2", (1, 0, 0), 2),
        ("I1", (1, 1, 1), 3),
        ("I3", (0, 0, 1), 5),
        ("I4", (0, 0, 1), 5),
    ],
)
def test_symmetry_axes_have_the_directions_of_relion(name, axis, fold):
    direction = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
    fixed = ((symmetry_operators(name) @ direction) - direction).abs().amax(dim=1) < 1e-9  # float64 rounding
    assert int(fixed.sum()) == fold


def test_i_without_a_number_is_i2():
    assert torch.equal(symmetry_operators("I"), symmetry_operators("i2"))


@pytest.mark.parametrize(("name", "copies"), [("C3", 3), ("D2", 4), ("T", 12), ("O", 24), ("I", 60)])
def test_symmetric_copies_have_the_same_projection(name, copies, generator):
    """In a map of symmetric blobs, the projections at A and A R are the same."""
    box, sigma = 32, 2.0
    group = symmetry_operators(name)
    points = (group @ torch.tensor([6.0, 3.0, 5.0], dtype=torch.float64)).numpy()  # (x, y, z)
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    density = sum(np.exp(-((x - p[0]) ** 2 + (y - p[1]) ** 2 + (z - p[2]) ** 2) / (2 * sigma**2)) for p in points)
    projector = prepare_projector(Volume(torch.from_numpy(density.astype(np.float32)), 1.0))
    pose = uniform_rotations(1, generator)
    poses = torch.cat([pose, (pose @ group)[:: max(1, copies // 6)]])
    images = project(projector, poses.float(), torch.zeros(len(poses), 2), box, 1.0)
    error = (images - images[0]).norm(dim=(1, 2)) / images[0].norm()
    # Twice the error of a projection, 0.015.
    assert error.max() < 0.03
    other = project(projector, uniform_rotations(1, generator).float(), torch.zeros(1, 2), box, 1.0)
    # Another view differs by more, but only by little for an icosahedral shell of blobs.
    assert (other - images[0]).norm() / images[0].norm() > 3 * error.max()


@pytest.mark.parametrize("name", ["C1", "C4", "D3", "D4", "T", "O", "I", "I3"])
def test_asymmetric_unit_holds_one_copy_of_each_pose(name, generator):
    poses = uniform_rotations(50, generator)
    before = poses.clone()
    unique = to_asymmetric_unit(poses, name)
    assert torch.equal(poses, before)
    group = symmetry_operators(name)
    assert bool(contains(group, poses.mT @ unique).all())
    for copy in group[:: max(1, len(group) // 7)]:
        torch.testing.assert_close(to_asymmetric_unit(poses @ copy, name), unique, atol=1e-9, rtol=0)  # rounding


@pytest.mark.parametrize(("name", "rot", "tilt"), [("C4", 45, 180), ("D3", 60, 90), ("D4", 45, 90), ("C1", 180, 180)])
def test_asymmetric_unit_of_cyclic_and_dihedral_groups(name, rot, tilt, generator):
    angles = euler_angles(to_asymmetric_unit(uniform_rotations(500, generator), name))
    # Rounding of the angles is far below 1e-3 degrees.
    assert angles[:, 0].abs().max() <= rot + 1e-3
    assert angles[:, 1].max() <= tilt + 1e-3
    assert angles[:, 0].abs().max() > 0.9 * rot
    assert angles[:, 1].max() > 0.9 * tilt


@pytest.mark.parametrize("name", ["C0", "D", "E3", "I5", "", "C-2", "c 3", "O2"])
def test_unknown_groups_are_refused_with_the_list_of_known_ones(name):
    with pytest.raises(SettingsError, match=r"symmetry is .*; give one of C1, C2, .* T; O; I"):
        symmetry_operators(name)


@pytest.mark.optional
@pytest.mark.parametrize("name", ["C5", "D2", "D7", "T", "O", "I", "I1", "I2", "I3", "I4"])
def test_relion_has_the_same_operators(name):
    program = shutil.which("relion_refine")
    if program is None:
        pytest.skip("relion_refine is not installed")
    out = subprocess.run([program, "--sym", name, "--print_symmetry_ops"], capture_output=True, text=True, check=False)
    blocks = [block.split("Euler")[0] for block in re.split(r"R\(\d+\)=", out.stdout)[1:]]
    numbers = [[float(n) for n in re.findall(r"-?\d[\d.]*(?:e[+-]\d+)?", block)[:9]] for block in blocks]
    relion_operators = torch.tensor(numbers, dtype=torch.float64).reshape(-1, 3, 3)
    assert len(relion_operators) == ORDERS[name]
    trace = torch.einsum("nij,mij->nm", relion_operators, symmetry_operators(name)).amax(dim=1)
    # RELION's axes have six digits.
    torch.testing.assert_close(trace, torch.full_like(trace, 3.0), atol=1e-4, rtol=0)
