# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol evaluate dataset, and its viewer."""
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
    protocol = run(project, "ProtCryogemEvaluate", **form)
    words = " ".join(protocol.summary())
    compared = f"{MICROGRAPH_COUNT} generated micrographs were compared with {REAL_COUNT} real micrographs at 8 Å/px."
    assert compared in words
    assert "Spectrum (log₁₀): " in words
    assert "two halves of the real set (floor): " in words
    assert "too small to look for lattices" in words
    assert "2312.02235" in " ".join(protocol.methods())
    matplotlib.use("Agg")
    viewer = project.getDomain().findViewers(protocol, "tkinter")[0](project=project, protocol=protocol)
    (view,) = viewer._visualize(protocol)
    view.savefig(tmp_path / "view.png")
    view.close()
    assert (tmp_path / "view.png").stat().st_size > 50_000
