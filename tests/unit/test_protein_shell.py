# SPDX-License-Identifier: GPL-3.0-or-later
"""The protein shell: its symmetry, its diameters, its density, and its command."""
import pytest
import torch

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.settings import PhantomSettings
from cryogem_scipion.engine.simulation.protein_shell import protein_shell, shell_gaussians
from cryogem_scipion.engine.simulation.symmetry import symmetry_operators
from cryogem_scipion.engine.stages import phantom


def radial_density(volume):
    """Return the mean density in spheres of whole voxels."""
    box = volume.density.shape[0]
    axis = (torch.arange(box) - box // 2).double()
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().round().long().flatten()
    return torch.bincount(radius, volume.density.flatten().double()) / torch.bincount(radius)


def test_every_operator_of_the_octahedral_group_maps_the_shell_onto_itself():
    beads = shell_gaussians()
    for operator in symmetry_operators("O"):
        distance, nearest = torch.cdist(beads.centres @ operator.T, beads.centres).min(1)
        # cdist takes the root of differences of squares near 60² with 16 digits: about 1e-6.
        assert distance.max() < 1e-5
        torch.testing.assert_close(beads.weights[nearest], beads.weights)
        assert len(nearest.unique()) == len(beads.centres)


def test_the_map_has_the_same_symmetry():
    density = protein_shell(43, 4.0).density  # odd, so that quarter turns keep the origin
    # 1e-5 of the largest density: sums in float64, then rounded to float32.
    for turned in (density.rot90(1, (0, 1)), density.rot90(1, (0, 2)), density.rot90(1, (1, 2)),
                   density.permute(2, 0, 1)):
        torch.testing.assert_close(turned, density, rtol=0, atol=1e-5 * float(density.max()))


def test_it_has_24_subunits_and_no_mirror_symmetry():
    beads = shell_gaussians()
    # A subunit has 56 Gaussians: four helices of 14.
    assert len(beads.centres) == len(beads.centres.unique(dim=0)) == 24 * 56
    mirrored = beads.centres * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.cdist(mirrored, beads.centres).min(1).values.max() > 3


@pytest.mark.parametrize(("diameter", "pixel_size"), [(125.0, 2.0), (250.0, 4.0)])
def test_it_is_a_hollow_ball_with_the_diameters_of_apoferritin(diameter, pixel_size):
    density = radial_density(protein_shell(85, pixel_size, diameter))
    half = (density > density.max() / 2).nonzero().flatten() * pixel_size
    # Half the largest density lies at the surfaces, to within a voxel (2 Å of 125) and the helices' own width.
    assert 2 * float(half.min()) == pytest.approx(80 / 125 * diameter, abs=5 / 125 * diameter)
    assert 2 * float(half.max()) == pytest.approx(diameter, abs=5 / 125 * diameter)
    assert density[:int(0.2 * diameter / pixel_size)].max() < 1e-3 * density.max()


def test_the_command_writes_the_shell(tmp_path):
    phantom.run(PhantomSettings(out=tmp_path, shape="shell", box=32, pixel_size=5.0, diameter_angstrom=125))
    written, pixel_size = read_mrc(tmp_path / "phantom.mrc", 3)
    assert pixel_size == 5.0
    assert torch.equal(torch.tensor(written), protein_shell(32, 5.0).density)


def test_a_diameter_that_is_not_positive_is_refused():
    with pytest.raises(SettingsError, match="the shell's diameter is -5 Å; give a value above 0"):
        shell_gaussians(-5)
