# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages that are made from the code, so that they cannot go stale.

Commands and flags come from the settings classes, protocols and parameters from Scipion's forms, the fields of
manifest.json from its schema, API pages from the list of modules. README, CHANGES, CONTRIBUTING and
benchmarks/RESULTS become pages of the site, with their links turned to it.
"""
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cryogem_scipion.engine.cli import command_line_parser
from cryogem_scipion.engine.io.dataset import Manifest
from cryogem_scipion.engine.settings import STAGES

__all__ = ["add_returns", "command_page", "manifest_table", "plain_docstring", "protocol_page", "room_pages",
           "site_text", "write_pages"]

ROOT = Path(__file__).resolve().parents[1]
COPIED = {"readme": "README.md", "changes": "CHANGES.md", "contributing": "CONTRIBUTING.md",
          "results": "benchmarks/RESULTS.md"}
"""Page of the site, and the file that it shows."""
SCIPION_SIDE = ("workflow", "objects", "plugin", "protocols", "viewers", "wizards")
SCIPION_OWN = {"hostName", "runName", "runMode", "numberOfThreads", "numberOfMpi", "useGpu", "gpuList"}
"""Parameters that every protocol of Scipion has."""
RETURNS: dict[str, str] = {}
"""What the functions return, by name, while their docstrings are being read."""


def write_pages(out: Path) -> None:
    """Write all generated pages into a folder; files that did not change are left alone."""
    pages = {"commands.md": command_page(), "protocols.md": protocol_page(), "manifest.md": manifest_table()}
    pages |= {f"{page}.md": site_text(source, out) for page, source in COPIED.items()}
    pages |= room_pages()
    for old in out.rglob("*.*"):
        if old.is_file() and str(old.relative_to(out)) not in pages:
            old.unlink()
    for name, text in pages.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


# --------------------------- Commands
def command_page() -> str:
    """Every command with every flag, from the settings classes."""
    lines = ["# Commands", "", "This page is made from the settings in the code. `cryogem COMMAND --help` prints the "
             "same text. Lengths are in Å, image sizes in pixels (y x). `--config FILE` reads the settings from a JSON "
             "file; flags that are given too have priority.", ""]
    stages = next(action for action in command_line_parser()._actions if action.dest == "stage").choices
    for stage, settings in STAGES.items():
        lines += [f"(command-{stage})=", "", f"## cryogem {stage}", "", _escaped(_first_paragraph(settings)), ""]
        for action in stages[stage]._actions:
            if action.dest in ("help", "config"):
                continue
            flags = ", ".join(f"`{flag}`" for flag in action.option_strings)
            text = re.sub(r" Default: $", "", str(action.help)).replace("%%", "%")
            lines += _definition(f"{flags} {_values(action)}".strip(), _escaped(text))
    return "\n".join(lines) + "\n"


def _values(action: Any) -> str:
    """What follows a flag, as the help shows it."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    many = " …" if action.nargs == "+" else ""
    return f"{str(action.metavar).replace('|', ' | ')}{many}"


# --------------------------- Protocols
def protocol_page() -> str:
    """Every protocol with every parameter of its form, from the forms themselves."""
    from pyworkflow.protocol.params import ElementGroup

    from cryogem_scipion import protocols
    lines = ["# Protocols", "", "This page is made from the forms in the code. Each protocol shows the class name that "
             "a script gives to `run`, its outputs, and the parameters of each tab. A parameter's name in a script is "
             "in `code` letters.", ""]
    for name in _menu_order(protocols.__all__):
        kind = getattr(protocols, name)
        protocol = kind()
        lines += [f"(protocol-{name.lower()})=", "", f"## {kind._label}", "", f"`{name}`", "",
                  _from_scipion(inspect.cleandoc(kind.__doc__ or "")), "", *_outputs(kind)]
        for section in protocol.getDefinition().iterSections():
            parameters = [(key, param) for key, param in _parameters(section, ElementGroup) if key not in SCIPION_OWN]
            if parameters:
                lines += [f"### {kind._label}: {section.getLabel()}", ""]
            for key, param in parameters:
                lines += _definition(f"**{_escaped(str(param.getLabel()))}** {_notes(key, param)}",
                                     " ".join(_from_scipion(str(param.getHelp())).split()))
    return "\n".join(lines) + "\n"


