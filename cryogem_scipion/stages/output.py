# SPDX-License-Identifier: GPL-3.0-or-later
"""How every stage begins, continues and ends its folder."""
import hashlib
import json
import platform
import re
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cryogem_scipion.config import RunSettings
from cryogem_scipion.dataset import MANIFEST, Source, replacing
from cryogem_scipion.errors import DataError, SettingsError

__all__ = ["SETTINGS", "begin", "check_space", "copy_sources", "libraries"]

SETTINGS = "settings.json"
# Where and how a stage runs may change when it continues; what it makes may not.
FREE = {"device", "threads", "out", "cryodrgn_activation"}


def begin(settings: RunSettings, may_change: Iterable[str] = ()) -> Path:
    """Make the output folder, or take up the interrupted run in it.

    Raises
    ------
    SettingsError
        The folder holds a run with other settings, or something else.
    DataError
        The folder cannot be written.
    """
    out = settings.out
    recorded = out / "source" / SETTINGS
    free = FREE | set(may_change)
    wanted = {key: value for key, value in settings.model_dump(mode="json").items() if key not in free}
    try:
        if recorded.is_file():
            found = json.loads(recorded.read_text("utf-8"))
            changed = sorted(key for key, value in wanted.items() if found.get(key) != value)
            if changed:
                raise SettingsError(f"{out} holds a run with another {changed[0]} ({found.get(changed[0])!r}); "
                                    "choose another out, or delete the folder")
        elif out.is_dir() and any(out.iterdir()):
            raise SettingsError(f"{out} is not empty and holds no cryogem run; choose another out")
        (out / "source").mkdir(parents=True, exist_ok=True)
        (out / MANIFEST).unlink(missing_ok=True)
        with replacing(recorded) as path:
            path.write_text(json.dumps(settings.model_dump(mode="json"), indent=2) + "\n", "utf-8")
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}); choose another out") from None
    except ValueError as error:
        if isinstance(error, SettingsError):
            raise
        raise DataError(f"{recorded} is damaged ({error}); delete the folder {out}") from None
    return out


def check_space(out: Path, needed: int) -> None:
    """Refuse a run that the disk cannot hold; ``needed`` in bytes."""
    folder = next(parent for parent in [out.absolute(), *out.absolute().parents] if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(f"{out} needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; make room, "
                        "or ask for fewer or smaller micrographs")


def copy_sources(out: Path, files: Iterable[Path], origins: Mapping[Path, str] | None = None) -> tuple[Source, ...]:
    """Copy what a run is made from into ``source/`` under names of their own.

    ``origins`` tells of files that were made for the run what they were made from.
    """
    sources: list[Source] = []
    for number, file in enumerate(files):
        # STAR tables name these files: no blanks, quotes or other letters that a reader might stumble on.
        name = f"source/{number:02d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', file.name)}"
        content = file.read_bytes()
        with replacing(out / name) as path:
            path.write_bytes(content)
        origin = (origins or {}).get(file, str(file))
        sources.append(Source(path=name, origin=origin, sha256=hashlib.sha256(content).hexdigest()))
    return tuple(sources)


def libraries() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("numpy", "scipy", "torch", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
