# SPDX-License-Identifier: GPL-3.0-or-later
"""How every stage begins, continues and ends its folder."""
import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cryogem_scipion import __version__
from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.io.dataset import MANIFEST, Source, plain_name
from cryogem_scipion.engine.io.files import PARTIAL, claim, replacing
from cryogem_scipion.engine.settings import RunSettings

__all__ = ["SETTINGS", "begin", "check_space", "copy_sources", "fingerprint", "made_with"]

SETTINGS, INPUTS = "settings.json", "inputs.json"
INSTRUCTIONS = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "sve")
"""Beginnings of the names of instruction sets that numerical libraries choose by."""
# Where and how a stage runs may change when it continues; what it makes may not.
FREE = {"device", "threads", "out", "cryodrgn_activation"}


def begin(settings: RunSettings, may_change: Iterable[str] = (), inputs: Mapping[str, str] | None = None) -> Path:
    """Make the output folder, or take up the interrupted run in it.

    Parameters
    ----------
    may_change
        Settings that may differ when a run goes on, beside those of every stage.
    inputs
        A fingerprint for each thing that the run is made from, by a name for people: when one differs from that of
        the interrupted run, the two would make a mixture.

    Raises
    ------
    SettingsError
        The folder holds a run with other settings or inputs, one that another process is writing, or something else.
    DataError
        The folder cannot be written.
    """
    out = settings.out
    source = out / "source"
    free = FREE | set(may_change)
    given = settings.model_dump(mode="json")
    wanted = {key: value for key, value in given.items() if key not in free}
    unsaid = {key: value for key, value in given.items() if key not in settings.model_fields_set}
    try:
        if out.is_dir() and not source.is_dir() and any(out.iterdir()):
            raise SettingsError(f"{out} is not empty and holds no cryogem run; choose another out")
        source.mkdir(parents=True, exist_ok=True)
        if not claim(source):
            raise SettingsError(f"another process is writing {out}; wait for it, or stop it")
        if (source / SETTINGS).is_file():
            # A setting that an older version did not know is as it was when it is not set.
            _same(out, wanted, {**unsaid, **_recorded(source / SETTINGS)}, "holds a run with another")
            if (source / INPUTS).is_file():
                _same(out, dict(inputs or {}), _recorded(source / INPUTS), "was made from another")
        elif any(path not in (source, source / INPUTS) and not path.name.startswith(PARTIAL)
                 for folder in (out, source) for path in folder.iterdir()):
            raise SettingsError(f"{out} is not empty and holds no cryogem run; choose another out")
        for left in out.rglob(PARTIAL + "*"):  # by a killed run
            left.unlink(missing_ok=True)
        (out / MANIFEST).unlink(missing_ok=True)
        # The settings last: without them a folder holds no run.
        for name, values in ((INPUTS, dict(inputs or {})), (SETTINGS, given)):
            with replacing(source / name) as path:
                path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}); choose another out") from None
    except ValueError as error:
        if isinstance(error, SettingsError | DataError):
            raise
        raise DataError(f"out {str(out)!r} is no name of a folder ({error}); choose another out") from None
    return out


def _recorded(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); delete the folder {path.parent.parent}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} is damaged (no JSON object); delete the folder {path.parent.parent}")
    return found


def _same(out: Path, wanted: dict[str, Any], found: dict[str, Any], what: str) -> None:
    """Refuse to go on with another run than the one that was begun."""
    changed = sorted(key for key, value in wanted.items() if found.get(key) != value)
    if changed:
        value = found.get(changed[0])
        known = "" if isinstance(value, str) and len(value) == 64 else f" ({value!r})"
        raise SettingsError(f"{out} {what} {changed[0]}{known}; choose another out, or delete the folder")


def fingerprint(*files: Path) -> str:
    """SHA-256 of the contents of files."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            for part in iter(lambda: opened.read(1 << 20), b""):
                digest.update(part)
    return digest.hexdigest()


def check_space(out: Path, needed: int) -> None:
    """Refuse a run that the disk cannot hold; ``needed`` in bytes, of which an interrupted run may have written some.
    """
    folder = next(parent for parent in [out.absolute(), *out.absolute().parents] if parent.is_dir())
    free = shutil.disk_usage(folder).free
    left = needed - sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) if needed > free else needed
    if left > free:
        raise DataError(f"{out} needs {_size(left)} and the disk has {_size(free)} free; make room, or ask for fewer "
                        "or smaller micrographs")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def copy_sources(out: Path, files: Iterable[Path], origins: Mapping[Path, str] | None = None) -> tuple[Source, ...]:
    """Copy what a run is made from into ``source/`` under names of their own.

    ``origins`` tells of files that were made for the run what they were made from.
    """
    sources: list[Source] = []
    for number, file in enumerate(files):
        name = f"source/{number:02d}_{plain_name(file.name)}"
        content = file.read_bytes()
        with replacing(out / name) as path:
            path.write_bytes(content)
        origin = (origins or {}).get(file, str(file))
        sources.append(Source(path=name, origin=origin, sha256=hashlib.sha256(content).hexdigest()))
    return tuple(sources)


def made_with() -> dict[str, Any]:
    """What every manifest says of the program and the machine: its fields version, libraries and processor."""
    return {"version": __version__, "libraries": _libraries(), "processor": _processor()}


def _libraries() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("numpy", "scipy", "torch", "numba", "ducc0"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> dict[str, str]:
    """Name and instruction sets of the processor, and those that torch and numba use of it."""
    found = {"machine": platform.machine(), "name": platform.processor(), "cores": str(os.cpu_count())}
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    found["name"] = told.get("model name", found["name"])
    flags = told.get("flags", told.get("Features", "")).split()
    found["instructions"] = " ".join(flag for flag in flags if flag.startswith(INSTRUCTIONS))
    if "torch" in sys.modules:
        found["torch"] = str(sys.modules["torch"].backends.cpu.get_cpu_capability())
    if "numba" in sys.modules:
        asked = sys.modules["numba"].config.CPU_NAME
        found["numba"] = str(asked or sys.modules["llvmlite.binding"].get_host_cpu_name())
    return found
