# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of an export: linked, copied or cut anew, each under its final name only when it is whole."""
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.export.selection import PLACE, Selection, image_places
from cryogem_scipion.engine.io.dataset import PARTIAL_PREFIX, path_inside, replacing
from cryogem_scipion.engine.io.mrc import read_mrc, read_stack, write_mrc
from cryogem_scipion.engine.io.particle_boxes import box_corners, cut_boxes, normalised_particles
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.settings import ExportSettings

__all__ = ["boxes", "bring_micrographs", "bring_stacks", "bytes_of_images", "is_current", "path_prefix", "star_prefix"]

# Letters at which a reader of STAR files splits a name, or takes the rest for something else.
UNREADABLE = re.compile(r"[\s'\"#:@]")


def path_prefix(settings: ExportSettings) -> str | None:
    """What stands before the export's own names where they are relative to a folder; None where there is none.

    Raises
    ------
    SettingsError
        That folder does not exist, or does not hold the export.
    """
    base = settings.relative_to
    if base is None:
        return None
    if not base.is_dir():
        raise SettingsError(f"relative_to {base} is not a folder; give the folder in which {settings.to} runs")
    inner = Path(os.path.relpath(settings.out.resolve(), base.resolve()))
    if ".." in inner.parts:
        raise SettingsError(f"out {settings.out} is not inside relative_to {base}; choose an out inside that folder")
    return "" if inner == Path(".") else f"{inner.as_posix()}/"


def star_prefix(settings: ExportSettings, default: str) -> str:
    """``path_prefix``, else ``default``; ``SettingsError`` where a STAR file could not hold it."""
    relative = path_prefix(settings)
    prefix = default if relative is None else relative
    found = UNREADABLE.search(prefix)
    if found:
        raise SettingsError(f"the path {prefix} has {found[0]!r} in it, which programs that read STAR files do not "
                            f"understand; choose an out without it, or relative_to a folder further down")
    return prefix


def bring_micrographs(selection: Selection, settings: ExportSettings, out: Path) -> None:
    """Link or copy the micrographs to ``micrographs/``."""
    names = list(selection.micrographs["rlnMicrographName"])
    (out / "micrographs").mkdir(exist_ok=True)
    for name in track_progress(names, len(names), "exporting micrograph"):
        _bring(path_inside(selection.folder, name), out / name, settings.files)


def bring_stacks(selection: Selection, settings: ExportSettings, out: Path) -> None:
    """Link, copy or cut the stacks that the particles' rows name, to ``particles/``."""
    (out / "particles").mkdir(exist_ok=True)
    groups = _groups(selection.particles)
    for micrograph, rows in track_progress(groups, len(groups), "exporting stack"):
        for stack in sorted(set(image_places(rows["rlnImageName"])[1])):
            if selection.ready:
                _bring(path_inside(selection.folder, stack), out / stack, settings.files)
            elif not is_current(out / stack, path_inside(selection.folder, micrograph)):
                with replacing(out / stack) as path:
                    write_mrc(path, _cut(selection, micrograph, rows), selection.pixel_size, stack=True)


def boxes(selection: Selection) -> Iterator[NDArray[np.float32]]:
    """The particles' boxes (n, y, x) of one micrograph after another, bright, in the order of the rows."""
    groups = _groups(selection.particles)
    for micrograph, rows in track_progress(groups, len(groups), "exporting particles of micrograph"):
        yield _own(selection, rows) if selection.ready else _cut(selection, micrograph, rows)


def bytes_of_images(selection: Selection, settings: ExportSettings) -> int:
    """Disk space of micrographs and stacks as ``bring_micrographs`` and ``bring_stacks`` leave them."""
    copies: set[str] = set()
    if settings.files == "copy":
        copies |= set(selection.micrographs["rlnMicrographName"])
        if settings.extract and selection.ready:
            copies |= set(image_places(selection.particles["rlnImageName"])[1])
    cut = 0 if selection.ready or not settings.extract else 4 * selection.box_size**2 * len(selection.particles)
    return cut + sum(path_inside(selection.folder, name).stat().st_size for name in copies)


def is_current(target: Path, source: Path) -> bool:
    """Whether an earlier run made ``target`` of ``source`` as it is now."""
    return target.is_file() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns


def _groups(particles: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(name), rows) for name, rows in particles.groupby("rlnMicrographName", sort=False)]


def _own(selection: Selection, rows: pd.DataFrame) -> NDArray[np.float32]:
    """Boxes from the data set's stacks."""
    numbers, names = image_places(rows["rlnImageName"])
    stacks = {name: read_stack(path_inside(selection.folder, name)) for name in set(names)}
    return np.stack([stacks[name][number - 1] for number, name in zip(numbers, names, strict=True)])


def _cut(selection: Selection, micrograph: str, rows: pd.DataFrame) -> NDArray[np.float32]:
    """Boxes cut from a micrograph."""
    image, _ = read_mrc(path_inside(selection.folder, micrograph), 2)
    first = box_corners(rows[PLACE].to_numpy(float), selection.box_size)
    return normalised_particles(cut_boxes(image, first, selection.box_size))


def _bring(source: Path, target: Path, how: str) -> None:
    if how == "copy":
        if not is_current(target, source):
            with replacing(target) as path:
                shutil.copyfile(source, path)
    elif not (target.is_symlink() and os.readlink(target) == str(source)):
        # A link cannot be made over an existing file, so it is made beside it and takes its place.
        link = target.with_name(f"{PARTIAL_PREFIX}{target.name}")
        link.symlink_to(source)
        os.replace(link, target)
