# SPDX-License-Identifier: GPL-3.0-or-later
"""Lattices of the two generators with weights as they are drawn: the published one leaves one, ours does not."""
import pytest
import torch

from cryogem_scipion.engine.realism.artefacts import artefacts, excesses, lattice_excess_db
from cryogem_scipion.engine.realism.comparison import stacked
from cryogem_scipion.engine.translator.networks import generator as named_generator
from cryogem_scipion.engine.translator.tiling import tiled
from tests.unit.conftest import awake

pytestmark = pytest.mark.slow

COUNT = 4
SHAPE = (300, 330)


@pytest.fixture
def translated(generator):
    """Averages of coloured noise that a generator with fresh weights has translated, and of the noise as it was."""
    def run(**config):
        torch.manual_seed(5)
        network = awake(named_generator(config).eval(), 0.003)
        images = [torch.randn(SHAPE, generator=generator) for _ in range(COUNT)]
        images = [image + 0.5 * (image.roll(1, 0) + image.roll(1, 1)) for image in images]
        whole = torch.ones(COUNT).double()
        return [stacked([artefacts(image) for image in some]).mean(whole)
                for some in ([tiled(network, image, generator) for image in images], images)]
    return run


def own_excess(made):
    """Lattices above the same set's spectrum around them: a network that is not trained colours its noise."""
    around = made.lattice[1:].expand(2, -1, -1)
    return {period: float(value) for period, value in lattice_excess_db(made.lattice, around).items()}


def test_the_published_network_leaves_a_lattice_and_it_is_found(translated):
    made, _ = translated(name="published", levels=6, width=8, scale=5.0)
    found = own_excess(made)
    # By its transposed convolutions; in pieces of 512 pixels it stands out by more.
    assert max(found[2], found[4]) > 12


def test_our_network_leaves_no_lattice_and_no_line_along_the_border_before_it_learns(translated):
    made, plain = translated(name="residual", width=8)
    # The strongest of 2000 points in the mean of 4 spectra or more, against those around it.
    assert max(own_excess(made).values()) < max(own_excess(plain).values()) + 1
    assert float(excesses(made, plain)["border"]) < 0.05
