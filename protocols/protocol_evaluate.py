# SPDX-License-Identifier: GPL-3.0-or-later
"""How far generated micrographs are from real ones."""
import os
from typing import Any

from pyworkflow.protocol.params import PointerParam

from cryogem_scipion.engine.figures.evaluation import METRIC_NAMES
from cryogem_scipion.engine.io.dataset import Manifest
from cryogem_scipion.engine.settings import EvaluateSettings
from cryogem_scipion.protocols.binding import define_fields
from cryogem_scipion.protocols.inputs import real_files
from cryogem_scipion.protocols.stage import ProtCryogemStage

__all__ = ["ProtCryogemEvaluate"]


class ProtCryogemEvaluate(ProtCryogemStage):
    """Compare generated with real micrographs: power spectrum, autocorrelation, intensities, local deviations,
    lattices, lines along the border, and the Fréchet distance of a network's features. Each figure comes with an
    interval, and beside it that of two halves of the real micrographs. The results are a figure and a table."""

    _label = "evaluate dataset"
    _stage = "evaluate"
    _settings = EvaluateSettings
    _folder = "evaluation"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, EvaluateSettings, first={"Data": self._data}, after={}, conditions={})
        self._addParallel(form)

    def _data(self, form: Any) -> None:
        form.addParam("inputGenerated", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Generated micrographs", help="Output of generate dataset, or any other set.")
        form.addParam("inputMicrographs", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Real micrographs",
                      help="Best are micrographs of the same session that the noise was not learned from. The finer of "
                      "the two sets is brought to the pixel size of the coarser.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputGenerated.get() is not None and self.inputMicrographs.get() is not None

    def inputValues(self) -> dict[str, Any]:
        generated, real = self.inputGenerated.get(), self.inputMicrographs.get()
        values: dict[str, Any] = {
            "generated": real_files(generated), "generated_pixel_size": generated.getSamplingRate(),
            "real": real_files(real), "real_pixel_size": real.getSamplingRate()}
        if network := self.features.get("").strip():
            values["features"] = os.path.abspath(network)  # The engine may run in another folder.
        return values

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        """There is nothing to hand on: figure, table and report stay in the folder."""

    # --------------------------- Information
    def crossChecks(self) -> list[str]:
        network = self.inputValues().get("features")
        if network and not os.path.isfile(network):
            return [f"*{EvaluateSettings.model_fields['features'].title}*: {network} is not a file; choose another."]
        return []

    def sentences(self, manifest: Manifest) -> list[str]:
        figures = manifest.figures
        words = [f"{manifest.micrographs} generated were compared with {figures['real_micrographs']:.0f} real "
                 f"micrographs at {manifest.pixel_size:.3g} Å/px."]
        for name, (title, unit) in METRIC_NAMES.items():
            if name in figures:
                words.append(_sentence(name, f"{title} ({unit})" if unit else title, figures))
        if "signal_correlation" in figures:
            words.append(f"Around particles, generated and optical images correlate by "
                         f"{figures['signal_correlation']:.3f}.")
        return words


def _sentence(name: str, title: str, figures: dict[str, float]) -> str:
    text = f"{title[:1].upper()}{title[1:]}: {figures[name]:.3g} ({figures[name + '_low']:.3g} to " \
           f"{figures[name + '_high']:.3g})"
    if f"{name}_halves" not in figures or f"{name}_floor" not in figures:
        return text + "."
    return f"{text}; of halves {figures[name + '_halves']:.3g}, where two halves of the real set have " \
           f"{figures[name + '_floor']:.3g}."
