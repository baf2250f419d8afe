# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows of the wizards: a figure with sliders, a list, an error, and a message during a computation."""
import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from matplotlib.backends.backend_tkagg import FigureCanvasTkAgg
from matplotlib.figure import Figure
from pyworkflow.gui.dialog import RESULT_CANCEL, RESULT_YES, Dialog, FloatingMessage, ListDialog, showError
from pyworkflow.gui.tree import ListTreeProviderString
from pyworkflow.object import String

__all__ = ["Page", "Slider", "ask_values", "choose_from_list", "run_with_message", "show_error"]

T = TypeVar("T")


@dataclass(frozen=True)
class Slider:
    """A slider for one field of the form."""

    parameter: str
    label: str
    value: float
    """Initial value."""
    low: float = 0.0
    high: float = 0.0
    step: float = 1.0
    choices: tuple[float, ...] = ()
    """Allowed values, instead of a range."""
    derived: bool = False
    """Whether the field is empty, so that the simulation derives the value; moving the slider fills the field."""


@dataclass(frozen=True)
class Page:
    """The content of a wizard's window."""

    title: str
    size: tuple[float, float]
    """Of the figure, in inches of 100 pixels."""
    sliders: tuple[Slider, ...]
    draw: Callable[..., None]
    """Draws into an empty figure; called with the figure and the sliders' values in order."""


def ask_values(parent: Any, page: Page) -> dict[str, float] | None:
    """Open a window and return the chosen values by parameter, or ``None`` when the user has cancelled."""
    window = _Window(parent, page)
    return window.values if window.result == RESULT_YES else None


def run_with_message(parent: Any, text: str, work: Callable[[], T]) -> T:
    """Call ``work`` while the window shows a message, and return its result."""
    message = FloatingMessage(parent, text)
    message.show()
    parent.update_idletasks()
    try:
        return work()
    finally:
        message.close()


def choose_from_list(parent: Any, title: str, names: list[str], message: str) -> int | None:
    """Return the index of the name that the user chooses, or ``None`` when the user has cancelled."""
    items = [String(name) for name in names]
    for number, item in enumerate(items):
        item.setObjId(number + 1)
    dialog = ListDialog(parent, title, ListTreeProviderString(items), message, selectmode="browse")
    return dialog.values[0].getObjId() - 1 if dialog.resultYes() and dialog.values else None


def show_error(parent: Any, title: str, text: str) -> None:
    """Show an error message in a window."""
    showError(title, text, parent)


class _Window(Dialog):
    """A figure above sliders; moving a slider redraws the figure."""

    def __init__(self, parent: Any, page: Page):
        self.page = page
        self.values = {slider.parameter: slider.value for slider in page.sliders}
        self._pending_draw: str | None = None
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
            value_label = tk.Label(frame, text=f"{slider.value:g}", width=8, anchor="w")
            value_label.grid(row=row, column=2, sticky="w", padx=5)
            if slider.choices:
                scale = tk.Scale(frame, from_=0, to=len(slider.choices) - 1, resolution=1)
                position = min(range(len(slider.choices)), key=lambda i: abs(slider.choices[i] - slider.value))
            else:
                scale = tk.Scale(frame, from_=min(slider.low, slider.value), to=max(slider.high, slider.value),
                                 resolution=slider.step)
                position = slider.value
            scale.set(position)
            scale.configure(orient=tk.HORIZONTAL, showvalue=False, length=500,
                            command=lambda text, slider=slider, value_label=value_label: self._moved(
                                slider, float(text), value_label))
            scale.grid(row=row, column=1, sticky="we")
        frame.columnconfigure(1, weight=4)
        self._draw()

    def _moved(self, slider: Slider, position: float, value_label: Any) -> None:
        value = slider.choices[int(position)] if slider.choices else position
        if value == self.values[slider.parameter]:
            return
        self.values[slider.parameter] = value
        value_label.configure(text=f"{value:g}")
        if self._pending_draw is None:
            self._pending_draw = self.after(50, self._draw)

    def _draw(self) -> None:
        self._pending_draw = None
        self.figure.clear()
        self.page.draw(self.figure, *(self.values[slider.parameter] for slider in self.page.sliders))
        self.canvas.draw()