def _menu_order(names: list[str]) -> list[str]:
    """Names of the protocols in the order of Scipion's menu."""
    menu = (ROOT / "cryogem_scipion/protocols.conf").read_text("utf-8")
    return sorted(names, key=lambda name: menu.find(f'"{name}"'))


def _parameters(section: Any, group: type) -> Iterator[tuple[str, Any]]:
    for name, param in section.iterParams():
        if isinstance(param, group):
            yield from _parameters(param, group)
        else:
            yield name, param


def _notes(name: str, param: Any) -> str:
    """Name in a script, default, choices, and whether it is an expert's."""
    notes = [f"`{name}`"]
    choices = [str(choice) for choice in getattr(param, "choices", None) or ()]
    if choices:
        notes.append(" | ".join(choices))
    default = param.getDefault()
    if choices and default is not None:
        default = choices[int(default)]
    classes = getattr(param, "pointerClass", None)
    if classes is not None:
        notes.append(str(classes.get()).replace(",", ", ").replace("  ", " "))
    elif default not in (None, ""):
        notes.append(f"default {_escaped(str(default))}")
    if param.isExpert():
        notes.append("advanced")
    return f"({'; '.join(notes)})"


def _outputs(kind: Any) -> list[str]:
    outputs = kind._possibleOutputs
    if not outputs:
        return []
    members = outputs.items() if isinstance(outputs, dict) else ((item.name, item.value) for item in outputs)
    named = ", ".join(f"`{name}` ({getattr(value, '__name__', None) or type(value).__name__})"
                      for name, value in members)
    return [f"Outputs: {named}.", ""]


# --------------------------- Files
def manifest_table() -> str:
    """The fields of manifest.json, from its schema."""
    return "\n".join(_schema(Manifest)) + "\n"


def _schema(kind: type[BaseModel]) -> list[str]:
    lines = ["| field | content |", "|---|---|"]
    inner = []
    for name, info in kind.model_fields.items():
        text = (info.description or "").replace("|", "\\|") or name.replace("_", " ")
        lines.append(f"| `{name}` | {text} |")
        inner += [part for part in _models(info.annotation) if part not in inner]
    for part in inner:
        lines += ["", f"`{part.__name__}` ({_first_paragraph(part)}):", "", *_schema(part)]
    return lines


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models(part)


# --------------------------- Code
def room_pages() -> dict[str, str]:
    """A page for each room of the engine and one for Scipion's side: all modules, by their docstrings."""
    engine = ROOT / "cryogem_scipion/engine"
    pages, rooms = {}, []
    for folder in sorted(path.parent for path in engine.glob("*/__init__.py")):
        rooms.append(folder.name)
        pages[f"api/{folder.name}.rst"] = _api_page(folder.name, folder, f"cryogem_scipion.engine.{folder.name}")
    loose = [path for path in sorted(engine.glob("*.py")) if path.stem != "__init__"]
    pages["api/engine.rst"] = "\n".join([
        *_title("Loose modules of the engine"), *(line for path in loose
                                                  for line in _module(f"cryogem_scipion.engine.{path.stem}", path))])
    pages["api/scipion.rst"] = "\n".join([*_title("Scipion's side"), *(line for module, path in _scipion_side()
                                                                       for line in _module(module, path))])
    toctree = "\n".join(f"- [{room}]({room}.rst): {summary}" for room, summary in
                        ((room, _module_summary(engine / room / "__init__.py")) for room in rooms))
    pages["api/index.md"] = "\n".join([
        "# API", "", "These pages are made from the docstrings. The packages of the engine:", "", toctree, "",
        "Beside them: [modules of no room](engine.rst), and [Scipion's side](scipion.rst).", "",
        "```{toctree}", ":hidden:", "", *rooms, "engine", "scipion", "```", ""])
    return pages


