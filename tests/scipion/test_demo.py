# SPDX-License-Identifier: GPL-3.0-or-later
"""A small demo: the same protocols, the shipped real micrographs, the figure."""
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from tests.unit.test_demo_figure import assert_panels


@pytest.mark.slow
def test_the_demo_names_its_sets_and_draws_its_figure(demo):
    folder, said = demo
    for words in ("Micrographs (4 items, 620 x 600, 3.00 ", "Micrographs (4 items, 206 x 200, 9.00 ",
                  "CryogemMeasurement (4 micrographs, ", "outputCoordinates", "outputCTF", "outputParticles",
                  "outputModel", "training step 2/2", f"figure    {folder}/demo.png", "projects/CryogemDemo"):
        assert words in said, said[-3000:]
    assert_panels(folder / "demo.png")
