# SPDX-License-Identifier: GPL-3.0-or-later
"""Viewer of an export for another program."""
from typing import Any

from pyworkflow.viewer import DESKTOP_TKINTER, View, Viewer

from cryogem_scipion.protocols import ProtCryogemExport
from cryogem_scipion.viewers.export_figure import draw_export
from cryogem_scipion.viewers.figure_window import open_figure

__all__ = ["CryogemExportViewer"]


class CryogemExportViewer(Viewer):
    """An export: its particles, or a micrograph with coordinates, as the other program reads them."""

    _name = "exported images"
    _targets = [ProtCryogemExport]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj: ProtCryogemExport, **kwargs: Any) -> list[View]:
        return open_figure(self, "Exported images", (9, 5), lambda figure: draw_export(figure, obj.outFolder()))
