# SPDX-License-Identifier: GPL-3.0-or-later
"""The viewer of a training: one button for each figure."""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from matplotlib.figure import Figure
from pyworkflow.protocol.params import LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View, Viewer

from cryogem_scipion.viewers.figure_window import open_figure

__all__ = ["Button", "TrainingViewer"]


@dataclass(frozen=True)
class Button:
    """A button and the figure that it opens."""

    label: str
    help: str
    size: tuple[float, float]
    """Of the window, inches."""
    draw: Callable[[Figure, Path], None]
    """Draws the figure of a training's folder."""

    def open(self, viewer: Viewer, folder: Path) -> list[View]:
        """Return the window with the figure."""
        return open_figure(viewer, self.label, self.size, lambda figure: self.draw(figure, folder))


class TrainingViewer(ProtocolViewer):
    """A training, also while it runs."""

    _environments = [DESKTOP_TKINTER]
    _buttons: ClassVar[dict[str, Button]] = {}
    """By the name of their parameter."""

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        for name, button in self._buttons.items():
            form.addParam(name, LabelParam, label=button.label, help=button.help)

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return dict.fromkeys(self._buttons, self._show)

    def _show(self, name: str) -> list[View]:
        return self._buttons[name].open(self, self.protocol.outFolder())
