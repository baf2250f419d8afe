# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol *evaluate picks*: compare the coordinates of a picker with the true ones."""
import os
from pathlib import Path
from typing import Any

from pyworkflow.protocol.constants import LEVEL_ADVANCED
from pyworkflow.protocol.params import PointerParam, StringParam

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.io.dataset import Manifest
from cryogem_scipion.engine.settings import PicksSettings
from cryogem_scipion.engine.settings.picks import default_matching_radius
from cryogem_scipion.protocols.binding import define_fields
from cryogem_scipion.protocols.evaluation_inputs import (
    paired_micrographs,
    particle_diameter,
    score_attribute,
    write_picks,
    write_truth,
)
from cryogem_scipion.protocols.inputs import coordinate_micrographs
from cryogem_scipion.protocols.protocol_evaluation import ProtCryogemEvaluation

__all__ = ["ProtCryogemEvaluatePicks"]


class ProtCryogemEvaluatePicks(ProtCryogemEvaluation):
    """Measure how good a picker is, on micrographs whose particles are known.

    The protocol compares the picker's coordinates with the true coordinates of a
    simulated or generated dataset. It reports precision, recall, F1, the area
    under the precision-recall curve (AUPRC), and the distance of the picks from the
    particles' centres. Particles cut by the border count neither as hits nor as
    misses.

    *Inputs*
    - _Picks_: coordinates of a picker on the micrographs of the true coordinates,
      or on some of them. The pixel size may differ.
    - _True coordinates_: outputCoordinates of *simulate micrographs* or
      *generate dataset*, or other coordinates that you trust

    *Outputs*
    - no sets. _Analyze Results_ shows the curves, and hits, misses and false picks
      on each micrograph. The summary lists the scores.

    Method: [[https://arxiv.org/abs/2312.02235][CryoGEM (Zhang et al., 2024)]]
    """

    _label = "evaluate picks"
    _stage = "picks"
    _settings = PicksSettings
    _folder = "picks"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, PicksSettings, before_section={"Data": self._addInputs},
                      after_field={"radius": self._addScoreAttribute}, conditions={})
        self._addQueue(form)

    def _addInputs(self, form: Any) -> None:
        form.addParam("inputCoordinates", PointerParam, pointerClass="SetOfCoordinates", important=True,
                      label="Picks", help="Coordinates of a picker, on the micrographs of the true coordinates or on "
                      "some of them. The pixel size may differ.")
        form.addParam("inputTruth", PointerParam, pointerClass="SetOfCoordinates", important=True,
                      label="True coordinates", help="outputCoordinates of simulate micrographs or generate dataset, "
                      "or other coordinates that you trust.")

    def _addScoreAttribute(self, form: Any) -> None:
        form.addParam("scoreAttribute", StringParam, default="", expertLevel=LEVEL_ADVANCED, label="Score",
                      help="Attribute of the picks that holds their scores. Empty: the attribute of Topaz, crYOLO, "
                      "RELION, Gautomatch or cryoSPARC. Picks without scores have no precision-recall curve.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputCoordinates.get() is not None and self.inputTruth.get() is not None

    def inputValues(self) -> dict[str, Any]:
        values: dict[str, Any] = {"picks": [str(self._star("picks"))], "truth": [str(self._star("truth"))]}
        if not self.radius.get():
            diameter = particle_diameter(self.inputTruth.get().getMicrographs())
            if not diameter:
                raise SettingsError("the particle's diameter is not known from the true coordinates; give the matching "
                                    "radius")
            values["radius"] = round(default_matching_radius(diameter), 3)
        return values

    def writeInputFiles(self) -> None:
        picks, truth = self.inputCoordinates.get(), self.inputTruth.get()
        picked_names, true_names = paired_micrographs(picks.getMicrographs(), truth.getMicrographs())
        self._star("picks").parent.mkdir(exist_ok=True)
        write_picks(picks, picked_names, score_attribute(picks, self.scoreAttribute.get("").strip()),
                    self._star("picks"))
        write_truth(truth, true_names, set(picked_names.values()), self._star("truth"))

    def _star(self, name: str) -> Path:
        return Path(os.path.abspath(self._getExtraPath("inputs", f"{name}.star")))

    # --------------------------- Information
    def inputErrors(self) -> list[str]:
        for coordinates in (self.inputCoordinates.get(), self.inputTruth.get()):
            coordinate_micrographs(coordinates)
        score_attribute(self.inputCoordinates.get(), self.scoreAttribute.get("").strip())
        return []

    def resultSentences(self, manifest: Manifest) -> list[str]:
        figures = manifest.figures
        scores = [f"{name} {figures[key]:.3f}" for key, name in (("precision", "precision"), ("recall", "recall"),
                                                               ("f1", "F1"), ("auprc", "AUPRC")) if key in figures]
        return [f"Of {figures['particles']:.0f} particles on {manifest.micrographs} micrographs {figures['hits']:.0f} "
                f"were found within {figures['radius_angstrom']:.0f} Å, with {figures['false_picks']:.0f} false picks.",
                f"Over all picks: {', '.join(scores)}."]
