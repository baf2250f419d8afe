# SPDX-License-Identifier: GPL-3.0-or-later
"""How good a picker is, by micrographs whose particles are known."""
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
from cryogem_scipion.protocols.evaluation import (
    ProtCryogemEvaluation,
    paired_micrographs,
    particle_diameter,
    score_attribute,
    write_picks,
    write_truth,
)
from cryogem_scipion.protocols.inputs import coordinate_micrographs

__all__ = ["ProtCryogemEvaluatePicks"]


class ProtCryogemEvaluatePicks(ProtCryogemEvaluation):
    """Compare the coordinates of a picker with the true ones of a simulated or generated set: precision, recall, F1,
    area under the precision-recall curve, and how well the picks are centred. Particles that the border cuts count
    neither as hits nor as misses."""

    _label = "evaluate picks"
    _stage = "picks"
    _settings = PicksSettings
    _folder = "picks"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, PicksSettings, first={"Data": self._data}, after={"radius": self._scores}, conditions={})
        self._addQueue(form)

    def _data(self, form: Any) -> None:
        form.addParam("inputCoordinates", PointerParam, pointerClass="SetOfCoordinates", important=True,
                      label="Picks", help="Coordinates of a picker, on the micrographs of the true ones or on some of "
                      "them; the pixel size may differ.")
        form.addParam("inputTruth", PointerParam, pointerClass="SetOfCoordinates", important=True,
                      label="True coordinates", help="outputCoordinates of simulate micrographs or generate dataset, "
                      "or coordinates that are trusted for another reason.")

    def _scores(self, form: Any) -> None:
        form.addParam("scoreAttribute", StringParam, default="", expertLevel=LEVEL_ADVANCED, label="Score",
                      help="Attribute of the picks that holds their scores. Empty finds those of Topaz, crYOLO, "
                      "RELION, Gautomatch and cryoSPARC; picks without scores have no precision-recall curve.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputCoordinates.get() is not None and self.inputTruth.get() is not None

    def inputValues(self) -> dict[str, Any]:
        values: dict[str, Any] = {"picks": [str(self._star("picks"))], "truth": [str(self._star("truth"))]}
        if not self.radius.get():
            diameter = particle_diameter(self.inputTruth.get().getMicrographs())
            if not diameter:
                raise SettingsError("the true coordinates do not tell the particle's diameter; give the matching "
                                    "radius")
            values["radius"] = round(default_matching_radius(diameter), 3)
        return values

    def writeInputs(self) -> None:
        picks, truth = self.inputCoordinates.get(), self.inputTruth.get()
        mine, theirs = paired_micrographs(picks.getMicrographs(), truth.getMicrographs())
        self._star("picks").parent.mkdir(exist_ok=True)
        write_picks(picks, mine, score_attribute(picks, self.scoreAttribute.get("").strip()), self._star("picks"))
        write_truth(truth, theirs, set(mine.values()), self._star("truth"))

    def _star(self, name: str) -> Path:
        return Path(os.path.abspath(self._getExtraPath("inputs", f"{name}.star")))

    # --------------------------- Information
    def crossChecks(self) -> list[str]:
        for coordinates in (self.inputCoordinates.get(), self.inputTruth.get()):
            coordinate_micrographs(coordinates)
        score_attribute(self.inputCoordinates.get(), self.scoreAttribute.get("").strip())
        return []

    def sentences(self, manifest: Manifest) -> list[str]:
        found = manifest.figures
        scores = [f"{name} {found[key]:.3f}" for key, name in (("precision", "precision"), ("recall", "recall"),
                                                               ("f1", "F1"), ("auprc", "AUPRC")) if key in found]
        return [f"Of {found['particles']:.0f} particles on {manifest.micrographs} micrographs {found['hits']:.0f} were "
                f"found within {found['radius_angstrom']:.0f} Å, with {found['false_picks']:.0f} false picks.",
                f"Over all picks: {', '.join(scores)}."]
