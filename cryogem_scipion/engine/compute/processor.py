# SPDX-License-Identifier: GPL-3.0-or-later
"""The processor's name and instruction sets, as the system tells them."""
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Processor", "read_processor"]


@dataclass(frozen=True)
class Processor:
    """A processor."""

    name: str
    """Empty if the system does not tell it."""
    instructions: frozenset[str]
    """Names of the instruction sets, as in Linux' /proc/cpuinfo; empty on other systems."""


def read_processor(path: Path = Path("/proc/cpuinfo")) -> Processor:
    """Return the processor of this machine.

    Parameters
    ----------
    path
        File in the format of Linux' /proc/cpuinfo.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return Processor(values.get("model name", ""), frozenset(values.get("flags", values.get("Features", "")).split()))
