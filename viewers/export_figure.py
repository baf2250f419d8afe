# SPDX-License-Identifier: GPL-3.0-or-later
"""Figure of an export: its particles, or a micrograph with the coordinates, as the other program reads them."""
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import PARTICLES, Manifest, read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_stack
from cryogem_scipion.viewers.image_display import WHOLE_COLOUR, grey_range, show_image

__all__ = ["draw_export"]

ROWS, COLUMNS = 4, 8


def draw_export(figure: Figure, folder: Path) -> None:
    """Draw the first particles of an export; for an export without particle stacks, draw a micrograph."""
    manifest = read_manifest(folder)
    if manifest.settings.get("to") != "topaz":
        _, rows = read_table(folder / PARTICLES, "particles", ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"))
        if "rlnImageName" in rows and len(rows):
            _draw_particle_images(figure, folder, rows)
            return
        coordinates = rows.rename(columns={"rlnCoordinateX": "x_coord", "rlnCoordinateY": "y_coord"})
        coordinates["image_name"] = [PurePosixPath(name).stem for name in rows["rlnMicrographName"]]
        _draw_micrograph(figure, folder / "micrographs", coordinates, manifest)
        return
    _draw_micrograph(figure, folder / "images", pd.read_csv(folder / "coordinates.txt", sep="\t"), manifest)


def _draw_particle_images(figure: Figure, folder: Path, rows: pd.DataFrame) -> None:
    """Draw the first particle images, each in its own grey scale."""
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.92, wspace=0.03, hspace=0.03)
    figure.suptitle(f"{min(ROWS * COLUMNS, len(rows))} of {len(rows)} particles (protein bright), as they were written",
                    fontsize=10)
    images = [_read_particle(folder, name) for name in rows["rlnImageName"][:ROWS * COLUMNS]]
    for number, image in enumerate(images, 1):
        axis = figure.add_subplot(ROWS, COLUMNS, number)
        low, high = grey_range(image)
        axis.imshow(image, cmap="gray", vmin=low, vmax=high)
        axis.set_axis_off()


def _read_particle(folder: Path, name: str) -> NDArray[np.float32]:
    """A particle's image. Paths in the table may be relative to another folder; the stacks are in ``folder``."""
    number, _, stack = name.partition("@")
    paths = [path for path in (folder / "particles" / PurePosixPath(stack).name, folder / PurePosixPath(stack).name)
              if path.is_file()]
    if not paths:
        raise DataError(f"{stack} is not in {folder} any more; export again")
    return read_stack(paths[0])[int(number) - 1]


def _draw_micrograph(figure: Figure, folder: Path, coordinates: pd.DataFrame, manifest: Manifest) -> None:
    """Draw the first micrograph that has particles, with a circle around each particle."""
    paths = sorted(folder.glob("*.mrc"))
    if not paths:
        raise DataError(f"{folder} has no images any more; export again")
    path = next((path for path in paths if path.stem in set(coordinates["image_name"])), paths[0])
    axis = figure.subplots()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.92)
    show_image(axis, path)
    here = coordinates[coordinates["image_name"] == path.stem]
    axis.plot(here["x_coord"], here["y_coord"], "o", markersize=12, fillstyle="none", color=WHOLE_COLOUR)
    axis.set_axis_off()
    axis.set_title(f"{path.name}: {len(here)} particles at {manifest.pixel_size:.3g} Å/px", fontsize=10)
