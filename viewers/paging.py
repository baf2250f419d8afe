# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures with many pages, and figures that are updated while a protocol runs."""
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure
from matplotlib.widgets import Button, Slider

__all__ = ["Pages", "update_regularly"]

UPDATE_SECONDS = 3.0
"""Time between two updates of a figure."""
KEYS = {"left": -1, "right": 1, "pageup": -10, "pagedown": 10, "home": -10**9, "end": 10**9}


class Pages:
    """A slider, two buttons and keys that choose the page that a figure shows.

    Only the shown page is drawn. The figure has to leave the lowest tenth of its height free.

    Parameters
    ----------
    figure
        The figure.
    count, first
        Number of pages, and index of the page shown first.
    draw
        Draws the page of an index.
    page_name
        What a page shows; the slider's label.
    """

    def __init__(self, figure: Figure, count: int, first: int, draw: Callable[[int], None],
                 page_name: str = "micrograph"):
        self.figure, self.count, self.index, self._draw = figure, count, min(max(first, 0), count - 1), draw
        figure.cryogem_pages = self  # Matplotlib keeps only weak references to widgets.
        self.buttons = []
        for left, text, by in ((0.70, "◀ previous", -1), (0.82, "next ▶", 1)):
            button = Button(figure.add_axes((left, 0.015, 0.11, 0.045)), text)
            button.on_clicked(lambda event, by=by: self.turn(by))
            self.buttons.append(button)
        self.slider = Slider(figure.add_axes((0.16, 0.015, 0.42, 0.045)), page_name, 1, max(count, 2), valstep=1,
                             valinit=self.index + 1)
        self.slider.valtext.set_x(1.04)
        self.slider.on_changed(lambda value: self._show_number())
        # A page is drawn when the slider is released. While it moves, drawing every page would be too slow.
        figure.canvas.mpl_connect("button_release_event", lambda event: self.go(int(self.slider.val) - 1))
        figure.canvas.mpl_connect("key_press_event",
                                  lambda event: self.turn(KEYS[event.key]) if event.key in KEYS else None)
        self.extend(count)
        draw(self.index)

    def extend(self, count: int) -> None:
        """Set the number of pages; slider and buttons are hidden when there is only one page."""
        self.count = count
        self.slider.valmax = max(count, 2)
        self.slider.ax.set_xlim(1, self.slider.valmax)
        for widget in (self.slider, *self.buttons):
            widget.ax.set_visible(count > 1)
            widget.set_active(count > 1)
        self._show_number()

    def go(self, index: int) -> None:
        """Show the page of an index."""
        if index != self.index and 0 <= index < self.count:
            self.index = index
            self.slider.set_val(index + 1)
            self._draw(index)
            self.figure.canvas.draw_idle()

    def turn(self, by: int) -> None:
        """Show the page ``by`` pages after this one; with ``by`` 1 or -1, the first page follows the last."""
        index = self.index + by
        self.go(index % self.count if abs(by) == 1 else min(max(index, 0), self.count - 1))

    def _show_number(self) -> None:
        self.slider.valtext.set_text(f"{int(self.slider.val)} of {self.count}")


def update_regularly(figure: Figure, refresh: Callable[[], Any], seconds: float = UPDATE_SECONDS) -> None:
    """Call ``refresh`` every few seconds while the window is open; redraw the figure when it returns true."""
    def update() -> None:
        if refresh():
            figure.canvas.draw_idle()

    timer = figure.canvas.new_timer(interval=round(1000 * seconds))
    timer.add_callback(update)
    timer.start()
    figure.canvas.mpl_connect("close_event", lambda event: timer.stop())
    figure.cryogem_timer = timer
