# SPDX-License-Identifier: GPL-3.0-or-later
"""An artificial hollow protein shell like apoferritin: 24 four-helix bundles with the symmetry O.

Apoferritin is a hollow ball of protein, about 80 Å wide inside and 125 Å outside. Its 24 subunits are bundles of four
helices. Two antiparallel bundles lie on each face of a rhombic dodecahedron, parallel to two of its edges. The shell
here follows these published numbers; it is not made from a map. Its helices are bent along the ball, two in each of two
layers.

References
----------
doi:10.1038/349541a0, doi:10.1016/j.bbagen.2010.03.019
"""
import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation.phantom import Gaussians, gaussian_density
from cryogem_scipion.engine.simulation.symmetry import symmetry_operators
from cryogem_scipion.engine.simulation.volume import Volume

__all__ = ["protein_shell", "shell_gaussians"]

INNER_DIAMETER, OUTER_DIAMETER = 80.0, 125.0
"""Of the protein, Å."""
HELIX_LENGTH = 40.0
"""Å; 27 residues of 1.5 Å."""
HELIX_SIGMA = 4.5
"""Standard deviation of a helix's density across its axis, Å. Its share of the shell is as wide as a cylinder with a
radius of 8 Å, which has 4 Å; the rest is the resolution of a usual map."""
BEADS = 14
"""Gaussians along a helix; they lie nearer to each other than their standard deviation."""


def shell_gaussians(diameter_angstrom: float = OUTER_DIAMETER) -> Gaussians:
    """The shell as a sum of Gaussians, with fourfold axes on x, y and z.

    Parameters
    ----------
    diameter_angstrom
        Outer diameter of the shell, Å. All lengths grow with it.

    Raises
    ------
    SettingsError
        The diameter is not positive.
    """
    if not diameter_angstrom > 0:
        raise SettingsError(f"the shell's diameter is {diameter_angstrom:g} Å; give a value above 0")
    centres = torch.einsum("gij,nj->gni", symmetry_operators("O"), _subunit()).reshape(-1, 3)
    # Helices of both layers have as many Gaussians, but protein is as dense in both: a weight for the area of each.
    weights = (2 * centres.norm(dim=1) / OUTER_DIAMETER) ** 2
    unit = diameter_angstrom / OUTER_DIAMETER
    return Gaussians(centres * unit, torch.full_like(weights, HELIX_SIGMA * unit), weights)


def protein_shell(box: int, pixel_size: float, diameter_angstrom: float = OUTER_DIAMETER) -> Volume:
    """The shell as a density map; each call gives the same one.

    Parameters
    ----------
    box
        Edge in voxels, even or odd.
    pixel_size
        Å per voxel.
    diameter_angstrom
        Outer diameter of the shell, Å; the box should be about 1.4 times as large.

    Raises
    ------
    SettingsError
        A value is not positive.
    """
    volume = gaussian_density(shell_gaussians(diameter_angstrom), box, pixel_size)
    return Volume(volume.density.to(torch.float32), pixel_size)


def _subunit() -> Float[Tensor, "n 3"]:
    """Centres (x, y, z) of the Gaussians of one subunit, Å, for the shell's natural size."""
    # A face of the rhombic dodecahedron whose faces have the distance 1 from the origin: its normal, the direction of
    # the edge from its fourfold to its threefold vertex, and the direction from its centre to this edge.
    normal = torch.tensor((1.0, 1.0, 0.0), dtype=torch.float64) / math.sqrt(2)
    along = torch.tensor((-1.0, 1.0, 1.0), dtype=torch.float64) / math.sqrt(3)
    across = torch.tensor((1.0, -1.0, 2.0), dtype=torch.float64) / math.sqrt(6)
    height = 2 / math.sqrt(3)  # distance of two opposite edges
    thickness = (OUTER_DIAMETER - INNER_DIAMETER) / 2
    middle = (OUTER_DIAMETER + INNER_DIAMETER) / 4
    arc = torch.linspace(-HELIX_LENGTH / 2, HELIX_LENGTH / 2, BEADS, dtype=torch.float64) / middle
    helices = []
    for radius in (middle - thickness / 4, middle + thickness / 4):
        # The subunit has the half of the face at its edge; its helices lie on the quarters of this half.
        for distance in (height / 8, 3 * height / 8):
            shift = -distance / math.sqrt(8)  # the face is oblique
            points = normal + distance * across + (shift + torch.tan(arc))[:, None] * along
            helices.append(radius * torch.nn.functional.normalize(points, dim=1))
    return torch.cat(helices)