def _scipion_side() -> Iterator[tuple[str, Path]]:
    package = ROOT / "cryogem_scipion"
    for name in SCIPION_SIDE:
        path = package / name
        files = sorted(path.resolve().rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        for file in files:
            if file.stem != "__init__":
                module = f"cryogem_scipion.{name}" + ("" if file.stem == name else f".{file.stem}")
                yield module, file


def _api_page(room: str, folder: Path, package: str) -> str:
    lines = [*_title(room), _module_summary(folder / "__init__.py"), ""]
    for path in sorted(folder.rglob("*.py")):
        inside = path.relative_to(folder).with_suffix("").parts
        if inside[-1] != "__init__":
            lines += _module(f"{package}.{'.'.join(inside)}", path)
    return "\n".join(lines)


def _module(name: str, path: Path) -> list[str]:
    """A section for one module, unless it has nothing public."""
    tree = ast.parse(path.read_text("utf-8"))
    if not any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" for node in tree.body):
        return []
    title = name.split(".")[-1]
    return [title, "-" * len(title), "", f"``{name}``", "", f".. automodule:: {name}", ""]


def _module_summary(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n\n")[0].replace("\n", " ")


def _title(text: str) -> list[str]:
    return [text, "=" * len(text), ""]


def plain_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Before Napoleon: take out a section Returns that is a sentence, and escape what is no markup.

    Napoleon takes the first line of such a section for a type.
    """
    RETURNS.pop(name, None)
    if what == "class" and name.startswith("cryogem_scipion.protocols.protocol_"):
        # Written in Scipion's markup; the page of protocols has the whole text.
        end = lines.index("") if "" in lines else len(lines)
        lines[:] = [re.sub(r"_(?=\W|$)", r"\\_", line) for line in lines[:end]]
    if "Returns" in lines[:-2] and set(lines[lines.index("Returns") + 1]) == {"-"}:
        start = lines.index("Returns")
        end = next((number - 1 for number in range(start + 2, len(lines)) if re.fullmatch("-{3,}", lines[number])),
                   len(lines))
        body = lines[start + 2:end]
        if not any(line.startswith(" ") for line in body):  # else it has names and their meanings
            RETURNS[name] = " ".join(line for line in body if line)
            del lines[start:end]
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        parts[::2] = [re.sub(r"\||(?<![\w*])\*(?=[_.])", r"\\\g<0>", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def add_returns(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """After Napoleon: put the sentence on the result behind the parameters."""
    text = RETURNS.pop(name, None)
    if text:
        place = next((number for number, line in enumerate(lines) if line.startswith((":raises", ".. rubric::"))),
                     len(lines))
        lines[place:place] = ["", f":returns: {text}", ""]


# --------------------------- Text
def site_text(source: str, out: Path) -> str:
    """The text of a file at the top of the repository, with its links turned to pages of the site.

    The page is in ``docs/generated``; README alone is included by ``docs/index.md``.
    """
    text = (ROOT / source).read_text("utf-8")
    pages = {file: page for page, file in COPIED.items()}
    up = "" if source == "README.md" else "../"
    here = "generated/" if source == "README.md" else ""

    def turned(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        anchor = f"#{anchor}" if anchor else ""
        if re.match(r"https?:", match[2]) or not target:
            return match[0]
        path = (ROOT / source).parent.joinpath(target).resolve().relative_to(ROOT)
        if str(path) in pages:
            return f"[{match[1]}]({here}{pages[str(path)]}.md{anchor})"
        if path.parts[0] == "docs":
            return f"[{match[1]}]({up}{path.relative_to('docs')}{anchor})"
        return match[1]  # a file that the site does not show
    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", turned, text)


def _definition(term: str, text: str) -> list[str]:
    return [term, f": {text}", ""]


def _first_paragraph(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _from_scipion(text: str) -> str:
    """Markdown of a text in Scipion's markup: *bold*, _italic_, [[address][words]], lists, headings in bold."""
    lines = []
    for line in text.splitlines():
        line = re.sub(r"([\\`*_<>\[\]#|])", r"\\\1", line)
        line = re.sub(r"\\\[\\\[([^]]*?)\\\]\\\[([^]]*?)\\\]\\\]", r"[\2](\1)", line)
        line = re.sub(r"\\\*(\w(?:[^*]*?\w)?)\\\*", r"*\1*", line)
        line = re.sub(r"(?<!\w)\\_(\w(?:[^_]*?\w)?)\\_(?!\w)", r"*\1*", line)
        heading = re.fullmatch(r"\*([^*]+)\*", line.strip())
        lines += ["", f"**{heading[1]}**", ""] if heading else [line]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Text in which nothing is markup; line ends are blanks."""
    return re.sub(r"([\\`*_<>\[\]#|])", r"\\\1", " ".join(text.split()))
