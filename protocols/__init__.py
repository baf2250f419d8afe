# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocols of the plugin. All but *return coordinates* run one stage of the engine."""
from cryogem_scipion.protocols.protocol_assign_poses import ProtCryogemAssignPoses
from cryogem_scipion.protocols.protocol_evaluate import ProtCryogemEvaluate
from cryogem_scipion.protocols.protocol_evaluate_picks import ProtCryogemEvaluatePicks
from cryogem_scipion.protocols.protocol_evaluate_poses import ProtCryogemEvaluatePoses
from cryogem_scipion.protocols.protocol_export import ProtCryogemExport
from cryogem_scipion.protocols.protocol_generate import ProtCryogemGenerate
from cryogem_scipion.protocols.protocol_import_model import ProtCryogemImportModel
from cryogem_scipion.protocols.protocol_measure import ProtCryogemMeasure
from cryogem_scipion.protocols.protocol_return_coordinates import ProtCryogemReturnCoordinates
from cryogem_scipion.protocols.protocol_simulate import ProtCryogemSimulate
from cryogem_scipion.protocols.protocol_train import ProtCryogemTrain
from cryogem_scipion.protocols.protocol_train_poses import ProtCryogemTrainPoses

__all__ = ["ProtCryogemAssignPoses", "ProtCryogemEvaluate", "ProtCryogemEvaluatePicks", "ProtCryogemEvaluatePoses",
           "ProtCryogemExport", "ProtCryogemGenerate", "ProtCryogemImportModel", "ProtCryogemMeasure",
           "ProtCryogemReturnCoordinates", "ProtCryogemSimulate", "ProtCryogemTrain", "ProtCryogemTrainPoses"]
