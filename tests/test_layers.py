# SPDX-License-Identifier: GPL-3.0-or-later
"""Which modules may import which others, checked on the source files."""
import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cryogem_scipion"
SCIPION = {"pwem", "pyworkflow"}
SCIPION_SIDE = {"plugin", "objects", "bibtex", "workflow", "demo", "demo_figure", "protocols", "viewers", "wizards",
                "tests"}
HEAVY = {"torch", "numba", "gemmi", "safetensors", "ducc0", "threadpoolctl"}
BASE = {"errors", "settings", "io"}
ROOMS = {
    "errors": set(),
    "settings": {"errors"},
    "io": {"errors"},
    "compute": {"errors"},
    "runs": {*BASE, "compute"},
    "figures": {"errors", "io"},
    "scoring": {"errors", "io", "compute"},
    "simulation": {*BASE, "compute"},
    "noise": {*BASE, "compute", "runs", "simulation"},
    "measurement": {"errors", "io", "compute", "runs", "noise", "simulation"},
    "realism": {"errors", "io", "compute", "runs", "noise"},
    "translator": {*BASE, "compute", "noise", "realism"},
    "pose_estimation": {*BASE, "compute", "simulation", "translator"},
    "export": {*BASE, "compute", "runs", "simulation"},
    "cli": {"errors", "settings"}}
"""The engine's rooms, and the other rooms that each may import; the stages import all of them."""
LIGHT = {"errors", "settings", "io", "figures", "runs.progress", "simulation.envelope", "simulation.motion",
         "simulation.optics"}
"""Parts of the engine that Scipion's side imports, too: they need no heavy library."""
TOP = {"plugin", "objects", "bibtex", "workflow", "demo", "demo_figure", "launcher"}
"""Modules at the package's top: Scipion's side, and the launcher of the engine."""


def modules():
    """Yield the name inside the package and the path of each source file."""
    # rglob does not follow the links to protocols, viewers and tests.
    folders = [PACKAGE, *(path.resolve() for path in PACKAGE.iterdir() if path.is_symlink())]
    paths = [PACKAGE / path.relative_to(folder.parent if folder is not PACKAGE else folder)
             for folder in folders for path in folder.rglob("*.py")]
    for path in sorted(paths):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def imports(path):
    """Yield all modules that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def own(path):
    """Return the modules of this package that a file imports, and the names that it imports from them."""
    return {name.removeprefix("cryogem_scipion.") for name in imports(path) if name.startswith("cryogem_scipion.")}


def own_parts(path):
    """Return the modules and folders at the package's top that a file imports."""
    return {name.split(".")[0] for name in own(path)}


def rooms(path):
    """Return the engine's rooms that a file imports."""
    return {name.split(".")[1] for name in own(path) if name.startswith("engine.")}


ALL = list(modules())
NAMES = {name.removesuffix(".__init__") for name, _ in ALL}
ENGINE = [(name, path) for name, path in ALL if name.split(".")[0] not in SCIPION_SIDE]
INSIDE = [(name.removeprefix("engine."), path) for name, path in ALL if name.startswith("engine.")]
SIDE = [(name, path) for name, path in ALL if name.split(".")[0] in SCIPION_SIDE - {"tests"}]


def test_the_tree_is_found():
    assert {"engine.simulation.projection", "engine.translator.losses", "protocols.protocol_train"} <= NAMES


def test_every_room_is_known_and_no_module_lies_beside_them():
    assert {name.split(".")[0] for name, _ in INSIDE} == {*ROOMS, "stages", "__init__"}
    assert {name for name in NAMES if "." not in name and (PACKAGE / f"{name}.py").is_file()} - {
        "__init__", "__main__"} == TOP
    assert not {name for name in NAMES if name.split(".")[-1] in {"utils", "helpers", "common", "misc"}}


def test_stages_hold_one_module_for_each_command_and_nothing_else():
    from cryogem_scipion.engine.settings import STAGES
    stages = {name.removeprefix("stages.") for name, _ in INSIDE if name.startswith("stages.")}
    assert stages == {"__init__", *(stage.replace("-", "_") for stage in STAGES)}


@pytest.mark.parametrize(("name", "path"), ENGINE, ids=[name for name, _ in ENGINE])
def test_engine_never_imports_scipion(name, path):
    assert not {module.split(".")[0] for module in imports(path)} & SCIPION
    # The package's __init__ imports the plugin inside __getattr__, on its first use.
    assert not (own_parts(path) & SCIPION_SIDE) or name == "__init__"


@pytest.mark.parametrize(("name", "path"), SIDE, ids=[name for name, _ in SIDE])
def test_scipion_side_never_imports_the_engine_but_for_its_light_parts(name, path):
    assert not {module.split(".")[0] for module in imports(path)} & HEAVY
    assert own_parts(path) <= {*SCIPION_SIDE, "engine", "__version__"}
    used = {name for name in own(path) if name.startswith("engine.") and name in NAMES}
    assert all(any(f"{name}.".startswith(f"engine.{light}.") for light in LIGHT) for name in used
               if name not in {f"engine.{light.split('.')[0]}" for light in LIGHT}), used


@pytest.mark.parametrize("light", sorted(LIGHT))
def test_what_both_sides_use_is_light(light):
    """Everything that it imports is light, too."""
    files = [path for name, path in INSIDE if f"{name}.".startswith(f"{light}.")]
    assert files
    folders = {f"engine.{light.rpartition('.')[0]}"} if "." in light else set()
    for path in [*files, *(PACKAGE / name.replace(".", "/") / "__init__.py" for name in folders)]:
        assert not {module.split(".")[0] for module in imports(path)} & HEAVY
        used = {name for name in own(path) if name.startswith("engine.") and name in NAMES}
        assert all(any(f"{name}.".startswith(f"engine.{part}.") for part in LIGHT) for name in used), path


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_use_only_those_before_them(room):
    for name, path in INSIDE:
        if name.split(".")[0] == room:
            assert rooms(path) <= {room, *ROOMS[room]}, name


def test_no_two_rooms_use_each_other():
    """Neither directly nor through other rooms."""
    def dependencies(room):
        return ROOMS[room] | {indirect for direct in ROOMS[room] for indirect in dependencies(direct)}
    assert all(room not in dependencies(room) for room in ROOMS)


def test_the_simulation_and_the_networks_do_not_know_each_other():
    for name, path in INSIDE:
        room = name.split(".")[0]
        if room in {"simulation", "translator"}:
            assert not rooms(path) & ({"simulation", "translator"} - {room}), name


@pytest.mark.parametrize(("name", "path"), ENGINE, ids=[name for name, _ in ENGINE])
def test_one_module_owns_the_fourier_transforms(name, path):
    """This module makes each transform independent of the number of threads and of other images, to the last bit."""
    if name == "engine.compute.fourier":
        return
    assert not {module for module in imports(path) if set(module.split(".")) & {"fft", "fftpack", "ducc0", "pyfftw"}}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr == "fft":
            assert ast.unparse(node) == "np.fft"  # only for frequencies, see the next check
        assert not (isinstance(node, ast.Attribute) and ast.unparse(node.value) == "np.fft"
                    and node.attr not in {"fftfreq", "rfftfreq", "fftshift"})
        assert not (isinstance(node, ast.Attribute) and node.attr in {"stft", "fftconvolve", "oaconvolve"})
