# SPDX-License-Identifier: GPL-3.0-or-later
"""Coordinates that came back, on the original micrographs."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pyworkflow.protocol.params import LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.protocols import ProtCryogemReturnCoordinates
from cryogem_scipion.viewers.images import WHOLE, rings, scale_bar, show
from cryogem_scipion.viewers.pages import Pages
from cryogem_scipion.viewers.window import opened

__all__ = ["CryogemReturnViewer"]


class CryogemReturnViewer(ProtocolViewer):
    """One original micrograph after another, with the coordinates that came back to it."""

    _label = "returned coordinates"
    _targets = [ProtCryogemReturnCoordinates]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        form.addParam("displayCoordinates", LabelParam, label="Coordinates",
                      help="One original micrograph after another; the circles are as wide as the box. Arrow keys page "
                      "through.")

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return {"displayCoordinates": self._coordinates}

    def _coordinates(self, name: str | None = None) -> list[View]:
        return opened(self, "Coordinates", (8, 8), self._draw)

    def _draw(self, figure: Figure) -> None:
        coordinates = getattr(self.protocol, "outputCoordinates", None)
        if coordinates is None or not coordinates.getSize():
            raise DataError("there are no coordinates; run the protocol, or pick with a lower threshold")
        positions: dict[int, list[tuple[int, int]]] = {}
        for coordinate in coordinates.iterItems():
            positions.setdefault(coordinate.getMicId(), []).append(coordinate.getPosition())
        micrographs = coordinates.getMicrographs()
        files = [(Path(micrograph.getFileName()), positions[micrograph.getObjId()])
                 for micrograph in micrographs.iterItems() if micrograph.getObjId() in positions]
        axis = figure.add_axes((0.01, 0.09, 0.98, 0.84))

        def draw(index: int) -> None:
            path, here = files[index]
            axis.clear()
            axis.set_axis_off()
            scale_bar(axis, show(axis, path), micrographs.getSamplingRate())
            rings(axis, here, coordinates.getBoxSize() or 0, WHOLE)
            figure.suptitle(f"{path.name}: {len(here)} coordinates", fontsize=11)

        Pages(figure, len(files), 0, draw)
