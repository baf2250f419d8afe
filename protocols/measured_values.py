# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a simulation's form together with a measurement: what is missing, and what is used instead of it."""
import os
from pathlib import Path
from typing import Any

from cryogem_scipion.engine.errors import CryogemError
from cryogem_scipion.engine.settings import MEASURED, SimulateSettings, measurement_problems, read_measurement
from cryogem_scipion.protocols.binding import with_label

__all__ = ["measurement_errors", "measurement_warnings"]


def measurement_errors(folder: Path, chosen: dict[str, Any]) -> list[str]:
    """Return an error for each value that is neither measured nor set, and for one that contradicts the measurement.

    Parameters
    ----------
    folder
        The folder of the measurement.
    chosen
        Settings that the user has set.
    """
    try:
        measured, reasons = read_measurement(folder)
    except CryogemError as error:
        return [f"*Measurement*: {error}; measure again."]
    return [with_label(SimulateSettings, line) + "." for line in measurement_problems(chosen, measured, reasons)]


def measurement_warnings(folder: Path, chosen: dict[str, Any]) -> list[str]:
    """Return warnings when the form has values that differ from the measured ones, or another map.

    Parameters
    ----------
    folder
        The folder of the measurement.
    chosen
        Settings that the user has set.
    """
    measured, _ = read_measurement(folder)
    fields = SimulateSettings.model_fields
    replaced = [f"{fields[name].title} ({_text(chosen[name])} instead of {_text(measured[name])})" for name in MEASURED
                if chosen.get(name) is not None and name in measured and _text(chosen[name]) != _text(measured[name])]
    warnings = [f"These values of the form are used instead of the measured ones: {', '.join(replaced)}. Empty the "
                "fields to use the measured values."] if replaced else []
    maps, measured_maps = (list(map(os.path.realpath, values.get("volume", ()))) for values in (chosen, measured))
    if maps and measured_maps and not set(measured_maps) & set(maps):
        warnings.append(f"The measurement was made with another map ({os.path.basename(measured_maps[0])}); its values "
                        "may not fit this one.")
    return warnings


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else f"{value:g}"
