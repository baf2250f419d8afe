# SPDX-License-Identifier: GPL-3.0-or-later
"""What all settings classes share: declaration, checks, messages, and reading from JSON."""
import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cryogem_scipion.engine.errors import SettingsError

__all__ = ["RunSettings", "Settings", "error_messages", "option", "parse", "read_json"]

S = TypeVar("S", bound="Settings")


def option(default: Any, title: str, help: str, *, section: str = "Run", advanced: bool = False,
           form: bool = True, **constraints: Any) -> Any:
    """Return the declaration of one setting, for form, flag, JSON and help.

    Parameters
    ----------
    default
        Value when the user does not set it; ``...`` when the user has to set it.
    title
        Label in the form, with the unit.
    help
        What the setting does, the effect of larger and smaller values, and the usual range. Scipion's forms show it
        too. It must not contain their markup: words between asterisks or underscores, or double square brackets.
    section
        Tab of the form.
    advanced
        True when the form shows it only at the expert level.
    form
        False when the form has no field for it, because the value comes from a Scipion input.
    constraints
        Range checks of ``pydantic.Field``: ``gt``, ``ge``, ``lt``, ``le``, ``min_length``.
    """
    return Field(default, title=title, description=help,
                 json_schema_extra={"section": section, "advanced": advanced, "form": form}, **constraints)


class Settings(BaseModel):
    """Base of all settings: values cannot be changed later, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=False)


class RunSettings(Settings):
    """Settings that every stage has."""

    memory_remedy: ClassVar[str] = "lower threads"
    """What the user can do when the memory is too small; part of the message."""

    out: Path = option(
        ..., "Output folder", "Folder for all files of the stage. The same command continues a run that was "
        "interrupted.", form=False)
    seed: int = option(
        0, "Random seed", "Start value of the random numbers. The same seed gives the same result. Another seed gives "
        "other random values of the same kind.", advanced=True, ge=0, lt=2**31)
    device: str = option(
        "auto", "Device", "auto uses the first GPU, or the CPU if there is no GPU. Give cpu, cuda or cuda:1 (the "
        "second GPU) to choose one.", form=False, pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int = option(
        0, "Threads", "Number of CPU threads. More threads are faster and need more memory. 0 uses all threads that "
        "this process may use.", form=False, ge=0, le=1024)


def error_messages(error: ValidationError) -> list[str]:
    """Return one line for each problem: the setting, its allowed values and the value found."""
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {name!r}; remove it or correct its spelling")
        elif problem["type"] == "missing":
            lines.append(f"{name} is missing; give it a value")
        else:
            text = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{name}: {text}; found {problem['input']!r}" if name else text)
    return lines


def parse(kind: type[S], values: dict[str, Any]) -> S:
    """Return checked settings.

    Parameters
    ----------
    kind
        The settings class.
    values
        Values by setting, as texts or as Python values.

    Raises
    ------
    SettingsError
        A value is wrong; the message lists all problems on one line.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise SettingsError("; ".join(error_messages(error))) from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the values in a JSON file of settings, unchecked.

    Raises
    ------
    SettingsError
        The file cannot be read, or does not hold one JSON object.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); give a JSON file of settings") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not JSON ({error}); correct it") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds a {type(values).__name__}; write one JSON object with settings")
    return values
