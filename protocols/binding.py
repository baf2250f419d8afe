# SPDX-License-Identifier: GPL-3.0-or-later
"""Form parameters made from settings classes, and settings read from a form.

Each field of a settings class becomes one parameter. The field ``defocus_min`` becomes the parameter ``defocusMin``,
with the field's title, help, default, section and expert level. The type decides the kind of parameter:

- one of several choices: ``EnumParam``;
- any number of choices: one ``BooleanParam`` for each, such as ``keepOptical`` for ``keep`` with ``optical``;
- a pair of numbers: text, such as ``1024 1024``;
- a path: ``PathParam``, which has a file browser;
- ``None``: an empty form field.
"""
import re
import types
import typing
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pyworkflow.protocol.constants import LEVEL_ADVANCED, LEVEL_NORMAL
from pyworkflow.protocol.params import BooleanParam, EnumParam, FloatParam, IntParam, PathParam, StringParam

from cryogem_scipion.engine.settings import RunSettings, error_messages

__all__ = ["changed_values", "define_fields", "fill_form", "form_values", "parameter_name", "validation_errors",
           "with_label"]

# The section with the inputs is the first one of each form that has it.
FIRST_SECTION = "Data"
# The last section of the form. It also shows the fields of RUN_SECTION.
LAST_SECTION = "Output"
RUN_SECTION = "Run"


def parameter_name(field: str, choice: str = "") -> str:
    """Return the form parameter's name for a settings field, or for one choice of the field."""
    words = [*field.split("_"), *([choice] if choice else [])]
    return words[0] + "".join(word[:1].upper() + word[1:] for word in words[1:])


def define_fields(form: Any, settings_class: type[RunSettings], before_section: dict[str, Callable[[Any], None]],
                  after_field: dict[str, Callable[[Any], None]], conditions: dict[str, str],
                  measured: Collection[str] = ()) -> None:
    """Add the sections and parameters of a settings class to a form.

    Parameters
    ----------
    form
        Scipion's form.
    settings_class
        The settings class.
    before_section
        Functions that add other parameters, such as inputs, to the beginning of a section; by the section's name.
    after_field
        Functions that add other parameters after a field; by the field's name.
    conditions
        Scipion's condition for showing a field; by the field's name. A condition may use only parameters that were
        added before.
    measured
        Fields that a measurement can give. They are empty at first, and their help says what that means.
    """
    for section, groups in _sections(settings_class).items():
        form.addSection(label=section)
        if section in before_section:
            before_section[section](form)
        for group, fields in groups.items():
            container = form if group == section else form.addGroup(group, expertLevel=LEVEL_ADVANCED)
            for field in fields:
                _define(container, settings_class, field, conditions.get(field), field in measured)
                if field in after_field:
                    after_field[field](container)


def form_values(protocol: Any, settings_class: type[RunSettings]) -> dict[str, Any]:
    """Return the values of a form by settings field, without the fields that are empty."""
    values: dict[str, Any] = {}
    for field in _form_fields(settings_class):
        value = _read(protocol, settings_class, field)
        if value is not None:
            values[field] = value
    return values


def changed_values(protocol: Any, settings_class: type[RunSettings], measured: Collection[str]) -> dict[str, Any]:
    """Return the values of a form that the user has set.

    A field of ``measured`` is empty until the user sets it. Another field counts as set if it differs from its default.
    """
    return {field: value for field, value in form_values(protocol, settings_class).items()
            if field in measured or value != settings_class.model_fields[field].default}


def fill_form(protocol: Any, settings: RunSettings) -> None:
    """Set the parameters of a form to the values of settings."""
    for field in _form_fields(type(settings)):
        value = getattr(settings, field)
        choices, multiple = _choices(type(settings), field)
        if multiple:
            for choice in choices:
                protocol.setAttributeValue(parameter_name(field, choice), choice in value)
            continue
        if choices:
            value = choices.index(value)
        elif isinstance(value, tuple | Path):
            value = _text(value)
        protocol.setAttributeValue(parameter_name(field), value)


def validation_errors(settings_class: type[RunSettings], values: dict[str, Any]) -> list[str]:
    """Return the validation errors of values, with the form's labels as names; empty when all are valid."""
    try:
        settings_class.model_validate(values)
    except ValidationError as error:
        return [with_label(settings_class, line) for line in error_messages(error)]
    return []


def with_label(settings_class: type[RunSettings], line: str) -> str:
    """Return a message about a settings field with the form's label in place of the field's name."""
    match = re.match(r"(\w+)((?:\.\w+)*)(:| is missing)", line)
    if not match or match[1] not in settings_class.model_fields:
        return line
    info = settings_class.model_fields[match[1]]
    if match[2] and match[3] == " is missing":
        return f"*{info.title}*: too few values; give them as in {_text(info.default) or '1024 1024'}"
    return f"*{info.title}*{line[match.start(3):]}"


