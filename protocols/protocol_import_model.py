# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol *import noise model*: a noise model from a checkpoint of the published CryoGEM program."""
import os
from enum import Enum
from typing import Any

from cryogem_scipion.engine.io.dataset import Manifest, read_manifest
from cryogem_scipion.engine.settings import ImportModelSettings
from cryogem_scipion.objects import CryogemModel
from cryogem_scipion.protocols.binding import define_fields
from cryogem_scipion.protocols.outputs import model_output
from cryogem_scipion.protocols.protocol_stage import ProtCryogemStage

__all__ = ["ImportModelOutputs", "ProtCryogemImportModel"]


class ImportModelOutputs(Enum):
    """The noise model, for generate dataset."""

    outputModel = CryogemModel


class ProtCryogemImportModel(ProtCryogemStage):
    """Import a noise model that the published CryoGEM program has trained.

    Use it instead of *train noise translator* when you have a checkpoint of the
    published program, such as '''latest_net_G.pth'''.

    An imported model has no ice maps. *Generate dataset* measures them from real
    micrographs, if you choose some there.

    *Inputs*
    - the checkpoint of the generator, and its pixel size
    - optional: the checkpoint of the feature networks, '''latest_net_F.pth'''

    *Outputs*
    - outputModel: the noise model, for *generate dataset*

    Method: [[https://arxiv.org/abs/2312.02235][CryoGEM (Zhang et al., 2024)]]
    """

    _label = "import noise model"
    _possibleOutputs = ImportModelOutputs
    _stage = "import-model"
    _settings = ImportModelSettings
    _folder = "model"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, ImportModelSettings, before_section={}, after_field={}, conditions={})
        self._addParallel(form)

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return True

    def inputValues(self) -> dict[str, Any]:
        # Absolute, because the engine may run in another folder.
        return {name: os.path.abspath(text.strip()) for name, text in
                (("generator", self.generator.get("")), ("features", self.features.get(""))) if text.strip()}

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        folder = self.outFolder()
        self._defineOutputs(**{ImportModelOutputs.outputModel.name: model_output(folder, read_manifest(folder))})

    # --------------------------- Information
    def inputErrors(self) -> list[str]:
        return [f"*{ImportModelSettings.model_fields[name].title}*: {path} is not a file; choose another."
                for name, path in self.inputValues().items() if not os.path.isfile(path)]

    def resultSentences(self, manifest: Manifest) -> list[str]:
        figures = manifest.figures
        return [f"A published noise model of {figures['levels']:.0f} levels and {figures['weights'] / 1e6:.1f} million "
                f"weights was imported, for micrographs at {manifest.pixel_size:.3g} Å/px.",
                "It has no ice maps; choose real micrographs in generate dataset, and ice maps are measured from them."]
