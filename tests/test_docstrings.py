# SPDX-License-Identifier: GPL-3.0-or-later
"""What the docstrings of the engine's public functions have to say, read from the source itself.

- Everything in ``__all__`` that is a function or class has a docstring, and so have the public methods of such classes.
- A parameter is named in the docstring if neither its name nor its type says what it is: bare numbers, texts, tuples,
  dictionaries and arrays without a shape. A name that ends with a unit says it, and so do the words of ``KNOWN``.
- A function that raises an error of ours itself names it: in a section Raises, or in a sentence.
"""
import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "cryogem_scipion/engine"
UNITS = re.compile(r"_(angstrom2?|degrees|kv|mm|px|db|seconds|bytes|pixels|pixel_size)$")
KNOWN = {"pixel_size", "shape", "seed", "path", "folder", "out", "name", "index", "count", "box_size", "batch",
         "message", "text", "dtype", "precision", "symmetry", "width", "title", "snr", "micrographs"}
"""Words that mean the same everywhere in the project; pixel sizes are Å, shapes (y, x)."""
BARE = {"int", "float", "bool", "str", "tuple", "list", "dict", "Any", "Tensor", "ndarray", "NDArray", "Sequence",
        "Iterable", "Mapping", "None", "np", "torch", "Ellipsis", "DataFrame", "pd"}
"""Types that do not say what a value is."""
SHAPED = {"Float", "Int", "Bool", "Complex", "Shaped", "Num", "UInt8", "Float32", "Float64", "Int64", "Real"}
ERRORS = {"CryogemError", "SettingsError", "DataError", "CheckpointError", "WorkflowError"}


def public():
    """(name for people, node) of each public function, class and method of the engine."""
    for path in sorted(ENGINE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        names = next((ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
                      and ast.unparse(node.targets[0]) == "__all__"), [])
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
                where = f"{path.relative_to(ENGINE)}: {node.name}"
                yield where, node
                if isinstance(node, ast.ClassDef):
                    yield from ((f"{where}.{method.name}", method) for method in node.body
                                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"))


ALL = list(public())
FUNCTIONS = [(where, node) for where, node in ALL if isinstance(node, ast.FunctionDef)]


def ids(values):
    return [where for where, _ in values]


def unexplained(node):
    """Parameters whose name and type do not say what they are, and that the docstring does not name."""
    text = ast.get_docstring(node) or ""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [argument.arg for argument in arguments
            if argument.arg not in {"self", "cls", *KNOWN} and not UNITS.search(argument.arg)
            and is_bare(argument.annotation)
            and not re.search(rf"\b{argument.arg.strip('_').replace('_', '[_ ]')}\b", text, re.IGNORECASE)]


def is_bare(annotation):
    """Whether a type says neither the meaning nor the shape of a value."""
    if annotation is None:
        return True
    words = set(re.findall(r"[A-Za-z_]\w*", re.sub(r"'[^']*'|\"[^\"]*\"", "", ast.unparse(annotation))))
    return words <= BARE and not words & SHAPED


def raised(node):
    """Names of the errors of ours that a function raises in its own body."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Raise) and isinstance(part.exc, ast.Call):
            found.add(ast.unparse(part.exc.func))
    return found & ERRORS


def test_there_are_public_functions():
    assert len(FUNCTIONS) > 100


@pytest.mark.parametrize(("where", "node"), ALL, ids=ids(ALL))
def test_it_has_a_docstring(where, node):
    assert (ast.get_docstring(node) or "").strip(), where


@pytest.mark.parametrize(("where", "node"), FUNCTIONS, ids=ids(FUNCTIONS))
def test_its_parameters_are_explained(where, node):
    if len(node.args.args) + len(node.args.kwonlyargs) > 1 or "Parameters" in (ast.get_docstring(node) or ""):
        assert unexplained(node) == [], where


@pytest.mark.parametrize(("where", "node"), FUNCTIONS, ids=ids(FUNCTIONS))
def test_its_errors_are_named(where, node):
    text = ast.get_docstring(node) or ""
    errors = raised(node)
    assert all(error in text or "CryogemError" in text for error in errors), (where, errors)


@pytest.mark.parametrize(("where", "node"), FUNCTIONS, ids=ids(FUNCTIONS))
def test_every_entry_of_the_section_parameters_is_a_parameter(where, node):
    """A rename that forgets the docstring is found."""
    lines = (ast.get_docstring(node) or "").splitlines()
    if "Parameters" not in lines:
        return
    start = lines.index("Parameters") + 2
    entries = []
    for line in lines[start:]:
        if re.fullmatch("-{3,}", line):
            entries.pop()
            break
        if line and not line.startswith(" "):
            entries += [name.strip().lstrip("*") for name in line.split(" : ")[0].split(",")]
    arguments = node.args
    known = {argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs,
                                           *filter(None, [arguments.vararg, arguments.kwarg])]}
    assert set(entries) <= known, where
