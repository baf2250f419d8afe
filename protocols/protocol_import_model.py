# SPDX-License-Identifier: GPL-3.0-or-later
"""A noise model from a checkpoint of the published program, instead of training one."""
import os
from enum import Enum
from typing import Any

from cryogem_scipion.engine.io.dataset import Manifest, read_manifest
from cryogem_scipion.engine.settings import ImportModelSettings
from cryogem_scipion.objects import CryogemModel
from cryogem_scipion.protocols.binding import define_fields
from cryogem_scipion.protocols.outputs import model_output
from cryogem_scipion.protocols.stage import ProtCryogemStage

__all__ = ["ImportModelOutputs", "ProtCryogemImportModel"]


class ImportModelOutputs(Enum):
    """The model, for generate dataset."""

    outputModel = CryogemModel


class ProtCryogemImportModel(ProtCryogemStage):
    """Import a noise model that the published CryoGEM program trained (*_net_G.pth). It knows no ice: generate
    dataset measures it from real micrographs, when it is given some."""

    _label = "import noise model"
    _possibleOutputs = ImportModelOutputs
    _stage = "import-model"
    _settings = ImportModelSettings
    _folder = "model"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, ImportModelSettings, first={}, after={}, conditions={})
        self._addParallel(form)

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return True

    def inputValues(self) -> dict[str, Any]:
        # The engine may run in another folder.
        return {name: os.path.abspath(text.strip()) for name, text in
                (("generator", self.generator.get("")), ("features", self.features.get(""))) if text.strip()}

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        folder = self.outFolder()
        self._defineOutputs(**{ImportModelOutputs.outputModel.name: model_output(folder, read_manifest(folder))})

    # --------------------------- Information
    def crossChecks(self) -> list[str]:
        return [f"*{ImportModelSettings.model_fields[name].title}*: {path} is not a file; choose another."
                for name, path in self.inputValues().items() if not os.path.isfile(path)]

    def sentences(self, manifest: Manifest) -> list[str]:
        figures = manifest.figures
        return [f"A published noise model of {figures['levels']:.0f} levels and {figures['weights'] / 1e6:.1f} million "
                f"weights was imported, for micrographs at {manifest.pixel_size:.3g} Å/px.",
                "It has no ice of its own: give real micrographs to generate dataset to measure theirs."]
