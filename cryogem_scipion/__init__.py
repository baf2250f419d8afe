# SPDX-License-Identifier: GPL-3.0-or-later
"""CryoGEM for Scipion: labelled synthetic cryo-EM micrographs that look like your own microscope's.

Importing this package loads neither Scipion nor torch. Scipion's ``Plugin`` class is imported on its first use.
"""
from typing import Any

__version__ = "0.1.0"
_logo = "logo.png"
_references = ["Zhang2024"]


def __getattr__(name: str) -> Any:
    """Import Scipion's plugin class on its first use."""
    if name == "Plugin":
        from cryogem_scipion.plugin import Plugin
        return Plugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
