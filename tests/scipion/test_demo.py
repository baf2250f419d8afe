# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo in miniature: the same boxes, the shipped real micrograph, the figure."""
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

MINIATURE = """
import sys
from pathlib import Path
from cryogem_scipion import demo
scale = demo.Scale(pixel_size=10.26, size=(200, 200), micrographs=1, particles=12.0, steps=2, crop=64, width=4)
sys.exit(demo.tell(Path(sys.argv[1]), scale))
"""


def test_the_demo_names_its_sets_and_draws_its_figure(scipion, tmp_path):
    run = subprocess.run([sys.executable, "-c", MINIATURE, str(tmp_path / "demo")], cwd=tmp_path, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert run.returncode == 0, run.stdout[-3000:]
    for words in ("Micrographs (1 items, 926 x 958, 3.42 ", "Micrographs (1 items, 200 x 200, 10.26 ",
                  "outputCoordinates", "outputCTF", "outputParticles", "outputModel", "training step 2/2",
                  f"figure    {tmp_path}/demo/demo.png", "projects/CryogemDemo"):
        assert words in run.stdout, run.stdout[-3000:]
    from matplotlib.image import imread
    picture = imread(tmp_path / "demo/demo.png")[..., :3]
    panels = np.array_split(picture[40:-5], 4, axis=1)
    # Each panel holds an image, not one grey; the last has coloured circles and no other has.
    assert all(panel.std() > 0.02 for panel in panels)
    coloured = [np.ptp(panel, axis=2).max() > 0.3 for panel in panels]
    assert coloured == [False, False, False, True]
