# SPDX-License-Identifier: GPL-3.0-or-later
"""The output folder of a run: it is created or continued, gets copies of source files, and records its origin."""
import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cryogem_scipion import __version__
from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.io.dataset import MANIFEST, Source, plain_name
from cryogem_scipion.engine.io.files import PARTIAL_PREFIX, lock_folder, replacing
from cryogem_scipion.engine.settings import RunSettings

__all__ = ["SETTINGS", "check_disk_space", "check_holds_run", "copy_sources", "fingerprint", "open_run_folder",
           "provenance"]

SETTINGS, INPUTS = "settings.json", "inputs.json"
INSTRUCTIONS = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "sve")
"""First letters of the instruction sets that decide how numerical libraries compute."""
# Settings that may differ when a run continues, because they do not change its results.
MAY_CHANGE = {"device", "threads", "out", "cryodrgn_activation"}


def open_run_folder(settings: RunSettings, may_change: Iterable[str] = (), inputs: Mapping[str, str] | None = None,
                    beside: Collection[str] = ()) -> Path:
    """Create the output folder of a run, or continue the interrupted run in it.

    Parameters
    ----------
    may_change
        Settings that may differ when the run continues, in addition to ``MAY_CHANGE``.
    inputs
        A fingerprint of each input, by the name for messages. An interrupted run continues only with the same
        fingerprints, so that its results are not a mixture.
    beside
        Names that a folder may already hold before the run.

    Raises
    ------
    SettingsError
        The folder holds a run with other settings or inputs, or files that are not of a run, or another process is
        writing it.
    DataError
        The folder cannot be written.
    """
    out = settings.out
    source = out / "source"
    changeable = MAY_CHANGE | set(may_change)
    values = settings.model_dump(mode="json")
    fixed = {key: value for key, value in values.items() if key not in changeable}
    defaults = {key: value for key, value in values.items() if key not in settings.model_fields_set}
    try:
        check_holds_run(out, beside)
        source.mkdir(parents=True, exist_ok=True)
        if not lock_folder(source):
            raise SettingsError(f"another process is writing into {out}; wait until it ends, or stop it")
        if (source / SETTINGS).is_file():
            # A setting that the older version of the run did not have counts as its default.
            _check_unchanged(out, fixed, {**defaults, **_read_record(source / SETTINGS)}, "holds a run with another")
            if (source / INPUTS).is_file():
                _check_unchanged(out, dict(inputs or {}), _read_record(source / INPUTS), "was made from another")
        elif any(path not in (source, source / INPUTS, *(out / name for name in beside))
                 and not path.name.startswith(PARTIAL_PREFIX)
                 for folder in (out, source) for path in folder.iterdir()):
            raise SettingsError(f"{out} is not empty and holds no cryogem run; choose another out")
        for unfinished in out.rglob(PARTIAL_PREFIX + "*"):  # of a killed run
            unfinished.unlink(missing_ok=True)
        (out / MANIFEST).unlink(missing_ok=True)
        # The settings are written last: a folder without them holds no run.
        for name, record in ((INPUTS, dict(inputs or {})), (SETTINGS, values)):
            with replacing(source / name) as path:
                path.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}); choose another out") from None
    except ValueError as error:
        if isinstance(error, SettingsError | DataError):
            raise
        raise DataError(f"out {str(out)!r} cannot be the name of a folder ({error}); choose another out") from None
    return out


def check_holds_run(out: Path, beside: Collection[str] = ()) -> None:
    """Refuse a folder that is not empty and that holds no run; names in ``beside`` do not count as content.

    Raises
    ------
    SettingsError
        The folder holds other files.
    """
    if out.is_dir() and not (out / "source").is_dir() and any(path.name not in beside for path in out.iterdir()):
        raise SettingsError(f"{out} is not empty and holds no cryogem run; choose another out")


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); delete the folder {path.parent.parent}") from None
    if not isinstance(record, dict):
        raise DataError(f"{path} is damaged (no JSON object); delete the folder {path.parent.parent}")
    return record


def _check_unchanged(out: Path, current: dict[str, Any], earlier: dict[str, Any], problem: str) -> None:
    """Refuse to continue a run with other settings or inputs."""
    changed = sorted(key for key, value in current.items() if earlier.get(key) != value)
    if changed:
        value = earlier.get(changed[0])
        is_fingerprint = isinstance(value, str) and len(value) == 64
        shown = "" if is_fingerprint else f" ({value!r})"
        raise SettingsError(f"{out} {problem} {changed[0]}{shown}; choose another out, or delete the folder")


def fingerprint(*files: Path) -> str:
    """Return the SHA-256 of the contents of files, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            for part in iter(lambda: opened.read(1 << 20), b""):
                digest.update(part)
    return digest.hexdigest()


def check_disk_space(out: Path, needed: int) -> None:
    """Refuse a run that does not fit on the disk.

    Parameters
    ----------
    out
        Output folder. Files that an interrupted run has written there count as part of ``needed``.
    needed
        Size of the whole run in bytes.

    Raises
    ------
    DataError
        The free space is too small.
    """
    folder = next(parent for parent in [out.absolute(), *out.absolute().parents] if parent.is_dir())
    free = shutil.disk_usage(folder).free
    missing = needed
    if needed > free:
        missing -= sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if missing > free:
        raise DataError(f"{out} needs {_size(missing)}, but the disk has only {_size(free)} free; free some space, or "
                        "ask for fewer or smaller micrographs")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def copy_sources(out: Path, files: Iterable[Path], original_paths: Mapping[Path, str] | None = None
                 ) -> tuple[Source, ...]:
    """Copy the source files of a run into ``source/``, each under a unique name.

    Parameters
    ----------
    out
        Output folder of the run.
    files
        The files to copy.
    original_paths
        Original path of temporary files, such as decoded maps; other files are their own origin.

    Returns
    -------
    One entry for each file, for the manifest.
    """
    sources: list[Source] = []
    for number, file in enumerate(files):
        name = f"source/{number:02d}_{plain_name(file.name)}"
        content = file.read_bytes()
        with replacing(out / name) as path:
            path.write_bytes(content)
        origin = (original_paths or {}).get(file, str(file))
        sources.append(Source(path=name, origin=origin, sha256=hashlib.sha256(content).hexdigest()))
    return tuple(sources)


def provenance() -> dict[str, Any]:
    """Return the fields of a manifest about program and machine: version, libraries and processor."""
    return {"version": __version__, "libraries": _libraries(), "processor": _processor()}


def _libraries() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("numpy", "scipy", "torch", "numba", "ducc0"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _processor() -> dict[str, str]:
    """Name and instruction sets of the processor, and the instruction sets that torch and numba use."""
    description = {"machine": platform.machine(), "name": platform.processor(), "cores": str(os.cpu_count())}
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    cpuinfo = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    description["name"] = cpuinfo.get("model name", description["name"])
    flags = cpuinfo.get("flags", cpuinfo.get("Features", "")).split()
    description["instructions"] = " ".join(flag for flag in flags if flag.startswith(INSTRUCTIONS))
    if "torch" in sys.modules:
        description["torch"] = str(sys.modules["torch"].backends.cpu.get_cpu_capability())
    if "numba" in sys.modules:
        configured = sys.modules["numba"].config.CPU_NAME
        description["numba"] = str(configured or sys.modules["llvmlite.binding"].get_host_cpu_name())
    return description
