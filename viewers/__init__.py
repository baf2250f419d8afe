# SPDX-License-Identifier: GPL-3.0-or-later
"""What "Analyze Results" opens; drawn from the engine's files, without the engine."""
from cryogem_scipion.viewers.coordinates import CryogemReturnViewer
from cryogem_scipion.viewers.evaluation import CryogemPicksViewer, CryogemPosesViewer
from cryogem_scipion.viewers.windows import (
    CryogemDatasetViewer,
    CryogemEvaluateViewer,
    CryogemExportViewer,
    CryogemModelViewer,
    CryogemTrainViewer,
)

__all__ = ["CryogemDatasetViewer", "CryogemEvaluateViewer", "CryogemExportViewer", "CryogemModelViewer",
           "CryogemPicksViewer", "CryogemPosesViewer", "CryogemReturnViewer", "CryogemTrainViewer"]
