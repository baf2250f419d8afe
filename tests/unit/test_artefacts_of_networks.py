# SPDX-License-Identifier: GPL-3.0-or-later
"""Artefacts of the two generators before training: the published one leaves a lattice, ours does not."""
import pytest
import torch

from cryogem_scipion.engine.realism.artefacts import artefact_excess, lattice_excess_db, measure_artefacts
from cryogem_scipion.engine.realism.set_distances import stack_averages
from cryogem_scipion.engine.translator.networks import build_generator
from cryogem_scipion.engine.translator.tiling import translate_in_tiles
from tests.unit.conftest import with_random_output_layer

pytestmark = pytest.mark.slow

COUNT = 4
SHAPE = (300, 330)


@pytest.fixture
def translated(generator):
    """Mean artefacts of coloured noise after translation by an untrained generator, and before it."""
    def run(**config):
        torch.manual_seed(5)
        network = with_random_output_layer(build_generator(config).eval(), 0.003)
        images = [torch.randn(SHAPE, generator=generator) for _ in range(COUNT)]
        images = [image + 0.5 * (image.roll(1, 0) + image.roll(1, 1)) for image in images]
        whole = torch.ones(COUNT).double()
        return [stack_averages([measure_artefacts(image) for image in image_set]).mean(whole)
                for image_set in ([translate_in_tiles(network, image, generator) for image in images], images)]
    return run


def excess_over_own_spectrum(artefacts):
    """Lattice excess over the spectrum of the same set: an untrained network changes the spectrum."""
    around = artefacts.lattice[1:].expand(2, -1, -1)
    return {period: float(value) for period, value in lattice_excess_db(artefacts.lattice, around).items()}


def test_the_published_network_leaves_a_lattice_that_is_detected(translated):
    generated, _ = translated(name="published", levels=6, width=8, scale=5.0)
    excess = excess_over_own_spectrum(generated)
    # It comes from the transposed convolutions; the excess in tiles of 512 pixels is larger.
    assert max(excess[2], excess[4]) > 12


def test_our_untrained_network_leaves_no_lattice_and_no_line_along_the_border(translated):
    generated, plain = translated(name="residual", width=8)
    # The strongest of 2000 frequencies in the mean of 4 spectra or more, compared with its neighbours.
    largest, largest_before = (max(excess_over_own_spectrum(artefacts).values()) for artefacts in (generated, plain))
    assert largest < largest_before + 1
    assert float(artefact_excess(generated, plain)["border"]) < 0.05
