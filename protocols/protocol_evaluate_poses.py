# SPDX-License-Identifier: GPL-3.0-or-later
"""How good a refinement is, by particles whose poses are known."""
import os
from pathlib import Path
from typing import Any

from pyworkflow.protocol.params import PointerParam

from cryogem_scipion.engine.io.dataset import Manifest
from cryogem_scipion.engine.settings import PosesSettings
from cryogem_scipion.protocols.binding import define_fields
from cryogem_scipion.protocols.evaluation import ProtCryogemEvaluation, write_particles

__all__ = ["ProtCryogemEvaluatePoses"]


class ProtCryogemEvaluatePoses(ProtCryogemEvaluation):
    """Compare refined particles with the true ones of a generated set: error of the orientation modulo symmetry, of
    the shift and of the defocus. The refined map may be turned, moved or mirrored against the true one; that is
    estimated and taken off first."""

    _label = "evaluate poses"
    _stage = "poses"
    _settings = PosesSettings
    _folder = "poses"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, PosesSettings, first={"Data": self._data}, after={}, conditions={})
        self._addQueue(form)

    def _data(self, form: Any) -> None:
        with_poses = {"pointerClass": "SetOfParticles", "pointerCondition": "hasAlignmentProj", "important": True}
        form.addParam("inputParticles", PointerParam, label="Refined particles", **with_poses,
                      help="Output of a 3D refinement or a pose estimator.")
        form.addParam("inputTruth", PointerParam, label="True particles", **with_poses,
                      help="outputParticles of simulate micrographs or generate dataset. The same particles are found "
                      "by micrograph and coordinate, or by image.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputParticles.get() is not None and self.inputTruth.get() is not None

    def inputValues(self) -> dict[str, Any]:
        return {name: str(self._star(name)) for name in ("particles", "truth")}

    def writeInputs(self) -> None:
        self._star("truth").parent.mkdir(exist_ok=True)
        write_particles(self.inputParticles.get(), self._star("particles"))
        write_particles(self.inputTruth.get(), self._star("truth"))

    def _star(self, name: str) -> Path:
        return Path(os.path.abspath(self._getExtraPath("inputs", f"{name}.star")))

    # --------------------------- Information
    def sentences(self, manifest: Manifest) -> list[str]:
        names = {"angular_error_degrees_median": ("orientation", "°"), "view_error_degrees_median": ("view", "°"),
                 "in_plane_error_degrees_median": ("turn in the plane", "°"),
                 "shift_error_angstrom_median": ("shift", " Å"), "defocus_error_angstrom_median": ("defocus", " Å")}
        errors = [f"{name} {manifest.figures[key]:.3g}{unit}" for key, (name, unit) in names.items()
                  if key in manifest.figures]
        return [f"{manifest.particles} particles were compared with the truth; median errors: {', '.join(errors)}."]
