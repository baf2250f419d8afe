# SPDX-License-Identifier: GPL-3.0-or-later
import numpy as np
import torch

from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise
from cryogem_scipion.engine.translator.crops import RealMicrographs, SimulatedMicrographs
from cryogem_scipion.engine.translator.figure_data import compared
from cryogem_scipion.engine.translator.model import Translator
from cryogem_scipion.engine.translator.networks import generator as network


def test_spectra_and_fields_of_white_noise(generator):
    """Real grey values of deviation 7 around 100 are white noise of deviation 1 in deviations of the noise."""
    config = {"name": "residual", "width": 4}
    model = Translator(network(config).eval(), config, PhysicalNoise(0.05), GreyScale(100.0, 7.0), 5.0, 0.1, 1.0, {})
    real = RealMicrographs([100 + 7 * torch.randn(300, 192, generator=generator).numpy()], [100.0], [7.0])
    simulated = SimulatedMicrographs([np.ones((192, 192), np.float32)], [np.zeros((192, 192), np.int8)])
    found = compared(model, real, simulated, seed=3)
    assert found["frequency"][-1] == 0.5 / 5.0
    for kind in ("physical", "generated", "real"):
        assert found[f"image_{kind}"].shape == (192, 192)
        assert found[f"power_{kind}"].shape == (4, 65)
    for kind in ("physical", "real"):
        # 4 fields of 4 overlapping tiles, and dozens of pixels a ring beyond the innermost ones.
        np.testing.assert_allclose(found[f"power_{kind}"].mean(0)[8:], 1, atol=0.2)
    again = compared(model, real, simulated, seed=3)
    assert all(np.array_equal(found[name], again[name]) for name in found)
    assert not np.array_equal(found["image_real"], compared(model, real, simulated, seed=4)["image_real"])
