# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol import noise model, and a dataset generated with the imported model."""
import matplotlib
import pytest
import torch

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from cryogem_scipion.workflow import WorkflowError, run
from tests import published_layout
from tests.scipion.conftest import PIXEL_SIZE


@pytest.mark.slow
def test_an_imported_model_generates(scipion, project, inputs, simulation, tmp_path):
    state = published_layout.state_dict(published_layout.generator_shapes(6, 4), torch.Generator().manual_seed(1))
    torch.save(state, scipion / "latest_net_G.pth")
    with pytest.raises(WorkflowError, match=r"\*Generator file\* is missing"):
        run(project, "ProtCryogemImportModel", pixelSize=PIXEL_SIZE)
    with pytest.raises(WorkflowError, match=r"(?s)\*Features file\*: .*none\.pth is not a file"):
        run(project, "ProtCryogemImportModel", pixelSize=PIXEL_SIZE, generator=scipion / "latest_net_G.pth",
            features=scipion / "none.pth")
    sampling = simulation.outputMicrographs.getSamplingRate()
    protocol = run(project, "ProtCryogemImportModel", generator=scipion / "latest_net_G.pth", pixelSize=sampling)
    model = protocol.outputModel
    assert (model.getCrop(), model.getSteps(), model.getSnr()) == (64, None, 0.1)
    assert model.getSamplingRate() == pytest.approx(sampling)
    assert "6 levels" in " ".join(protocol.summary())

    dataset = run(project, "ProtCryogemGenerate", inputSimulation=(simulation, "outputMicrographs"),
                  inputModel=(protocol, "outputModel"), inputMicrographs=inputs["real"], micrographs=1)
    assert dataset.outputMicrographs.getSize() == 1
    assert dataset.outputParticles.getSize() > 0
    assert dataset.manifest().figures["background_deviation"] > 0  # measured from the real micrographs

    matplotlib.use("Agg")
    for target in (protocol, model):
        viewer = project.getDomain().findViewers(target, "tkinter")[0](project=project, protocol=protocol)
        (view,) = viewer._visualize(target)
        view.savefig(tmp_path / "view.png")
        view.close()
        assert (tmp_path / "view.png").stat().st_size > 5000
