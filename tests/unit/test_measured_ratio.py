# SPDX-License-Identifier: GPL-3.0-or-later
"""The signal-to-noise ratio that is measured means the same as that of the simulation: of a particle by itself."""
import numpy as np
import pytest
import torch

from cryogem_scipion.engine.measurement.search_field import on_plane, search_field
from cryogem_scipion.engine.measurement.synthesis import BANDS, Assumption, synthetic_field
from cryogem_scipion.engine.noise.spectrum import TILE
from cryogem_scipion.engine.simulation.composition import compose, particle_mask
from cryogem_scipion.engine.simulation.ctf import apply_ctf, apply_filter
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import prepare_projector, project
from cryogem_scipion.engine.simulation.volume import Volume

PIXEL_SIZE, DIAMETER = 6.0, 150.0
OPTICS = Optics(300, 2.7, 0.1, 18000, 17500, 30)


@pytest.fixture
def projector():
    z, y, x = np.mgrid[-24:24, -24:24, -24:24] * 4.0
    density = np.exp(-((np.sqrt(x**2 + y**2 + z**2) - 52) / 14) ** 2) * (1 + 0.5 * np.sin(x / 12) * np.sin(y / 15))
    return prepare_projector(Volume(torch.from_numpy(density.astype(np.float32)), 4.0))


def test_neighbours_and_their_variation_do_not_count_as_signal(projector, generator):
    field = search_field(torch.randn(300, 300, generator=generator), PIXEL_SIZE, DIAMETER, OPTICS)
    falling = np.linspace(0.02, 0.01, BANDS)
    assumptions = [Assumption((count,), distance, falling, spread=spread)
                   for count, distance, spread in ((20, 260.0, 0.0), (120, 110.0, 0.3))]
    sparse, crowded = (synthetic_field(field, projector, DIAMETER, 0, assumption, ("test",))
                       for assumption in assumptions)
    assert crowded.particle_variance > 4 * sparse.particle_variance
    # The reference is one particle in the middle of a large image.
    rotations = uniform_rotations(40, generator)
    variances = []
    for rotation in rotations:
        centre = torch.tensor([[100.0, 100.0]], dtype=torch.float64)
        image = project(projector, rotation[None].float(), torch.zeros(1, 2), 30, PIXEL_SIZE)
        curve = np.interp(np.arange(TILE // 2 + 1) / TILE, (np.arange(BANDS) + 0.5) / BANDS / 2, falling)
        alone = apply_filter(apply_ctf(compose(image, centre, (200, 200)), PIXEL_SIZE, OPTICS),
                             on_plane(curve, (200, 200)))
        variances.append(float(alone[particle_mask(image, centre, (200, 200))].var()))
    # The orientations are others: the variance of 20 to 40 particles is known to 2 %.
    assert sparse.signal_variance == pytest.approx(np.mean(variances), rel=0.06)
    assert crowded.signal_variance == pytest.approx(np.mean(variances), rel=0.06)
