# SPDX-License-Identifier: GPL-3.0-or-later
"""Figure of the demo."""
import numpy as np
from matplotlib.image import imread

from cryogem_scipion.demo import draw_figure
from cryogem_scipion.engine.settings import GenerateSettings
from cryogem_scipion.engine.stages import generate


def assert_panels(path):
    """Check that each panel shows an image, and that only the last has coloured circles."""
    picture = imread(path)[..., :3]
    panels = np.array_split(picture[40:-5], 4, axis=1)
    assert all(panel.std() > 0.02 for panel in panels)
    coloured = [np.ptp(panel, axis=2).max() > 0.3 for panel in panels]
    assert coloured == [False, False, False, True]


def test_the_figure_shows_real_simulated_physical_and_generated_micrographs(world, tmp_path):
    generate.run(GenerateSettings(simulation=world / "sim", out=tmp_path / "gen", noise="gaussian", micrographs=1,
                                  keep=("optical", "physical")))
    assert_panels(draw_figure(world / "real/mic 0.mrc", tmp_path / "gen", tmp_path / "figure.png"))
