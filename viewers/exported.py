# SPDX-License-Identifier: GPL-3.0-or-later
"""What an export gives another program to see: its particles, or its micrographs with the coordinates."""
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import PARTICLES, Manifest, read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_stack
from cryogem_scipion.viewers.images import WHOLE, grey_range, show

__all__ = ["exported"]

ROWS, COLUMNS = 4, 8


def exported(figure: Figure, folder: Path) -> None:
    """Draw the first particles of an export as they were written; where it has no stacks, a micrograph."""
    manifest = read_manifest(folder)
    if manifest.settings.get("to") != "topaz":
        _, rows = read_table(folder / PARTICLES, "particles", ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"))
        if "rlnImageName" in rows and len(rows):
            _particles(figure, folder, rows)
            return
        places = rows.rename(columns={"rlnCoordinateX": "x_coord", "rlnCoordinateY": "y_coord"})
        places["image_name"] = [PurePosixPath(name).stem for name in rows["rlnMicrographName"]]
        _micrograph(figure, folder / "micrographs", places, manifest)
        return
    _micrograph(figure, folder / "images", pd.read_csv(folder / "coordinates.txt", sep="\t"), manifest)


def _particles(figure: Figure, folder: Path, rows: pd.DataFrame) -> None:
    """Boxes on a page, all in one grey scale."""
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.92, wspace=0.03, hspace=0.03)
    figure.suptitle(f"{min(ROWS * COLUMNS, len(rows))} of {len(rows)} particles: bright, as they were written",
                    fontsize=10)
    boxes = [_box(folder, name) for name in rows["rlnImageName"][:ROWS * COLUMNS]]
    for place, box in enumerate(boxes, 1):
        axis = figure.add_subplot(ROWS, COLUMNS, place)
        low, high = grey_range(box)
        axis.imshow(box, cmap="gray", vmin=low, vmax=high)
        axis.set_axis_off()


def _box(folder: Path, name: str) -> NDArray[np.float32]:
    """One image; the names of a table may be absolute or relative to another folder, the files are in this one."""
    number, _, stack = name.partition("@")
    places = [path for path in (folder / "particles" / PurePosixPath(stack).name, folder / PurePosixPath(stack).name)
              if path.is_file()]
    if not places:
        raise DataError(f"{stack} is not in {folder} any more; export again")
    return read_stack(places[0])[int(number) - 1]


def _micrograph(figure: Figure, folder: Path, places: pd.DataFrame, manifest: Manifest) -> None:
    """The first micrograph that has particles, with a ring around each."""
    paths = sorted(folder.glob("*.mrc"))
    if not paths:
        raise DataError(f"{folder} has no images any more; export again")
    path = next((path for path in paths if path.stem in set(places["image_name"])), paths[0])
    axis = figure.subplots()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.92)
    show(axis, path)
    here = places[places["image_name"] == path.stem]
    axis.plot(here["x_coord"], here["y_coord"], "o", markersize=12, fillstyle="none", color=WHOLE)
    axis.set_axis_off()
    axis.set_title(f"{path.name}: {len(here)} particles at {manifest.pixel_size:.3g} Å/px", fontsize=10)
