# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may import whom, read from the source itself."""
import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cryogem_scipion"
SCIPION = {"pwem", "pyworkflow"}
SCIPION_SIDE = {"plugin", "objects", "bibtex", "workflow", "demo", "protocols", "viewers", "wizards", "tests"}
HEAVY = {"torch", "numba", "gemmi", "safetensors", "ducc0", "threadpoolctl"}
COMPUTING = {"fourier", "threads"}
"""What every part of the engine may use to compute with."""
LIGHT = {"config", "errors", "files", "dataset", "mrc", "figures", "progress", "transfer", "__version__"} | SCIPION_SIDE


def modules():
    """(name inside the package, path) of every source file."""
    # The links to protocols, viewers and tests are followed, which rglob does not do.
    folders = [PACKAGE, *(path.resolve() for path in PACKAGE.iterdir() if path.is_symlink())]
    paths = [PACKAGE / path.relative_to(folder.parent if folder is not PACKAGE else folder)
             for folder in folders for path in folder.rglob("*.py")]
    for path in sorted(paths):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def imports(path):
    """Every module that a file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def own_parts(path):
    return {name.split(".")[1] for name in imports(path) if name.startswith("cryogem_scipion.")}


ALL = list(modules())
ENGINE = [(name, path) for name, path in ALL if name.split(".")[0] not in SCIPION_SIDE]
SIDE = [(name, path) for name, path in ALL if name.split(".")[0] in SCIPION_SIDE - {"tests"}]


def test_the_tree_is_found():
    names = {name for name, _ in ALL}
    assert {"generation", "physics.projection", "translator.losses", "protocols.protocol_train"} <= names


@pytest.mark.parametrize(("name", "path"), ENGINE, ids=[name for name, _ in ENGINE])
def test_engine_never_imports_scipion(name, path):
    assert not {module.split(".")[0] for module in imports(path)} & SCIPION
    # The package's own __init__ loads the plugin on demand, inside __getattr__.
    assert not (own_parts(path) & SCIPION_SIDE) or name == "__init__"


@pytest.mark.parametrize(("name", "path"), SIDE, ids=[name for name, _ in SIDE])
def test_scipion_side_never_imports_the_engine(name, path):
    assert not {module.split(".")[0] for module in imports(path)} & HEAVY
    assert own_parts(path) <= LIGHT


@pytest.mark.parametrize("light", sorted(LIGHT - SCIPION_SIDE - {"__version__"}))
def test_what_both_sides_use_is_light(light):
    files = [path for name, path in ALL if name.split(".")[0] == light]
    assert files
    for path in files:
        assert not {module.split(".")[0] for module in imports(path)} & HEAVY


def test_physics_and_translator_do_not_know_each_other():
    for name, path in ALL:
        part = name.split(".")[0]
        if part in {"physics", "translator"}:
            judges = {"metrics"} if part == "translator" else set()
            assert own_parts(path) <= {part, "errors", "files", "config", "mrc", "transfer", *COMPUTING} | judges, name
        if part == "metrics":
            assert own_parts(path) <= {part, "errors", *COMPUTING}, name
        if part in COMPUTING:
            assert own_parts(path) <= COMPUTING, name


@pytest.mark.parametrize(("name", "path"), ENGINE, ids=[name for name, _ in ENGINE])
def test_one_module_owns_the_fourier_transforms(name, path):
    """Only it sees to it that nothing beside an image, and no thread, changes a bit of its transform."""
    if name == "fourier":
        return
    assert not {module for module in imports(path) if set(module.split(".")) & {"fft", "fftpack", "ducc0", "pyfftw"}}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr == "fft":
            assert ast.unparse(node) == "np.fft"  # for the frequencies, see below
        assert not (isinstance(node, ast.Attribute) and ast.unparse(node.value) == "np.fft"
                    and node.attr not in {"fftfreq", "rfftfreq", "fftshift"})
        assert not (isinstance(node, ast.Attribute) and node.attr in {"stft", "fftconvolve", "oaconvolve"})
