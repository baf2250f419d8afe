# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows of "Analyze Results": a form of buttons, each of which opens a figure."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pyworkflow.protocol.params import BooleanParam, EnumParam, IntParam, LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View, Viewer

from cryogem_scipion.engine.figures.evaluation import FIGURE_SIZE, draw_evaluation
from cryogem_scipion.objects import CryogemModel
from cryogem_scipion.protocols import (
    ProtCryogemEvaluate,
    ProtCryogemExport,
    ProtCryogemGenerate,
    ProtCryogemImportModel,
    ProtCryogemSimulate,
    ProtCryogemTrain,
)
from cryogem_scipion.viewers import micrographs, statistics, training
from cryogem_scipion.viewers.exported import exported
from cryogem_scipion.viewers.window import opened

__all__ = ["CryogemDatasetViewer", "CryogemEvaluateViewer", "CryogemExportViewer", "CryogemModelViewer",
           "CryogemTrainViewer"]

# Buttons of a training: name of the parameter, label, help, size of the window, what is drawn.
TRAINING: dict[str, tuple[str, str, tuple[float, float], Callable[[Figure, Path], None]]] = {
    "displayLosses": ("Losses", "Losses over the steps; they move on while the training runs. The adversarial and the "
                      "discriminator's loss stay between 0 and 1 as long as neither network beats the other.", (8, 6),
                      lambda figure, folder: training.losses(figure, folder / "losses.csv")),
    "displayPreviews": ("Previews over time", "Input, generated and real pieces, always of the same places; the slider "
                        "goes back to the first steps. Training is long enough when they stop changing.", (9.5, 7),
                        training.previews),
    "displayComparison": ("Real beside generated", "Larger fields, in the same grey scale, when the training has "
                          "finished. The eye should not tell the second from the third.", (12, 4.6),
                          training.comparison),
    "displaySpectra": ("Spectra and grey values", "Power spectra and histograms of real and generated fields, when the "
                       "training has finished. The closer the curves, the better.", (10, 4.2), training.spectra),
    "displayIce": ("Ice maps", "The real micrographs at the working pixel size, and the slow changes of transmission "
                   "measured of each, which the generated ones inherit.", (11, 6), training.ice_maps),
}


class CryogemDatasetViewer(ProtocolViewer):
    """Labelled micrographs: gallery with particles and masks, power spectra, counts, defocus, orientations."""

    _label = "labelled micrographs"
    _targets = [ProtCryogemSimulate, ProtCryogemGenerate]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        group = form.addGroup("Micrographs, one after another")
        group.addParam("firstMicrograph", IntParam, default=1, label="Begin with micrograph",
                       help="Number of the micrograph shown first; slider, buttons and arrow keys go on from there.")
        group.addParam("displayMicrographs", LabelParam, label="Gallery",
                       help="The micrograph in all pictures kept of it, with its labels.")
        group.addParam("showCircles", BooleanParam, default=True, label="Mark particles",
                       help="Circles of the particle's diameter; orange where the border cuts the box.")
        group.addParam("showOutline", BooleanParam, default=True, label="Outline masks",
                       help="The edge of the particles' masks.")
        group.addParam("displaySpectra", LabelParam, label="Power spectra",
                       help="The micrograph's power spectrum, and on top of it the rings where the CTF of its label "
                       "vanishes: dark rings of the spectrum lie on them.")
        group.addParam("spectrumOf", EnumParam, choices=[*micrographs.KINDS.values()][:2] + ["the micrographs"],
                       default=2, label="Spectra of", help="Images without noise, or with ice and noise before the "
                       "translation, show more rings; generate keeps them when it is told to.")
        group = form.addGroup("The whole set")
        group.addParam("displayStatistics", LabelParam, label="Particles and defocus",
                       help="How many particles the micrographs have, and their defocus.")
        group.addParam("displayOrientations", LabelParam, label="Orientations",
                       help="The particles' viewing directions on a map of equal areas, and their angles in the plane.")

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return {"displayMicrographs": self._micrographs, "displaySpectra": self._spectra,
                "displayStatistics": self._statistics, "displayOrientations": self._orientations}

    def _micrographs(self, name: str | None = None) -> list[View]:
        folder = self.protocol.outFolder()
        return opened(self, "Micrographs", (12.6, 5.4), lambda figure: micrographs.gallery(
            figure, folder, self._first(), self.showCircles.get(), self.showOutline.get()))

    def _spectra(self, name: str | None = None) -> list[View]:
        kind = list(micrographs.KINDS)[self.spectrumOf.get()]
        return opened(self, "Power spectra", (11, 5), lambda figure: micrographs.power_spectra(
            figure, self.protocol.outFolder(), self._first(), kind))

    def _statistics(self, name: str | None = None) -> list[View]:
        return opened(self, "Particles and defocus", (9, 4), lambda figure: statistics.statistics(
            figure, self.protocol.outFolder()))

    def _orientations(self, name: str | None = None) -> list[View]:
        return opened(self, "Orientations", (10, 4.6), lambda figure: statistics.orientations(
            figure, self.protocol.outFolder()))

    def _first(self) -> int:
        return self.firstMicrograph.get(1) - 1


class CryogemTrainViewer(ProtocolViewer):
    """A training, also while it runs: losses, previews; then its model beside the real micrographs."""

    _label = "training of the noise translator"
    _targets = [ProtCryogemTrain]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        for name, (label, help, *_) in TRAINING.items():
            form.addParam(name, LabelParam, label=label, help=help)

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return dict.fromkeys(TRAINING, self._show)

    def _show(self, name: str) -> list[View]:
        return _training(self, name, self.protocol.outFolder())


class CryogemModelViewer(Viewer):
    """A noise model: how it was trained; of an imported one, what it makes of discs in white noise."""

    _name = "noise model"
    _targets = [CryogemModel, ProtCryogemImportModel]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj: CryogemModel | ProtCryogemImportModel, **kwargs: Any) -> list[View]:
        folder = Path(obj.getFolder()) if isinstance(obj, CryogemModel) else obj.outFolder()
        trained = (folder / "losses.csv").is_file()
        names = ("displayLosses", "displayPreviews", "displayComparison") if trained else ("displayPreviews",)
        return [view for name in names for view in _training(self, name, folder)]


class CryogemEvaluateViewer(Viewer):
    """A comparison of micrographs: examples, curves of both sets, and the table of distances."""

    _name = "comparison of micrographs"
    _targets = [ProtCryogemEvaluate]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj: ProtCryogemEvaluate, **kwargs: Any) -> list[View]:
        return opened(self, "Generated and real micrographs", FIGURE_SIZE,
                      lambda figure: draw_evaluation(figure, obj.outFolder()))


class CryogemExportViewer(Viewer):
    """An export: its particles, or its micrographs with coordinates, as the other program gets them."""

    _name = "exported images"
    _targets = [ProtCryogemExport]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj: ProtCryogemExport, **kwargs: Any) -> list[View]:
        return opened(self, "Exported images", (9, 5), lambda figure: exported(figure, obj.outFolder()))


def _training(viewer: Viewer, name: str, folder: Path) -> list[View]:
    label, _, size, draw = TRAINING[name]
    return opened(viewer, label, size, lambda figure: draw(figure, folder))
