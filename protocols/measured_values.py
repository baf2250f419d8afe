# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulation's form together with a measurement: what the user has set, what is missing, what replaces what."""
import os
from pathlib import Path
from typing import Any

from cryogem_scipion.engine.errors import CryogemError
from cryogem_scipion.engine.settings import (
    GUESSED,
    MEASURED,
    SimulateSettings,
    measurement_problems,
    read_measurement,
    with_measured,
)
from cryogem_scipion.protocols.binding import changed_values, with_label

__all__ = ["chosen_values", "measurement_errors", "measurement_warnings"]

# Fields that the form does not show if a measurement is given, because it was made with values of its own.
MICROSCOPE = ("voltage_kv", "cs_mm", "amplitude_contrast", "phase_shift_degrees")
# Measured values that a simulation with given CTFs does not use.
OPTICS = ("defocus_min", "defocus_max", "astigmatism_angstrom")


def chosen_values(protocol: Any) -> dict[str, Any]:
    """Return the settings that the user of *simulate micrographs* has set, in the form and by the inputs."""
    hidden = () if protocol.inputMeasurement.get() is None else MICROSCOPE
    values = {name: value for name, value in changed_values(protocol, SimulateSettings, MEASURED).items()
              if name not in hidden}
    return {"out": os.path.abspath(protocol.outFolder()), **values, **protocol.inputValues()}


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
    """Return warnings about values that differ from the measured ones or are missing, and about another map.

    Parameters
    ----------
    folder
        The folder of the measurement.
    chosen
        Settings that the user has set.
    """
    measured, _ = read_measurement(folder)
    values, fields = with_measured(chosen, measured), SimulateSettings.model_fields
    replaced = [f"{fields[name].title} ({_text(chosen[name])} instead of {_text(measured[name])})" for name in MEASURED
                if chosen.get(name) is not None and name in measured and _text(chosen[name]) != _text(measured[name])]
    warnings = [f"These values of the form are used instead of the measured ones: {', '.join(replaced)}. Empty the "
                "fields to use the measured values."] if replaced else []
    usual = [f"{fields[name].title} ({_text(fields[name].default)})" for name in GUESSED
             if name not in values and fields[name].default is not None and not (chosen.get("ctfs") and name in OPTICS)]
    if usual:
        warnings.append(f"These values could not be measured and are not set; usual ones are used: {', '.join(usual)}.")
    maps, measured_maps = (list(map(os.path.realpath, values.get("volume", ()))) for values in (chosen, measured))
    if maps and measured_maps and not set(measured_maps) & set(maps):
        warnings.append(f"The measurement was made with another map ({os.path.basename(measured_maps[0])}); its values "
                        "may not fit this one.")
    return warnings


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else f"{value:g}"
