# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings and form parameters: each field of a settings class is one parameter, mechanically.

``defocus_min`` is the parameter ``defocusMin``; title, help, default, section and expert level are
the field's own. A choice is an ``EnumParam``, several choices are one switch each (``keep`` with
``optical`` is ``keepOptical``), a pair of numbers is text (``1024 1024``), a path has a file browser, nothing is
an empty field.
"""
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pyworkflow.protocol.constants import LEVEL_ADVANCED, LEVEL_NORMAL
from pyworkflow.protocol.params import BooleanParam, EnumParam, FloatParam, IntParam, PathParam, StringParam

from cryogem_scipion.engine.settings import RunSettings, error_messages

__all__ = ["complaints", "define_fields", "fill_form", "form_values", "parameter_name"]

# The last tab; what belongs to no section of its own stands there too.
LAST = "Output"
LEFT_OVER = "Run"


def parameter_name(field: str, choice: str = "") -> str:
    """Return the parameter's name of a settings field."""
    words = [*field.split("_"), *([choice] if choice else [])]
    return words[0] + "".join(word[:1].upper() + word[1:] for word in words[1:])


def define_fields(form: Any, kind: type[RunSettings], first: dict[str, Callable[[Any], None]],
                  after: dict[str, Callable[[Any], None]], conditions: dict[str, str]) -> None:
    """Add the sections and parameters of a settings class to a form.

    Parameters
    ----------
    form
        Scipion's form.
    kind
        The settings class.
    first, after
        What else to add, the inputs: by section, before its fields; by field, after it.
    conditions
        Scipion's condition for showing a field, by the field's name. Scipion understands only names of
        parameters that were added before.
    """
    for section, groups in _sections(kind).items():
        form.addSection(label=section)
        if section in first:
            first[section](form)
        for group, fields in groups.items():
            place = form if group == section else form.addGroup(group, expertLevel=LEVEL_ADVANCED)
            for field in fields:
                _define(place, kind, field, conditions.get(field))
                if field in after:
                    after[field](place)


def form_values(protocol: Any, kind: type[RunSettings]) -> dict[str, Any]:
    """Return what a form says, by settings field; unset ones are left out."""
    values: dict[str, Any] = {}
    for field in _form_fields(kind):
        value = _read(protocol, kind, field)
        if value is not None:
            values[field] = value
    return values


def fill_form(protocol: Any, settings: RunSettings) -> None:
    """Set a form's parameters to what the settings say."""
    for field in _form_fields(type(settings)):
        value = getattr(settings, field)
        choices, several = _choices(type(settings), field)
        if several:
            for choice in choices:
                protocol.setAttributeValue(parameter_name(field, choice), choice in value)
            continue
        if choices:
            value = choices.index(value)
        elif isinstance(value, tuple | Path):
            value = _text(value)
        protocol.setAttributeValue(parameter_name(field), value)


def complaints(kind: type[RunSettings], values: dict[str, Any]) -> list[str]:
    """Return what is wrong with values, said with the form's labels; empty when they are right."""
    try:
        kind.model_validate(values)
    except ValidationError as error:
        return [_with_label(kind, line) for line in error_messages(error)]
    return []


def _sections(kind: type[RunSettings]) -> dict[str, dict[str, list[str]]]:
    """Fields by section and group; a section of expert fields only is a group at the end of the one before it."""
    fields: dict[str, list[str]] = {}
    for field in _form_fields(kind):
        fields.setdefault(_extra(kind, field)["section"], []).append(field)
    left_over = fields.pop(LEFT_OVER, [])
    if LAST in fields:
        fields[LAST] = fields.pop(LAST)
    sections: dict[str, dict[str, list[str]]] = {}
    for section, names in fields.items():
        expert = all(_extra(kind, name)["advanced"] for name in names)
        has_inputs = any(_extra(kind, name)["section"] == section and not _extra(kind, name)["form"]
                         for name in kind.model_fields)
        if expert and sections and not has_inputs:
            sections[next(reversed(sections))][section] = names
        else:
            sections[section] = {section: names}
    last = sections[next(reversed(sections))]
    last[next(iter(last))].extend(left_over)
    return sections


def _define(place: Any, kind: type[RunSettings], field: str, condition: str | None) -> None:
    info = kind.model_fields[field]
    level = LEVEL_ADVANCED if _extra(kind, field)["advanced"] else LEVEL_NORMAL
    common: dict[str, Any] = {"label": info.title, "help": info.description, "expertLevel": level,
                              "condition": condition}
    choices, several = _choices(kind, field)
    if several:
        for choice in choices:
            place.addParam(parameter_name(field, choice), BooleanParam, **common | {
                "label": f"{info.title}: {choice}", "default": choice in info.default})
        return
    value, optional = _plain(info.annotation)
    default = None if info.is_required() else info.default
    if choices:
        place.addParam(parameter_name(field), EnumParam, choices=choices, display=EnumParam.DISPLAY_HLIST,
                       default=choices.index(default), **common)
    elif value is bool:
        place.addParam(parameter_name(field), BooleanParam, default=default, **common)
    elif value in (int, float):
        place.addParam(parameter_name(field), IntParam if value is int else FloatParam, default=default,
                       allowsNull=optional or info.is_required(), **common)
    else:
        place.addParam(parameter_name(field), PathParam if value is Path else StringParam, default=_text(default),
                       **common)


def _read(protocol: Any, kind: type[RunSettings], field: str) -> Any:
    choices, several = _choices(kind, field)
    if several:
        return tuple(choice for choice in choices
                     if protocol.getAttributeValue(parameter_name(field, choice)))
    value = protocol.getAttributeValue(parameter_name(field))
    if choices:
        return choices[value] if value is not None else None
    if isinstance(value, str):
        value = value.strip()
        if not value:
            return None
        if typing.get_origin(_plain(kind.model_fields[field].annotation)[0]) is tuple:
            return tuple(value.replace(",", " ").split())
    return value


def _form_fields(kind: type[RunSettings]) -> list[str]:
    return [field for field in kind.model_fields if _extra(kind, field)["form"]]


def _extra(kind: type[RunSettings], field: str) -> dict[str, Any]:
    extra = kind.model_fields[field].json_schema_extra
    assert isinstance(extra, dict)
    return extra


def _plain(annotation: Any) -> tuple[Any, bool]:
    """The type without ``None``, and whether ``None`` was allowed."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        kinds = typing.get_args(annotation)
        return next(kind for kind in kinds if kind is not type(None)), type(None) in kinds
    return annotation, False


def _choices(kind: type[RunSettings], field: str) -> tuple[list[str], bool]:
    """The choices of a field, if it has any, and whether several may be taken."""
    value, _ = _plain(kind.model_fields[field].annotation)
    if typing.get_origin(value) is typing.Literal:
        return list(typing.get_args(value)), False
    if typing.get_origin(value) is tuple:
        inner = typing.get_args(value)[0]
        if typing.get_origin(inner) is typing.Literal:
            return list(typing.get_args(inner)), True
    return [], False


def _text(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _with_label(kind: type[RunSettings], line: str) -> str:
    """A message about a field, with the form's label for the field's name."""
    found = re.match(r"(\w+)((?:\.\w+)*)(:| is missing)", line)
    if not found or found[1] not in kind.model_fields:
        return line
    info = kind.model_fields[found[1]]
    if found[2] and found[3] == " is missing":
        return f"*{info.title}*: too few values; give them as in {_text(info.default) or '1024 1024'}"
    return f"*{info.title}*{line[found.start(3):]}"
