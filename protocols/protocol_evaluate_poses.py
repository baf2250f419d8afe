# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol *evaluate poses*: compare refined poses with the true ones."""
import os
from pathlib import Path
from typing import Any

from pyworkflow.protocol.params import PointerParam

from cryogem_scipion.engine.io.dataset import Manifest
from cryogem_scipion.engine.settings import PosesSettings
from cryogem_scipion.protocols.binding import define_fields
from cryogem_scipion.protocols.particle_tables import write_particles
from cryogem_scipion.protocols.protocol_evaluation import ProtCryogemEvaluation

__all__ = ["ProtCryogemEvaluatePoses"]


class ProtCryogemEvaluatePoses(ProtCryogemEvaluation):
    """Measure how good a refinement is, on particles whose poses are known.

    The protocol compares refined particles with the true particles of a simulated
    or generated dataset. It reports the errors of orientation (modulo symmetry),
    shift and defocus. A refined map may be rotated, shifted or mirrored with
    respect to the true map. The protocol first estimates this difference and
    corrects for it.

    *Inputs*
    - _Refined particles_: output of a 3D refinement or a pose estimator
    - _True particles_: outputParticles of *simulate micrographs* or
      *generate dataset*. The particles of both sets are matched by micrograph and
      coordinate, or by image.

    *Outputs*
    - no sets. _Analyze Results_ shows the errors, the summary lists the medians.

    Method: [[https://arxiv.org/abs/2312.02235][CryoGEM (Zhang et al., 2024)]]
    """

    _label = "evaluate poses"
    _stage = "poses"
    _settings = PosesSettings
    _folder = "poses"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, PosesSettings, before_section={"Data": self._addInputs}, after_field={}, conditions={})
        self._addQueue(form)

    def _addInputs(self, form: Any) -> None:
        with_poses = {"pointerClass": "SetOfParticles", "pointerCondition": "hasAlignmentProj", "important": True}
        form.addParam("inputParticles", PointerParam, label="Refined particles", **with_poses,
                      help="Output of a 3D refinement or a pose estimator.")
        form.addParam("inputTruth", PointerParam, label="True particles", **with_poses,
                      help="outputParticles of simulate micrographs or generate dataset. The particles of both sets "
                      "are matched by micrograph and coordinate, or by image.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputParticles.get() is not None and self.inputTruth.get() is not None

    def inputValues(self) -> dict[str, Any]:
        return {name: str(self._star(name)) for name in ("particles", "truth")}

    def writeInputFiles(self) -> None:
        self._star("truth").parent.mkdir(exist_ok=True)
        for name, particles in (("particles", self.inputParticles.get()), ("truth", self.inputTruth.get())):
            write_particles(particles, self._star(name), with_poses=True)

    def _star(self, name: str) -> Path:
        return Path(os.path.abspath(self._getExtraPath("inputs", f"{name}.star")))

    # --------------------------- Information
    def resultSentences(self, manifest: Manifest) -> list[str]:
        names = {"angular_error_degrees_median": ("orientation", "°"), "view_error_degrees_median": ("view", "°"),
                 "in_plane_error_degrees_median": ("in-plane rotation", "°"),
                 "shift_error_angstrom_median": ("shift", " Å"), "defocus_error_angstrom_median": ("defocus", " Å")}
        errors = [f"{name} {manifest.figures[key]:.3g}{unit}" for key, (name, unit) in names.items()
                  if key in manifest.figures]
        return [f"{manifest.particles} particles were compared with the true particles; median errors: "
                f"{', '.join(errors)}."]
