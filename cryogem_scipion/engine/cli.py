# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line, derived from the settings: one flag for each setting, or ``--config`` with a file of settings."""
import argparse
import types
import typing
from typing import Any

from pydantic.fields import FieldInfo

from cryogem_scipion import __version__
from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.settings import STAGES, RunSettings, parse, read_json, with_chosen

__all__ = ["command_line_parser", "parse_command_line"]


class _Parser(argparse.ArgumentParser):
    """Argument parser that raises ``SettingsError`` instead of ending the program."""

    def error(self, message: str) -> typing.NoReturn:
        raise SettingsError(f"{message}; see '{self.prog} --help'")


def command_line_parser() -> argparse.ArgumentParser:
    """Return the parser of the program, with one subcommand for each stage."""
    program = _Parser(prog="cryogem", description="Labelled synthetic cryo-EM micrographs that look like real ones.")
    program.add_argument("--version", action="version", version=f"cryogem {__version__}")
    stages = program.add_subparsers(dest="stage", required=True, metavar="STAGE", parser_class=_Parser)
    for name, kind in STAGES.items():
        text = (kind.__doc__ or "").strip()
        stage = stages.add_parser(name, help=text, description=text, argument_default=argparse.SUPPRESS,
                                  allow_abbrev=False)
        stage.add_argument("--config", metavar="FILE",
                           help="JSON file with settings. A flag replaces the value in the file.")
        for field, info in kind.model_fields.items():
            _add_flag(stage, field, info)
    return program


def parse_command_line(arguments: list[str]) -> tuple[str, RunSettings]:
    """Return the stage and its checked settings.

    Raises
    ------
    SettingsError
        A flag or setting is unknown, missing or out of range.
    """
    values = vars(command_line_parser().parse_args(arguments))
    stage: str = values.pop("stage")
    config = values.pop("config", None)
    if config is not None:
        from pathlib import Path
        values = with_chosen(values, read_json(Path(config)))
    return stage, parse(STAGES[stage], values)


def _add_flag(stage: argparse.ArgumentParser, field: str, info: FieldInfo) -> None:
    """Add the flag of one field; the settings check its value."""
    kind = _without_none(info.annotation)
    arguments: dict[str, Any] = {}
    if kind is bool:
        arguments["action"] = argparse.BooleanOptionalAction
    elif typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        fixed = Ellipsis not in items
        arguments.update(nargs=len(items) if fixed else "+",
                         metavar=("Y", "X") if fixed else _metavar(info))
    else:
        arguments["metavar"] = _choices(kind) or _metavar(info)
    text = f"{info.title}. {info.description}".replace("%", "%%")
    if not info.is_required() and info.default not in (None, ()):
        text += f" Default: {_text(info.default)}"
    stage.add_argument("--" + field.replace("_", "-"), dest=field, help=text, **arguments)


def _without_none(annotation: Any) -> Any:
    """Type of an optional setting, without ``None``."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return annotation


def _choices(kind: Any) -> str:
    return "|".join(typing.get_args(kind)) if typing.get_origin(kind) is typing.Literal else ""


def _metavar(info: FieldInfo) -> str:
    inner = [_without_none(info.annotation), *typing.get_args(info.annotation)]
    return "VALUE" if {int, float} & set(inner) else "TEXT"


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
