# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of an export: linked, copied or extracted again. A file gets its final name when it is complete."""
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.export.selection import COORDINATE, SelectedDataset, split_image_names
from cryogem_scipion.engine.io.dataset import PARTIAL_PREFIX, path_inside, replacing
from cryogem_scipion.engine.io.mrc import read_mrc, read_stack, write_mrc
from cryogem_scipion.engine.io.particle_boxes import box_corners, cut_boxes, normalised_particles
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.settings import ExportSettings

__all__ = ["export_micrographs", "export_stacks", "images_bytes", "is_up_to_date", "particle_boxes", "path_prefix",
           "star_prefix"]

# Characters at which readers of STAR files end a name or misread it.
UNREADABLE = re.compile(r"[\s'\"#:@]")


def path_prefix(settings: ExportSettings) -> str | None:
    """Path from the folder ``relative_to`` to the export, with a slash at its end; None without ``relative_to``.

    Raises
    ------
    SettingsError
        ``relative_to`` is not a folder, or the export is not inside it.
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
    """Return what stands before file names in STAR files: ``path_prefix``, or ``default`` without ``relative_to``.

    Raises
    ------
    SettingsError
        As for ``path_prefix``, or the path has a character that STAR readers do not accept.
    """
    relative = path_prefix(settings)
    prefix = default if relative is None else relative
    unreadable = UNREADABLE.search(prefix)
    if unreadable:
        raise SettingsError(f"the path {prefix} contains {unreadable[0]!r}, which programs that read STAR files do not "
                            "accept; choose an out without it, or a relative_to that is nearer to the export")
    return prefix


def export_micrographs(dataset: SelectedDataset, settings: ExportSettings, out: Path) -> None:
    """Link or copy the micrographs of the dataset to ``out/micrographs``."""
    names = list(dataset.micrographs["rlnMicrographName"])
    (out / "micrographs").mkdir(exist_ok=True)
    for name in track_progress(names, len(names), "exporting micrograph"):
        _link_or_copy(path_inside(dataset.folder, name), out / name, settings.files)


def export_stacks(dataset: SelectedDataset, settings: ExportSettings, out: Path) -> None:
    """Link or copy the particle stacks to ``out/particles``, or extract them again, as ``reuses_stacks`` says."""
    (out / "particles").mkdir(exist_ok=True)
    groups = _by_micrograph(dataset.particles)
    for micrograph, rows in track_progress(groups, len(groups), "exporting stack"):
        for stack in sorted(set(split_image_names(rows["rlnImageName"])[1])):
            if dataset.reuses_stacks:
                _link_or_copy(path_inside(dataset.folder, stack), out / stack, settings.files)
            elif not is_up_to_date(out / stack, path_inside(dataset.folder, micrograph)):
                with replacing(out / stack) as path:
                    write_mrc(path, _cut_boxes(dataset, micrograph, rows), dataset.pixel_size, stack=True)


def particle_boxes(dataset: SelectedDataset) -> Iterator[NDArray[np.float32]]:
    """Yield the particles (n, y, x) of one micrograph after another, protein bright, in the order of the rows."""
    groups = _by_micrograph(dataset.particles)
    for micrograph, rows in track_progress(groups, len(groups), "exporting particles of micrograph"):
        yield _read_boxes(dataset, rows) if dataset.reuses_stacks else _cut_boxes(dataset, micrograph, rows)


def images_bytes(dataset: SelectedDataset, settings: ExportSettings) -> int:
    """Disk space that ``export_micrographs`` and ``export_stacks`` need, bytes; links need none."""
    copied: set[str] = set()
    if settings.files == "copy":
        copied |= set(dataset.micrographs["rlnMicrographName"])
        if settings.extract and dataset.reuses_stacks:
            copied |= set(split_image_names(dataset.particles["rlnImageName"])[1])
    new_bytes = 0 if dataset.reuses_stacks or not settings.extract else 4 * dataset.box_size**2 * len(dataset.particles)
    return new_bytes + sum(path_inside(dataset.folder, name).stat().st_size for name in copied)


def is_up_to_date(target: Path, source: Path) -> bool:
    """Whether ``target`` exists and is not older than ``source``."""
    return target.is_file() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns


def _by_micrograph(particles: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(name), rows) for name, rows in particles.groupby("rlnMicrographName", sort=False)]


def _read_boxes(dataset: SelectedDataset, rows: pd.DataFrame) -> NDArray[np.float32]:
    """Particles (n, y, x) read from the stacks of the dataset."""
    numbers, names = split_image_names(rows["rlnImageName"])
    stacks = {name: read_stack(path_inside(dataset.folder, name)) for name in set(names)}
    return np.stack([stacks[name][number - 1] for number, name in zip(numbers, names, strict=True)])


def _cut_boxes(dataset: SelectedDataset, micrograph: str, rows: pd.DataFrame) -> NDArray[np.float32]:
    """Particles (n, y, x) extracted from a micrograph."""
    image, _ = read_mrc(path_inside(dataset.folder, micrograph), 2)
    corners = box_corners(rows[COORDINATE].to_numpy(float), dataset.box_size)
    return normalised_particles(cut_boxes(image, corners, dataset.box_size))


def _link_or_copy(source: Path, target: Path, files: str) -> None:
    if files == "copy":
        if not is_up_to_date(target, source):
            with replacing(target) as path:
                shutil.copyfile(source, path)
    elif not (target.is_symlink() and os.readlink(target) == str(source)):
        # A new link cannot replace an old file. So it gets a temporary name first, and is then renamed.
        link = target.with_name(f"{PARTIAL_PREFIX}{target.name}")
        link.symlink_to(source)
        os.replace(link, target)
