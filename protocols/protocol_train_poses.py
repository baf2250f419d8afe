# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol *train pose estimator*: learn to tell a particle's pose from its image."""
import os
from enum import Enum
from pathlib import Path
from typing import Any

from pyworkflow.protocol.params import PointerParam

from cryogem_scipion.engine.io.dataset import Manifest, read_manifest
from cryogem_scipion.engine.settings import TrainPosesSettings
from cryogem_scipion.objects import CryogemPoseModel
from cryogem_scipion.protocols.binding import define_fields, form_values
from cryogem_scipion.protocols.outputs import pose_model_output
from cryogem_scipion.protocols.particle_checks import contrast_warnings, particle_image_errors
from cryogem_scipion.protocols.particle_tables import dataset_manifests, write_particles
from cryogem_scipion.protocols.protocol_stage import ProtCryogemStage

__all__ = ["POSE_METHOD", "POSE_REFERENCES", "ProtCryogemTrainPoses", "TrainPosesOutputs"]

POSE_REFERENCES = ["Zhang2024", "Sigworth1998"]
POSE_METHOD = ("The pose estimator learns from generated particles, as in CryoGEM [Zhang2024], and finds poses by "
               "maximum likelihood [Sigworth1998].")
CIRCLE_MARGIN = 1.1
"""Diameter of the circle over the diameter of the particles, for particles of datasets; as the engine takes it."""
# A warning comes below this number of particles.
FEW_PARTICLES = 1000


class TrainPosesOutputs(Enum):
    """The pose estimator."""

    outputModel = CryogemPoseModel


class ProtCryogemTrainPoses(ProtCryogemStage):
    """Train a pose estimator on particles whose poses are known.

    The pose estimator learns to tell the orientation and the shift of a particle
    from its image. It learns from generated particles, whose poses are exact. Then
    *assign poses* gives poses to the particles of your own micrographs.
    _Analyze Results_ shows the learning curve while the training runs. _Continue_
    goes on with a stopped training.

    Run this protocol after *generate dataset* and before *assign poses*.

    *Inputs*
    - _Particles with known poses_: outputParticles of *generate dataset*, or a
      subset of it. About 3000 particles or more are good.

    *Outputs*
    - outputModel: the pose estimator, for *assign poses*

    Method: [[https://arxiv.org/abs/2312.02235][CryoGEM (Zhang et al., 2024)]]
    """

    _label = "train pose estimator"
    _references = POSE_REFERENCES
    _methodSentence = POSE_METHOD
    _possibleOutputs = TrainPosesOutputs
    _stage = "train-poses"
    _settings = TrainPosesSettings
    _folder = "pose_training"

    # --------------------------- Form
    def _defineParams(self, form: Any) -> None:
        define_fields(form, TrainPosesSettings, before_section={"Particles": self._addInputs}, after_field={},
                      conditions={})
        self._addParallel(form)

    def _addInputs(self, form: Any) -> None:
        form.addParam("inputParticles", PointerParam, pointerClass="SetOfParticles",
                      pointerCondition="hasAlignmentProj", important=True, label="Particles with known poses",
                      help="outputParticles of generate dataset, or a subset of it. Particles of a good refinement can "
                      "be used, too. About 3000 particles or more are good.")

    # --------------------------- Settings
    def inputsReady(self) -> bool:
        return self.inputParticles.get() is not None

    def inputValues(self) -> dict[str, Any]:
        return {"particles": str(self._star()), **self._datasetValues()}

    def _datasetValues(self) -> dict[str, Any]:
        """Symmetry and diameter of the particles' datasets, where the form has none."""
        manifests = dataset_manifests(self.inputParticles.get())
        values: dict[str, Any] = {}
        symmetries = {_simulated_symmetry(manifest) for manifest in manifests}
        if not (self.symmetry.get() or "").strip() and len(symmetries) == 1:
            values["symmetry"] = symmetries.pop()
        diameters = [manifest.particle_diameter_angstrom for manifest in manifests]
        if self.diameterAngstrom.get() is None and all(diameters) and diameters:
            values["diameter_angstrom"] = round(CIRCLE_MARGIN * max(diameters), 3)
        return values

    def writeInputFiles(self) -> None:
        write_particles(self.inputParticles.get(), self._star(), with_poses=True)

    def _star(self) -> Path:
        return Path(os.path.abspath(self._getExtraPath("particles.star")))

    # --------------------------- Outputs
    def createOutputStep(self, key: str) -> None:
        folder = self.outFolder()
        model = pose_model_output(folder, read_manifest(folder))
        self._defineOutputs(**{TrainPosesOutputs.outputModel.name: model})
        self._defineSourceRelation(self.inputParticles, model)

    # --------------------------- Information
    def inputErrors(self) -> list[str]:
        particles = self.inputParticles.get()
        if not particles.hasAlignmentProj():
            return ["*Particles with known poses*: they have no projection angles; choose the output of generate "
                    "dataset, or of a 3D refinement."]
        errors = particle_image_errors("Particles with known poses", particles)
        symmetries = sorted({_simulated_symmetry(manifest) for manifest in dataset_manifests(particles)})
        if len(symmetries) > 1 and not (self.symmetry.get() or "").strip():
            errors.append(f"*Symmetry*: the particles come from datasets with the symmetries {', '.join(symmetries)}; "
                          "give the symmetry.")
        return errors

    def inputWarnings(self) -> list[str]:
        particles = self.inputParticles.get()
        warnings = [] if particles.getSize() >= FEW_PARTICLES else [
            f"The number of particles is only {particles.getSize()}. The poses will not be exact; 3000 or more are "
            "better."]
        if not dataset_manifests(particles):
            warnings.append("The particles were not generated by this plugin, so their poses are not exact. The pose "
                            "estimator also learns the errors of the poses.")
        bright = form_values(self, TrainPosesSettings)["contrast"] == "bright"
        return warnings + contrast_warnings("Particles with known poses", particles, bright)

    def resultSentences(self, manifest: Manifest) -> list[str]:
        model = pose_model_output(self.outFolder(), manifest)
        sentences = [f"A pose estimator was trained for {model.getSteps()} steps on {manifest.particles} particles. "
                     f"The symmetry is {model.getSymmetry()}, the diameter {model.getDiameter():.0f} Å."]
        if model.getError() is not None:
            sentences.append(f"The median angular error on held-out particles is {model.getError():.2g}°.")
        if (model.getClasses() or 1) > 1:
            sentences.append(f"It tells {model.getClasses()} maps apart.")
        return sentences


def _simulated_symmetry(manifest: Manifest) -> str:
    """The symmetry in the settings of the simulation that a dataset is based on."""
    settings = manifest.simulation if manifest.simulation is not None else manifest.settings
    return str(settings.get("symmetry", "C1"))
