# SPDX-License-Identifier: GPL-3.0-or-later
import numpy as np
import torch

from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise
from cryogem_scipion.engine.translator.crops import RealImages, SimulatedImages
from cryogem_scipion.engine.translator.figure_data import training_figure_data
from cryogem_scipion.engine.translator.model import Translator
from cryogem_scipion.engine.translator.networks import build_generator


def test_spectra_and_crops_of_white_noise(generator):
    """Real noise with deviation 7 around grey value 100 is white noise of deviation 1 in deviations of the noise."""
    config = {"name": "residual", "width": 4}
    model = Translator(build_generator(config).eval(), config, PhysicalNoise(0.05), GreyScale(100.0, 7.0), 5.0, 0.1,
                       1.0, {})
    real = RealImages([100 + 7 * torch.randn(300, 192, generator=generator).numpy()], [100.0], [7.0])
    simulated = SimulatedImages([np.ones((192, 192), np.float32)], [np.zeros((192, 192), np.int8)])
    data = training_figure_data(model, real, simulated, seed=3)
    assert data["frequency"][-1] == 0.5 / 5.0
    for kind in ("physical", "generated", "real"):
        assert data[f"image_{kind}"].shape == (192, 192)
        assert data[f"power_{kind}"].shape == (4, 65)
    for kind in ("physical", "real"):
        # 4 crops of 4 overlapping tiles; rings beyond the innermost ones have dozens of pixels.
        np.testing.assert_allclose(data[f"power_{kind}"].mean(0)[8:], 1, atol=0.2)
    same_seed = training_figure_data(model, real, simulated, seed=3)
    assert all(np.array_equal(data[name], same_seed[name]) for name in data)
    other_seed = training_figure_data(model, real, simulated, seed=4)
    assert not np.array_equal(data["image_real"], other_seed["image_real"])
