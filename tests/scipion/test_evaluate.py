# SPDX-License-Identifier: GPL-3.0-or-later
"""The comparison of two sets of micrographs as a box, and its window."""
import matplotlib
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from cryogem_scipion.workflow import WorkflowError, run
from tests.scipion.conftest import MICROGRAPH_COUNT, REAL_COUNT


@pytest.mark.slow
def test_two_sets_are_compared_and_the_figure_opens(scipion, project, inputs, simulation, tmp_path):
    form = {"inputGenerated": (simulation, "outputMicrographs"), "inputMicrographs": inputs["real"],
            "numberOfThreads": 2}
    with pytest.raises(WorkflowError, match=r"(?s)\*Feature network\*: .*none\.sav is not a file"):
        run(project, "ProtCryogemEvaluate", features=scipion / "none.sav", **form)
    box = run(project, "ProtCryogemEvaluate", **form)
    words = " ".join(box.summary())
    assert f"{MICROGRAPH_COUNT} generated were compared with {REAL_COUNT} real micrographs at 8 Å/px." in words
    assert "Spectrum (log₁₀): " in words
    assert "where two halves of the real set have" in words
    assert "too small to look for lattices" in words
    assert "2312.02235" in " ".join(box.methods())
    matplotlib.use("Agg")
    viewer = project.getDomain().findViewers(box, "tkinter")[0](project=project, protocol=box)
    (view,) = viewer._visualize(box)
    view.savefig(tmp_path / "view.png")
    view.close()
    assert (tmp_path / "view.png").stat().st_size > 50_000
