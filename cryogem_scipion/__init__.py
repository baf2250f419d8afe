# SPDX-License-Identifier: GPL-3.0-or-later
"""CryoGEM for Scipion: labelled synthetic micrographs that look like the user's own real micrographs.

Importing this package loads neither Scipion nor torch. ``Plugin`` is loaded at its first use.
"""
from typing import Any

__version__ = "0.1.0"
_logo = "logo.png"
_references = ["Zhang2024"]


def __getattr__(name: str) -> Any:
    """Return Scipion's plugin class; it is loaded at its first use."""
    if name == "Plugin":
        from cryogem_scipion.plugin import Plugin
        return Plugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
