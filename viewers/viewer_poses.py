# SPDX-License-Identifier: GPL-3.0-or-later
"""Viewers of the training of a pose estimator, of the pose estimator, and of the poses that it assigned."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyworkflow.protocol.params import FloatParam, LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View, Viewer

from cryogem_scipion.engine.figures import assignment, pose_training
from cryogem_scipion.objects import CryogemPoseModel
from cryogem_scipion.protocols import ProtCryogemAssignPoses, ProtCryogemTrainPoses
from cryogem_scipion.viewers.figure_window import open_figure
from cryogem_scipion.viewers.pose_figures import (
    draw_assigned_orientations,
    draw_learning_curve,
    draw_particle_gallery,
)
from cryogem_scipion.viewers.training_buttons import Button, TrainingViewer

__all__ = ["CryogemAssignPosesViewer", "CryogemPoseModelViewer", "CryogemTrainPosesViewer"]

# By the name of their parameter.
TRAINING_BUTTONS = {
    "displayLosses": Button(
        "Learning curve", "Loss and median error of held-out particles over the steps, updated while the training "
        "runs. Training is long enough when the error no longer falls.", (8, 6), draw_learning_curve),
    "displayReport": Button(
        "Errors and confidence", "Held-out particles after the training has finished: errors of orientation and shift, "
        "and how often poses of each confidence are right. The points should lie on the line. Also the noise, and a "
        "section of the learned reference.", pose_training.FIGURE_SIZE, pose_training.draw_pose_training),
}


class CryogemTrainPosesViewer(TrainingViewer):
    """The training of a pose estimator: learning curve while it runs, then the errors of held-out particles."""

    _label = "training of the pose estimator"
    _targets = [ProtCryogemTrainPoses]
    _buttons = TRAINING_BUTTONS


class CryogemPoseModelViewer(Viewer):
    """A pose estimator: figures of its training."""

    _name = "pose estimator"
    _targets = [CryogemPoseModel]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj: CryogemPoseModel, **kwargs: Any) -> list[View]:
        return [view for button in TRAINING_BUTTONS.values() for view in button.open(self, Path(obj.getFolder()))]


class CryogemAssignPosesViewer(ProtocolViewer):
    """Assigned poses: confidences, views and shifts, orientations, and images sorted by confidence."""

    _label = "assigned poses"
    _targets = [ProtCryogemAssignPoses]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        form.addParam("displayReport", LabelParam, label="Poses and confidence",
                      help="Histograms of the confidences, views, in-plane angles and shifts of all particles, and of "
                      "their classes if the pose estimator knows several maps.")
        form.addParam("displayOrientations", LabelParam, label="Orientations",
                      help="The particles' viewing directions on an equal-area map, and their in-plane angles.")
        form.addParam("leastConfidence", FloatParam, default=0.0, label="Orientations from confidence",
                      help="Orientations of the particles with at least this confidence, from 0 (all particles) to 1.")
        form.addParam("displayParticles", LabelParam, label="Particles",
                      help="Images of the particles, beginning with the highest confidence. Slider, buttons and arrow "
                      "keys show the others.")

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return {"displayReport": self._report, "displayOrientations": self._orientations,
                "displayParticles": self._particles}

    def _report(self, name: str | None = None) -> list[View]:
        return open_figure(self, "Poses and confidence", assignment.FIGURE_SIZE, lambda figure: (
            assignment.draw_assignment(figure, self.protocol.outFolder())))

    def _orientations(self, name: str | None = None) -> list[View]:
        return open_figure(self, "Orientations", (10, 4.6), lambda figure: draw_assigned_orientations(
            figure, self.protocol.outFolder(), self.leastConfidence.get(0.0)))

    def _particles(self, name: str | None = None) -> list[View]:
        return open_figure(self, "Particles", (10, 6), lambda figure: draw_particle_gallery(
            figure, self.protocol.outFolder()))
