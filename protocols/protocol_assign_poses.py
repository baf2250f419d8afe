# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol *assign poses*: orientations, shifts and confidences of particles from a trained pose estimator."""
import os
from enum import Enum
from pathlib import Path
from typing import Any

from pwem.objects import SetOfParticles
from pyworkflow.protocol.params import PointerParam

from cryogem_scipion.engine.figures.assignment import REPORT_NAME
from cryogem_scipion.engine.figures.report_files import read_report
from cryogem_scipion.engine.io.dataset import PARTICLES, Manifest, read_manifest
from cryogem_scipion.engine.settings import AssignPosesSettings
from cryogem_scipion.protocols.binding import define_fields, form_values
from cryogem_scipion.protocols.particle_checks import contrast_warnings, particle_image_errors
from cryogem_scipion.protocols.particle_tables import posed_particles, write_particles
from cryogem_scipion.protocols.protocol_stage import ProtCryogemStage
from cryogem_scipion.protocols.protocol_train_poses import POSE_METHOD, POSE_REFERENCES

__all__ = ["AssignPosesOutputs", "ProtCryogemAssignPoses"]


class AssignPosesOutputs(Enum):
    """The particles with poses."""

    outputParticles = SetOfParticles


class ProtCryogemAssignPoses(ProtCryogemStage):
    """Give particles poses, shifts and confidences with a trained pose estimator.

    The particles may be extracted by any program, at any box size and pixel size,
    with or without CTFs. The poses are the start of a local refinement in RELION or
    cryoSPARC.

    Run this protocol after *train pose estimator*.

    *Inputs*
    - _Pose estimator_: output of *train pose estimator* for the same specimen
    - _Particles_: particles to assign poses to, such as those of a picker

    *Outputs*
    - outputParticles: the particles with orientations and shifts. The attribute
      rlnMaxValueProbDistribution has the confidence of each pose: the probability
      that it is right within 15 degrees. Scipion's protocol *filter set* can
      select the particles with a high confidence.

    Method: [[https://arxiv.org/abs/2312.02235][CryoGEM (Zhang et al., 2024)]]
    """

    _label = "assign poses"
    _references = POSE_REFERENCES
    _methodSentence = POSE_METHOD
    _possibleOutputs = AssignPosesOutputs
    _stage = "assign-poses"
    _settings = AssignPosesSettings
    _folder = "assignment"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, AssignPosesSettings, before_section={"Particles": self._addInputs}, after_field={},
                      conditions={})
        self._addParallel(form)

    def _addInputs(self, form: Any) -> None:
        form.addParam("inputModel", PointerParam, pointerClass="CryogemPoseModel", important=True,
                      label="Pose estimator",
                      help="Output of train pose estimator. It must have been trained for the same specimen.")
        form.addParam("inputParticles", PointerParam, pointerClass="SetOfParticles", important=True,
                      label="Particles",
                      help="Particles to assign poses to. Box size and pixel size may differ from those of the "
                      "training particles. Particles with CTFs get more exact poses. Poses that the particles already "
                      "have are ignored.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputModel.get() is not None and self.inputParticles.get() is not None

    def inputValues(self) -> dict[str, Any]:
        return {"model": os.path.abspath(self.inputModel.get().getFileName()), "particles": str(self._star())}

    def writeInputFiles(self) -> None:
        write_particles(self.inputParticles.get(), self._star(), with_poses=False)

    def _star(self) -> Path:
        return Path(os.path.abspath(self._getExtraPath("particles.star")))

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        folder = self.outFolder()
        read_manifest(folder)
        particles = posed_particles(self, self.inputParticles, folder / PARTICLES, self._hasClasses())
        self._defineOutputs(**{AssignPosesOutputs.outputParticles.name: particles})
        self._defineTransformRelation(self.inputParticles, particles)
        self._defineSourceRelation(self.inputModel, particles)

    def _hasClasses(self) -> bool:
        return (self.inputModel.get().getClasses() or 1) > 1

    # --------------------------- Information
    def inputErrors(self) -> list[str]:
        model = self.inputModel.get()
        errors = [] if os.path.isfile(model.getFileName()) else [
            f"*Pose estimator*: {model.getFileName()} does not exist any more; train it again."]
        errors += particle_image_errors("Particles", self.inputParticles.get())
        if not errors and self._box() < model.getDiameter() / 2:
            errors.append(f"*Particles*: their boxes ({self._box():.0f} Å) are less than half of the pose estimator's "
                          f"circle ({model.getDiameter():.0f} Å); extract larger boxes.")
        return errors

    def inputWarnings(self) -> list[str]:
        particles, diameter = self.inputParticles.get(), self.inputModel.get().getDiameter()
        warnings = []
        if self._box() < diameter:
            warnings.append(f"The particles' boxes ({self._box():.0f} Å) are smaller than the circle of the pose "
                            f"estimator ({diameter:.0f} Å). Larger boxes give more exact poses.")
        if not particles.hasCTF():
            warnings.append("The particles have no CTFs. The poses are more exact with them.")
        bright = form_values(self, AssignPosesSettings)["contrast"] == "bright"
        return warnings + contrast_warnings("Particles", particles, bright)

    def _box(self) -> float:
        """Edge of the particles' boxes, Å."""
        particles = self.inputParticles.get()
        return float(particles.getXDim() * particles.getSamplingRate())

    def resultSentences(self, manifest: Manifest) -> list[str]:
        figures = manifest.figures
        classes = read_report(self.outFolder(), REPORT_NAME)[0]["classes"]
        counts = ", ".join(f"{count} of map {number}" for number, count in classes.items())
        return [f"{manifest.particles} particles have poses. The mean confidence is {figures['mean_confidence']:.2f}; "
                f"{figures['confident']:.0%} of the particles have a confidence of 0.5 or more.",
                f"The median distance of the particles from the centres of their boxes is "
                f"{figures['median_shift_angstrom']:.1f} Å.",
                *([f"Particles by map: {counts}."] if len(classes) > 1 else [])]
