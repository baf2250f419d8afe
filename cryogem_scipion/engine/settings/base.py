# SPDX-License-Identifier: GPL-3.0-or-later
"""What all settings have in common; forms, flags, JSON and help are derived from the fields."""
import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cryogem_scipion.engine.errors import SettingsError

__all__ = ["RunSettings", "Settings", "messages", "option", "parse", "read_json"]

S = TypeVar("S", bound="Settings")


def option(default: Any, title: str, help: str, *, section: str = "Run", advanced: bool = False,
           form: bool = True, **constraints: Any) -> Any:
    """Declare one setting.

    Parameters
    ----------
    default
        Its value when nobody sets it; ``...`` when it has to be given.
    title
        Label in the form, with the unit.
    help
        What it does, what happens when it goes up or down, the usual range.
    section, advanced
        Where it stands in the form.
    form
        False where the form takes it from a Scipion input instead of a text field.
    constraints
        Range checks of ``pydantic.Field``: ``gt``, ``ge``, ``lt``, ``le``, ``min_length``.
    """
    return Field(default, title=title, description=help,
                 json_schema_extra={"section": section, "advanced": advanced, "form": form}, **constraints)


class Settings(BaseModel):
    """Frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=False)


class RunSettings(Settings):
    """What every stage takes."""

    weighs_most: ClassVar[str] = "threads"
    """What to lower when the memory does not suffice."""

    out: Path = option(..., "Output folder", "Everything the stage makes is written here.", form=False)
    seed: int = option(
        0, "Random seed", "The same seed gives the same result; any other number another one of the same kind.",
        advanced=True, ge=0, lt=2**31)
    device: str = option("auto", "Device", "auto takes the first GPU if there is one; or cpu, cuda, cuda:1, and so on.",
                         form=False, pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int = option(0, "Threads", "Processor threads; 0 takes all that this process may use.", form=False,
                         ge=0, le=1024)


def messages(error: ValidationError) -> list[str]:
    """One line for each thing that is wrong: the setting, what is asked of it and the value found."""
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
    """Return checked settings; ``SettingsError`` names every value that is wrong, on one line."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise SettingsError("; ".join(messages(error))) from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON settings file; ``SettingsError`` when there is none."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); give a JSON file of settings") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not JSON ({error}); correct it") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds a {type(values).__name__}; it has to hold one JSON object")
    return values
