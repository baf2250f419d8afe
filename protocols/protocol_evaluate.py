# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol *evaluate dataset*: how far generated micrographs are from real ones."""
import os
from typing import Any

from pyworkflow.protocol.params import PointerParam

from cryogem_scipion.engine.figures.evaluation import METRIC_NAMES
from cryogem_scipion.engine.figures.two_sample import SCALE_NAMES
from cryogem_scipion.engine.io.dataset import Manifest
from cryogem_scipion.engine.settings import EvaluateSettings
from cryogem_scipion.protocols.binding import define_fields
from cryogem_scipion.protocols.inputs import micrograph_files
from cryogem_scipion.protocols.protocol_stage import ProtCryogemStage

__all__ = ["ProtCryogemEvaluate"]


class ProtCryogemEvaluate(ProtCryogemStage):
    """Measure how far generated micrographs are from real micrographs.

    The protocol compares power spectra, autocorrelation, grey values and local
    standard deviations. It looks for lattices and for lines along the border,
    because networks can produce them. It computes the Fréchet distance between the
    features of both sets. A network computes these features.

    Each distance has a 95 % confidence interval. The report also gives the floor:
    the distance between two random halves of the real set. Generated micrographs
    near the floor are as close to the real ones as other real micrographs.

    Use it after *generate dataset*. Real micrographs of the same session that were
    not used to learn the noise are best.

    *Inputs*
    - _Generated micrographs_: output of *generate dataset*, or any other set
    - _Real micrographs_

    *Outputs*
    - no sets. _Analyze Results_ shows the figure, the summary lists the distances.

    Method: [[https://arxiv.org/abs/2312.02235][CryoGEM (Zhang et al., 2024)]]
    """

    _label = "evaluate dataset"
    _stage = "evaluate"
    _settings = EvaluateSettings
    _folder = "evaluation"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, EvaluateSettings, before_section={"Data": self._addInputs}, after_field={}, conditions={})
        self._addParallel(form)

    def _addInputs(self, form: Any) -> None:
        form.addParam("inputGenerated", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Generated micrographs", help="Output of generate dataset, or any other set.")
        form.addParam("inputMicrographs", PointerParam, pointerClass="SetOfMicrographs", important=True,
                      label="Real micrographs",
                      help="Micrographs of the same session that were not used to learn the noise are best. The set "
                      "with the smaller pixel size is resampled to the pixel size of the other set.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputGenerated.get() is not None and self.inputMicrographs.get() is not None

    def inputValues(self) -> dict[str, Any]:
        generated, real = self.inputGenerated.get(), self.inputMicrographs.get()
        values: dict[str, Any] = {
            "generated": micrograph_files(generated), "generated_pixel_size": generated.getSamplingRate(),
            "real": micrograph_files(real), "real_pixel_size": real.getSamplingRate()}
        if network := self.features.get("").strip():
            values["features"] = os.path.abspath(network)  # because the engine may run in another folder
        return values

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        """Define no output: figure, table and report stay in the protocol's folder."""

    # --------------------------- Information
    def inputErrors(self) -> list[str]:
        network = self.inputValues().get("features")
        if network and not os.path.isfile(network):
            return [f"*{EvaluateSettings.model_fields['features'].title}*: {network} is not a file; choose another."]
        return []

    def resultSentences(self, manifest: Manifest) -> list[str]:
        figures = manifest.figures
        sentences = [f"{manifest.micrographs} generated micrographs were compared with "
                     f"{figures['real_micrographs']:.0f} real micrographs at {manifest.pixel_size:.3g} Å/px."]
        for name, (title, unit) in METRIC_NAMES.items():
            if name in figures:
                sentences.append(_distance_sentence(name, f"{title} ({unit})" if unit else title, figures))
        for name, title in SCALE_NAMES.items():
            start = f"two_sample_{name}"
            if f"{start}_auc" in figures:
                verdict = "told apart" if figures[f"{start}_told_apart"] else "not told apart"
                sentences.append(f"Two-sample test, {title}: AUC {figures[f'{start}_auc']:.2f}, {verdict} (by chance: "
                                 f"up to {figures[f'{start}_chance_high']:.2f}).")
        if "two_sample_told_apart" in figures:
            sentences.append("Two-sample test over all scales: " + (
                "the sets differ." if figures["two_sample_told_apart"] else "no difference was found."))
        if "signal_correlation" in figures:
            sentences.append("The correlation of generated and clean images around particles is "
                             f"{figures['signal_correlation']:.3f}.")
        return sentences


def _distance_sentence(name: str, title: str, figures: dict[str, float]) -> str:
    text = f"{title[:1].upper()}{title[1:]}: {figures[name]:.3g} ({figures[name + '_low']:.3g} to " \
           f"{figures[name + '_high']:.3g})"
    if f"{name}_halves" not in figures or f"{name}_floor" not in figures:
        return text + "."
    return f"{text}; halves of the two sets: {figures[name + '_halves']:.3g}; two halves of the real set (floor): " \
           f"{figures[name + '_floor']:.3g}."
