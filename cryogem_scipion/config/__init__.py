# SPDX-License-Identifier: GPL-3.0-or-later
"""Every setting, declared once; forms, flags, JSON, help and range checks are derived from here."""
from cryogem_scipion.config.base import RunSettings, Settings, messages, option, parse, read_json
from cryogem_scipion.config.evaluate import EvaluateSettings
from cryogem_scipion.config.export import ExportSettings
from cryogem_scipion.config.generate import GenerateSettings
from cryogem_scipion.config.import_model import ImportModelSettings
from cryogem_scipion.config.phantom import PhantomSettings
from cryogem_scipion.config.picks import PicksSettings
from cryogem_scipion.config.poses import PosesSettings
from cryogem_scipion.config.preview import PreviewSettings
from cryogem_scipion.config.simulate import SimulateSettings
from cryogem_scipion.config.train import TrainSettings

__all__ = ["STAGES", "EvaluateSettings", "ExportSettings", "GenerateSettings", "ImportModelSettings", "PhantomSettings",
           "PicksSettings", "PosesSettings", "PreviewSettings", "RunSettings", "Settings", "SimulateSettings",
           "TrainSettings", "messages", "option", "parse", "read_json"]

STAGES: dict[str, type[RunSettings]] = {
    "simulate": SimulateSettings,
    "train": TrainSettings,
    "generate": GenerateSettings,
    "evaluate": EvaluateSettings,
    "picks": PicksSettings,
    "export": ExportSettings,
    "poses": PosesSettings,
    "import-model": ImportModelSettings,
    "phantom": PhantomSettings,
    "preview": PreviewSettings,
}
