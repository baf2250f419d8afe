# SPDX-License-Identifier: GPL-3.0-or-later
"""A window with one figure; its toolbar saves it."""
from collections.abc import Callable

from matplotlib.figure import Figure
from pyworkflow.gui.plotter import Plotter
from pyworkflow.viewer import View, Viewer

from cryogem_scipion.engine.errors import CryogemError

__all__ = ["opened"]

LARGEST = (1800, 900)
"""Pixels (x, y) that a figure may have, so that window and toolbar fit on a common screen."""


def opened(viewer: Viewer, title: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> list[View]:
    """Return a window with what ``draw`` fills its figure with, or a message where the files are not there yet.

    Parameters
    ----------
    viewer
        That the button belongs to.
    title
        Of the window.
    size
        Width and height in inches, of 100 pixels each; fewer where the window would be too large.
    draw
        Fills the figure; a ``CryogemError`` of it becomes the message.
    """
    dpi = min(100, *(most / edge for most, edge in zip(LARGEST, size, strict=True)))
    plotter = Plotter(windowTitle=title, figsize=size, dpi=dpi)
    plotter.tightLayoutOn = False  # The figures lay themselves out.
    try:
        draw(plotter.getFigure())
    except CryogemError as error:
        plotter.close()
        return [viewer.errorMessage(str(error), title)]
    return [plotter]
