# SPDX-License-Identifier: GPL-3.0-or-later
"""Viewers of a measurement of real micrographs."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pyworkflow.protocol.params import LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View, Viewer

from cryogem_scipion.engine.figures.measurement import FIGURE_SIZE, draw_measurement
from cryogem_scipion.objects import CryogemMeasurement
from cryogem_scipion.protocols import ProtCryogemMeasure
from cryogem_scipion.viewers.figure_window import open_figure
from cryogem_scipion.viewers.measurement_tables import draw_measured_micrographs, draw_measured_settings

__all__ = ["CryogemMeasureViewer", "CryogemMeasurementViewer"]

# Buttons by the name of their parameter: label, help, window size (inches), drawing function.
BUTTONS: dict[str, tuple[str, str, tuple[float, float], Callable[[Figure, Path], None]]] = {
    "displayFigure": ("Figure to check", "Particles found on a micrograph, Thon rings with the fit, defocus of all "
                      "micrographs, heights of the search's peaks in real and generated micrographs, envelope, and "
                      "numbers of particles. Look at it before you simulate.", FIGURE_SIZE,
                      lambda figure, folder: _draw_figure(figure, folder)),
    "displaySettings": ("Measured settings", "The values that simulate micrographs takes, and why the others could not "
                        "be measured.", (11, 5.5), draw_measured_settings),
    "displayMicrographs": ("Micrographs", "Defocus and number of particles of each micrograph that was measured.",
                           (11, 6), draw_measured_micrographs),
}


class CryogemMeasureViewer(ProtocolViewer):
    """A measurement: the figure to check it, the settings for a simulation, and a table of the micrographs."""

    _label = "measurement of micrographs"
    _targets = [ProtCryogemMeasure]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        for name, (label, help, *_) in BUTTONS.items():
            form.addParam(name, LabelParam, label=label, help=help)

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return dict.fromkeys(BUTTONS, self._show)

    def _show(self, name: str) -> list[View]:
        return _open(self, name, self.protocol.outFolder())


class CryogemMeasurementViewer(Viewer):
    """A measurement that is the output of a protocol: its figure and its settings."""

    _name = "measurement"
    _targets = [CryogemMeasurement]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj: CryogemMeasurement, **kwargs: Any) -> list[View]:
        return [view for name in ("displayFigure", "displaySettings") for view in _open(self, name,
                                                                                        Path(obj.getFolder()))]


def _draw_figure(figure: Figure, folder: Path) -> None:
    figure.set_layout_engine("constrained")
    draw_measurement(figure, folder)


def _open(viewer: Viewer, name: str, folder: Path) -> list[View]:
    label, _, size, draw = BUTTONS[name]
    return open_figure(viewer, label, size, lambda figure: draw(figure, folder))
