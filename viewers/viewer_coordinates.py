# SPDX-License-Identifier: GPL-3.0-or-later
"""Viewer of the coordinates that were returned to the original micrographs."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pyworkflow.protocol.params import LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.protocols import ProtCryogemReturnCoordinates
from cryogem_scipion.viewers.figure_window import open_figure
from cryogem_scipion.viewers.image_display import WHOLE_COLOUR, draw_circles, draw_scale_bar, show_image
from cryogem_scipion.viewers.paging import Pages

__all__ = ["CryogemReturnViewer"]


class CryogemReturnViewer(ProtocolViewer):
    """The original micrographs, one per page, with the returned coordinates."""

    _label = "returned coordinates"
    _targets = [ProtCryogemReturnCoordinates]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        form.addParam("displayCoordinates", LabelParam, label="Coordinates",
                      help="The original micrographs, one after another. The diameter of the circles is the box size. "
                           "Arrow keys show the next or previous micrograph.")

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return {"displayCoordinates": self._coordinates}

    def _coordinates(self, name: str | None = None) -> list[View]:
        return open_figure(self, "Coordinates", (8, 8), self._draw)

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
            path, positions_here = files[index]
            axis.clear()
            axis.set_axis_off()
            draw_scale_bar(axis, show_image(axis, path), micrographs.getSamplingRate())
            draw_circles(axis, positions_here, coordinates.getBoxSize() or 0, WHOLE_COLOUR)
            figure.suptitle(f"{path.name}: {len(positions_here)} coordinates", fontsize=11)

        Pages(figure, len(files), 0, draw)
