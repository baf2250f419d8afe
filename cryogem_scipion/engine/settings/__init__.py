# SPDX-License-Identifier: GPL-3.0-or-later
"""All settings. Each is declared once; form, flag, JSON key, help and range check are made from the declaration."""
from cryogem_scipion.engine.settings.assign_poses import AssignPosesSettings
from cryogem_scipion.engine.settings.base import RunSettings, Settings, error_messages, option, parse, read_json
from cryogem_scipion.engine.settings.evaluate import EvaluateSettings
from cryogem_scipion.engine.settings.export import ExportSettings
from cryogem_scipion.engine.settings.generate import GenerateSettings
from cryogem_scipion.engine.settings.import_model import ImportModelSettings
from cryogem_scipion.engine.settings.measure import MeasureSettings
from cryogem_scipion.engine.settings.measured import (
    GUESSED,
    MEASURED,
    NEEDED,
    measurement_problems,
    read_measurement,
    with_chosen,
    with_measured,
)
from cryogem_scipion.engine.settings.phantom import PhantomSettings
from cryogem_scipion.engine.settings.picks import PicksSettings
from cryogem_scipion.engine.settings.poses import PosesSettings
from cryogem_scipion.engine.settings.preview import PreviewSettings
from cryogem_scipion.engine.settings.simulate import SimulateSettings
from cryogem_scipion.engine.settings.train import TrainSettings
from cryogem_scipion.engine.settings.train_poses import TrainPosesSettings

__all__ = ["GUESSED", "MEASURED", "NEEDED", "STAGES", "AssignPosesSettings", "EvaluateSettings", "ExportSettings",
           "GenerateSettings", "ImportModelSettings", "MeasureSettings", "PhantomSettings", "PicksSettings",
           "PosesSettings", "PreviewSettings", "RunSettings", "Settings", "SimulateSettings", "TrainPosesSettings",
           "TrainSettings", "error_messages", "measurement_problems", "option", "parse", "read_json",
           "read_measurement", "with_chosen", "with_measured"]

STAGES: dict[str, type[RunSettings]] = {
    "simulate": SimulateSettings,
    "train": TrainSettings,
    "generate": GenerateSettings,
    "evaluate": EvaluateSettings,
    "picks": PicksSettings,
    "export": ExportSettings,
    "poses": PosesSettings,
    "train-poses": TrainPosesSettings,
    "assign-poses": AssignPosesSettings,
    "import-model": ImportModelSettings,
    "measure": MeasureSettings,
    "phantom": PhantomSettings,
    "preview": PreviewSettings,
}
