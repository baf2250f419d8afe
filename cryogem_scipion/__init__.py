# SPDX-License-Identifier: GPL-3.0-or-later
"""CryoGEM for Scipion: labelled synthetic micrographs that look like one's own microscope's.

Importing this package loads neither Scipion nor torch: ``Plugin`` is found on demand.
"""
from typing import Any

__version__ = "0.1.0"
_logo = "logo.png"
_references = ["Zhang2024"]


def __getattr__(name: str) -> Any:
    """Load Scipion's plugin class when somebody asks for it."""
    if name == "Plugin":
        from cryogem_scipion.plugin import Plugin
        return Plugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
