# SPDX-License-Identifier: GPL-3.0-or-later
"""A window with one figure, and a toolbar that saves the figure."""
from collections.abc import Callable

from matplotlib.figure import Figure
from pyworkflow.gui.plotter import Plotter
from pyworkflow.viewer import View, Viewer

from cryogem_scipion.engine.errors import CryogemError

__all__ = ["open_figure"]

MAX_SIZE = (1800, 900)
"""Largest size (x, y; px) of a figure, so that window and toolbar fit on a common screen."""


def open_figure(viewer: Viewer, title: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> list[View]:
    """Return a window with the figure that ``draw`` draws, or a window with its error message.

    Parameters
    ----------
    viewer
        The viewer of the button.
    title
        Title of the window.
    size
        Width and height of the figure in inches. An inch has 100 pixels, or fewer where the window would be too large.
    draw
        Draws the figure. The message of its ``CryogemError`` is shown.
    """
    dpi = min(100, *(most / edge for most, edge in zip(MAX_SIZE, size, strict=True)))
    plotter = Plotter(windowTitle=title, figsize=size, dpi=dpi)
    plotter.tightLayoutOn = False  # Each figure has its own layout.
    try:
        draw(plotter.getFigure())
    except CryogemError as error:
        plotter.close()
        return [viewer.errorMessage(str(error), title)]
    return [plotter]