def _sections(settings_class: type[RunSettings]) -> dict[str, dict[str, list[str]]]:
    """Fields by section and group. A section with only expert fields becomes a group of the section before it."""
    fields: dict[str, list[str]] = {}
    for field in _form_fields(settings_class):
        fields.setdefault(_extra(settings_class, field)["section"], []).append(field)
    if FIRST_SECTION in fields:
        fields = {FIRST_SECTION: fields.pop(FIRST_SECTION), **fields}
    run_fields = fields.pop(RUN_SECTION, [])
    if LAST_SECTION in fields:
        fields[LAST_SECTION] = fields.pop(LAST_SECTION)
    sections: dict[str, dict[str, list[str]]] = {}
    for section, names in fields.items():
        expert_only = all(_extra(settings_class, name)["advanced"] for name in names)
        has_inputs = any(_extra(settings_class, name)["section"] == section and not _extra(settings_class, name)["form"]
                         for name in settings_class.model_fields)
        if expert_only and sections and not has_inputs:
            sections[next(reversed(sections))][section] = names
        else:
            sections[section] = {section: names}
    last = sections[next(reversed(sections))]
    last[next(iter(last))].extend(run_fields)
    return sections


def _define(container: Any, settings_class: type[RunSettings], field: str, condition: str | None, measured: bool
            ) -> None:
    info = settings_class.model_fields[field]
    level = LEVEL_ADVANCED if _extra(settings_class, field)["advanced"] else LEVEL_NORMAL
    text = str(info.description)
    if measured and info.default is not None:
        default = f"{info.default:g}" if isinstance(info.default, float) else _text(info.default)
        text += f" Empty uses the measured value, or {default} if nothing is measured."
    common: dict[str, Any] = {"label": info.title, "help": text, "expertLevel": level, "condition": condition}
    choices, multiple = _choices(settings_class, field)
    if multiple:
        for choice in choices:
            container.addParam(parameter_name(field, choice), BooleanParam, **common | {
                "label": f"{info.title}: {choice}", "default": choice in info.default})
        return
    value_type, optional = _plain(info.annotation)
    default = None if info.is_required() or measured else info.default
    if choices:
        container.addParam(parameter_name(field), EnumParam, choices=choices, display=EnumParam.DISPLAY_HLIST,
                           default=choices.index(default), **common)
    elif value_type is bool:
        container.addParam(parameter_name(field), BooleanParam, default=default, **common)
    elif value_type in (int, float):
        container.addParam(parameter_name(field), IntParam if value_type is int else FloatParam, default=default,
                           allowsNull=optional or measured or info.is_required(), **common)
    else:
        container.addParam(parameter_name(field), PathParam if value_type is Path else StringParam,
                           default=_text(default), **common)


def _read(protocol: Any, settings_class: type[RunSettings], field: str) -> Any:
    choices, multiple = _choices(settings_class, field)
    if multiple:
        return tuple(choice for choice in choices
                     if protocol.getAttributeValue(parameter_name(field, choice)))
    value = protocol.getAttributeValue(parameter_name(field))
    if choices:
        return choices[value] if value is not None else None
    if isinstance(value, str):
        value = value.strip()
        if not value:
            return None
        if typing.get_origin(_plain(settings_class.model_fields[field].annotation)[0]) is tuple:
            return tuple(value.replace(",", " ").split())
    return value


def _form_fields(settings_class: type[RunSettings]) -> list[str]:
    return [field for field in settings_class.model_fields if _extra(settings_class, field)["form"]]


def _extra(settings_class: type[RunSettings], field: str) -> dict[str, Any]:
    extra = settings_class.model_fields[field].json_schema_extra
    assert isinstance(extra, dict)
    return extra


def _plain(annotation: Any) -> tuple[Any, bool]:
    """The type without ``None``, and whether ``None`` is allowed."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        members = typing.get_args(annotation)
        return next(member for member in members if member is not type(None)), type(None) in members
    return annotation, False


def _choices(settings_class: type[RunSettings], field: str) -> tuple[list[str], bool]:
    """The choices of a field, if it has any, and whether it takes several of them."""
    value_type, _ = _plain(settings_class.model_fields[field].annotation)
    if typing.get_origin(value_type) is typing.Literal:
        return list(typing.get_args(value_type)), False
    if typing.get_origin(value_type) is tuple:
        item_type = typing.get_args(value_type)[0]
        if typing.get_origin(item_type) is typing.Literal:
            return list(typing.get_args(item_type)), True
    return [], False


def _text(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
