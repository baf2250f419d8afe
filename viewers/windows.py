# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows of "Analyze Results": a form of buttons, each of which opens a figure."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyworkflow.gui.plotter import Plotter
from pyworkflow.protocol.params import BooleanParam, IntParam, LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View, Viewer

from cryogem_scipion.errors import CryogemError
from cryogem_scipion.objects import CryogemModel
from cryogem_scipion.protocols import (
    ProtCryogemGenerate,
    ProtCryogemImportModel,
    ProtCryogemSimulate,
    ProtCryogemTrain,
)
from cryogem_scipion.viewers import figures

__all__ = ["CryogemDatasetViewer", "CryogemModelViewer", "CryogemTrainViewer"]


class CryogemDatasetViewer(ProtocolViewer):
    """Labelled micrographs: gallery with particles and masks, counts, defocus, orientations."""

    _label = "labelled micrographs"
    _targets = [ProtCryogemSimulate, ProtCryogemGenerate]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        group = form.addGroup("Micrographs")
        group.addParam("displayMicrographs", LabelParam, label="Gallery",
                       help="One micrograph after another, in all pictures kept of it. Arrow keys page through.")
        group.addParam("firstMicrograph", IntParam, default=1, label="Begin with micrograph",
                       help="Number of the micrograph shown first.")
        group.addParam("showCircles", BooleanParam, default=True, label="Mark particles",
                       help="Circles of the particle's diameter; orange where the border cuts the box.")
        group.addParam("showOutline", BooleanParam, default=True, label="Outline masks",
                       help="The edge of the particles' masks.")
        group = form.addGroup("Set")
        group.addParam("displayStatistics", LabelParam, label="Particles and defocus",
                       help="How many particles the micrographs have, and their defocus.")
        group.addParam("displayOrientations", LabelParam, label="Orientations",
                       help="The particles' viewing directions.")

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return {"displayMicrographs": self._micrographs, "displayStatistics": self._statistics,
                "displayOrientations": self._orientations}

    def _micrographs(self, name: str | None = None) -> list[View]:
        return _window(self, "Micrographs", (11, 7), lambda figure: figures.gallery(
            figure, self.protocol.outFolder(), self.firstMicrograph.get(1) - 1, self.showCircles.get(),
            self.showOutline.get()))

    def _statistics(self, name: str | None = None) -> list[View]:
        return _window(self, "Particles and defocus", (9, 4), lambda figure: figures.statistics(
            figure, self.protocol.outFolder()))

    def _orientations(self, name: str | None = None) -> list[View]:
        return _window(self, "Orientations", (8, 5), lambda figure: figures.orientations(
            figure, self.protocol.outFolder()))


class CryogemTrainViewer(ProtocolViewer):
    """A training, also while it runs: losses and previews."""

    _label = "training of the noise translator"
    _targets = [ProtCryogemTrain]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        form.addParam("displayLosses", LabelParam, label="Losses", help="Losses over the steps; press again for news.")
        form.addParam("displayPreviews", LabelParam, label="Previews",
                      help="Input, generated and real pieces; the last preview first.")

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return {"displayLosses": self._losses, "displayPreviews": self._previews}

    def _losses(self, name: str | None = None) -> list[View]:
        return _losses(self, self.protocol.outFolder())

    def _previews(self, name: str | None = None) -> list[View]:
        return _previews(self, self.protocol.outFolder())


class CryogemModelViewer(Viewer):
    """A noise model: how it was trained; of an imported one, what it makes of discs in white noise."""

    _name = "noise model"
    _targets = [CryogemModel, ProtCryogemImportModel]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj: CryogemModel | ProtCryogemImportModel, **kwargs: Any) -> list[View]:
        folder = Path(obj.getFolder()) if isinstance(obj, CryogemModel) else obj.outFolder()
        trained = (folder / "losses.csv").is_file()
        return [*(_losses(self, folder) if trained else []), *_previews(self, folder)]


def _losses(viewer: Viewer, folder: Path) -> list[View]:
    return _window(viewer, "Losses", (8, 6), lambda figure: figures.losses(figure, folder / "losses.csv"))


def _previews(viewer: Viewer, folder: Path) -> list[View]:
    return _window(viewer, "Previews", (10, 6), lambda figure: figures.previews(figure, folder))


def _window(viewer: Viewer, title: str, size: tuple[float, float], draw: Callable[[Any], None]) -> list[View]:
    """A window with a figure, or a message where the files are not there yet."""
    plotter = Plotter(windowTitle=title, figsize=size)
    plotter.tightLayoutOn = False  # The figures lay themselves out.
    try:
        draw(plotter.getFigure())
    except CryogemError as error:
        plotter.close()
        return [viewer.errorMessage(str(error), title)]
    return [plotter]
