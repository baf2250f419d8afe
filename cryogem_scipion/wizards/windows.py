# SPDX-License-Identifier: GPL-3.0-or-later
"""The window of a wand: a figure above sliders; and a message while something is computed."""
import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg
from matplotlib.figure import Figure
from pyworkflow.gui.dialog import RESULT_CANCEL, RESULT_YES, Dialog, FloatingMessage, ListDialog, showError
from pyworkflow.gui.tree import ListTreeProviderString
from pyworkflow.object import String

__all__ = ["Page", "Slider", "ask", "busy", "choose", "complain"]

T = TypeVar("T")


@dataclass(frozen=True)
class Slider:
    """A value of the form that the window lets one choose."""

    parameter: str
    label: str
    value: float
    """At the beginning."""
    low: float = 0.0
    high: float = 0.0
    step: float = 1.0
    choices: tuple[float, ...] = ()
    """In place of a range."""
    derived: bool = False
    """Whether the form's field is empty and stands for the value at the beginning: it stays so until moved."""


@dataclass(frozen=True)
class Page:
    """What a window shows."""

    title: str
    size: tuple[float, float]
    """Of the figure, inches of 100 pixels."""
    sliders: tuple[Slider, ...]
    draw: Callable[..., None]
    """Called with an empty figure and the sliders' values in order."""


def ask(parent: Any, page: Page) -> dict[str, float] | None:
    """Open the window and wait; the chosen values by parameter, or None when it was cancelled."""
    window = _Window(parent, page)
    return window.values if window.result == RESULT_YES else None


def busy(parent: Any, text: str, work: Callable[[], T]) -> T:
    """Do work under a message on the window."""
    message = FloatingMessage(parent, text)
    message.show()
    parent.update_idletasks()
    try:
        return work()
    finally:
        message.close()


def choose(parent: Any, title: str, names: list[str], message: str) -> int | None:
    """Let the user pick one of a list; its index, or None when cancelled."""
    items = [String(name) for name in names]
    for number, item in enumerate(items):
        item.setObjId(number + 1)
    dialog = ListDialog(parent, title, ListTreeProviderString(items), message, selectmode="browse")
    return dialog.values[0].getObjId() - 1 if dialog.resultYes() and dialog.values else None


def complain(parent: Any, title: str, text: str) -> None:
    """Say what is wrong in a window of its own."""
    showError(title, text, parent)


class _Window(Dialog):
    """A figure above sliders; a move draws it anew."""

    def __init__(self, parent: Any, page: Page):
        self.page = page
        self.values = {slider.parameter: slider.value for slider in page.sliders}
        self._waiting: str | None = None
        buttons = [("Select", RESULT_YES), ("Cancel", RESULT_CANCEL)]
        Dialog.__init__(self, parent, page.title, buttons=buttons, default="Select")

    def body(self, frame: Any) -> None:
        frame.columnconfigure(0, weight=1)
        frame.rowconfigure(0, weight=1)
        self.figure = Figure(figsize=self.page.size, dpi=100, layout="constrained")
        self.canvas = FigureCanvasTkAgg(self.figure, master=frame)
        self.canvas.get_tk_widget().grid(row=0, column=0, columnspan=3, sticky="news")
        for row, slider in enumerate(self.page.sliders, 1):
            tk.Label(frame, text=slider.label).grid(row=row, column=0, sticky="e", padx=5)
            shown = tk.Label(frame, text=f"{slider.value:g}", width=8, anchor="w")
            shown.grid(row=row, column=2, sticky="w", padx=5)
            if slider.choices:
                scale = tk.Scale(frame, from_=0, to=len(slider.choices) - 1, resolution=1)
                start = min(range(len(slider.choices)), key=lambda i: abs(slider.choices[i] - slider.value))
            else:
                scale = tk.Scale(frame, from_=min(slider.low, slider.value), to=max(slider.high, slider.value),
                                 resolution=slider.step)
                start = slider.value
            scale.set(start)
            scale.configure(orient=tk.HORIZONTAL, showvalue=False, length=500,
                            command=lambda text, slider=slider, shown=shown: self._moved(slider, float(text), shown))
            scale.grid(row=row, column=1, sticky="we")
        frame.columnconfigure(1, weight=4)
        self._draw()

    def _moved(self, slider: Slider, place: float, shown: Any) -> None:
        value = slider.choices[int(place)] if slider.choices else place
        if value == self.values[slider.parameter]:
            return
        self.values[slider.parameter] = value
        shown.configure(text=f"{value:g}")
        if self._waiting is None:
            self._waiting = self.after(50, self._draw)

    def _draw(self) -> None:
        self._waiting = None
        self.figure.clear()
        self.page.draw(self.figure, *(self.values[slider.parameter] for slider in self.page.sliders))
        self.canvas.draw()
