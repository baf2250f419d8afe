# SPDX-License-Identifier: GPL-3.0-or-later
"""Widgets, texts and buttons of Scipion's windows, for the tour."""
import tkinter as tk
from collections.abc import Iterator
from tkinter import ttk
from typing import Any

from matplotlib.text import Text

__all__ = ["button_of", "descendants", "is_text", "items", "texts", "wizard_button"]


def button_of(window: Any, text: str) -> Any:
    """Return the button of a window that has this text."""
    for child in descendants(window):
        if isinstance(child, tk.Button) and child.cget("text").strip() == text:
            return child
    raise LookupError(f"the window has no button {text!r}")


def wizard_button(form: Any, label: str) -> Any:
    """Return the button that opens the wizard of a form's field, and show the field's tab."""
    tabs = next(child for child in descendants(form) if isinstance(child, ttk.Notebook))
    for tab in tabs.tabs():
        for field in descendants(form.nametowidget(tab)):
            if not isinstance(field, tk.Label) or field.cget("text") != label:
                continue
            row = form.nametowidget(field.winfo_parent()).grid_slaves(row=field.grid_info().get("row"))
            buttons = [child for cell in row for child in descendants(cell)
                       if isinstance(child, tk.Button) and child.cget("text") == "Wizard"]
            if buttons:
                tabs.select(tab)
                form.update()
                return buttons[0]
    raise LookupError(f"the form has no wizard beside {label!r}")


def descendants(widget: Any) -> Iterator[Any]:
    """Yield all widgets inside a widget."""
    for child in widget.winfo_children():
        yield child
        yield from descendants(child)


def items(tree: Any, parent: str = "") -> Iterator[str]:
    """Yield all items of a tree."""
    for item in tree.get_children(parent):
        yield item
        yield from items(tree, item)


def is_text(artist: Any) -> bool:
    """Return whether an artist of a figure is a visible text."""
    return isinstance(artist, Text) and artist.get_visible()


def texts(window: Any) -> Iterator[str]:
    """Yield the texts of a window's visible widgets."""
    yield window.title()
    for widget in descendants(window):
        if not widget.winfo_viewable():
            continue
        if isinstance(widget, ttk.Treeview):
            yield from (widget.item(item, "text") for item in items(widget))
        elif isinstance(widget, ttk.Notebook):
            yield from (widget.tab(tab, "text") for tab in widget.tabs())
        elif isinstance(widget, tk.Text):
            yield widget.get("1.0", "end")
        elif isinstance(widget, tk.Entry):
            yield widget.get()
        elif isinstance(widget, tk.Canvas):
            yield from (widget.itemcget(item, "text") for item in widget.find_all() if widget.type(item) == "text")
        elif "text" in set(widget.keys()):
            yield str(widget.cget("text"))
