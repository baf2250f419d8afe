# SPDX-License-Identifier: GPL-3.0-or-later
"""Viewers of the plugin, which "Analyze Results" opens; they read the engine's files and do not run the engine."""
from cryogem_scipion.viewers.viewer_coordinates import CryogemReturnViewer
from cryogem_scipion.viewers.viewer_dataset import CryogemDatasetViewer
from cryogem_scipion.viewers.viewer_evaluation import CryogemEvaluateViewer, CryogemPicksViewer, CryogemPosesViewer
from cryogem_scipion.viewers.viewer_export import CryogemExportViewer
from cryogem_scipion.viewers.viewer_measurement import CryogemMeasurementViewer, CryogemMeasureViewer
from cryogem_scipion.viewers.viewer_poses import (
    CryogemAssignPosesViewer,
    CryogemPoseModelViewer,
    CryogemTrainPosesViewer,
)
from cryogem_scipion.viewers.viewer_training import CryogemModelViewer, CryogemTrainViewer

__all__ = ["CryogemAssignPosesViewer", "CryogemDatasetViewer", "CryogemEvaluateViewer", "CryogemExportViewer",
           "CryogemMeasureViewer", "CryogemMeasurementViewer", "CryogemModelViewer", "CryogemPicksViewer",
           "CryogemPoseModelViewer", "CryogemPosesViewer", "CryogemReturnViewer", "CryogemTrainPosesViewer",
           "CryogemTrainViewer"]
