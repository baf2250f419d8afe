# SPDX-License-Identifier: GPL-3.0-or-later
"""Coordinates from the files of pickers, in Å.

The centre of the first pixel is (0, 0); x counts columns. A table of coordinates has these columns:

- ``micrograph``: as the file names it
- ``x``, ``y``: centre of the particle, Å; RELION's origins are included
- ``score``: NaN where the picker gave none
- ``whole``: false for a particle that the true labels mark as cut by the border
- ``pixel_size``: Å per pixel of the micrograph
"""
from collections.abc import Iterable, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pandas as pd

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import read_blocks

__all__ = ["particle_centres", "pixel_sizes", "read_coordinates"]

SCORE_COLUMN = "rlnAutopickFigureOfMerit"
TOPAZ_COLUMNS = ("image_name", "x_coord", "y_coord")
# RELION writes one file per micrograph, and adds one of these endings to the micrograph's name.
RELION_ENDINGS = ("_autopick", "_manualpick")
COLUMNS = ("micrograph", "x", "y", "score", "whole", "pixel_size")


def read_coordinates(files: Sequence[Path], pixel_size: float | None, setting: str) -> pd.DataFrame:
    """Return the coordinates of one or more files as one table; the module describes its columns.

    Parameters
    ----------
    files
        STAR files (RELION 3.0 or later, one or many micrographs each), tables of Topaz (.txt, .tsv, .csv), EMAN boxes
        (.box, one micrograph each) or .cs files of cryoSPARC.
    pixel_size
        Å per pixel of the coordinates; None takes the value in the file.
    setting
        Name of the setting that gives the pixel size, for messages.

    Raises
    ------
    DataError
        A file cannot be read, its pixel size is not known, a coordinate is not finite, or only some picks have a score.
    """
    tables = [_read(file, pixel_size, setting) for file in files]
    table = pd.concat([file_table for file_table in tables if len(file_table)] or tables[:1], ignore_index=True)
    positions = table[["x", "y"]].to_numpy(float)
    if not np.isfinite(positions).all():
        raise DataError(f"{files[0]} has {int((~np.isfinite(positions).all(1)).sum())} coordinates that are not finite "
                        "numbers; remove these rows")
    has_score = table["score"].notna()
    if has_score.any() and not has_score.all():
        raise DataError(f"{int((~has_score).sum())} of {len(table)} picks have no score, but the others have one; give "
                        "a score to all picks, or to none")
    return table


def pixel_sizes(rows: pd.DataFrame, optics: pd.DataFrame) -> Any:
    """Return the micrograph pixel size of each row of a STAR table, from its optics group.

    Parameters
    ----------
    rows
        Rows of the table.
    optics
        Optics table of the same file; may be empty.

    Returns
    -------
    Å per pixel (n,); None if the optics table does not give it.
    """
    for column in ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize"):
        if column not in optics:
            continue
        if "rlnOpticsGroup" in optics and "rlnOpticsGroup" in rows:
            by_group = dict(zip(optics["rlnOpticsGroup"], optics[column], strict=True))
            sizes = rows["rlnOpticsGroup"].map(by_group).to_numpy(float)
        else:
            sizes = np.full(len(rows), float(optics[column].iloc[0]))
        if (sizes > 0).all():
            return sizes
    return None


def particle_centres(rows: pd.DataFrame, sizes: Any) -> tuple[Any, Any]:
    """Return the true centres of the particles of a STAR table: coordinate minus origin.

    Parameters
    ----------
    rows
        Rows with RELION's coordinates, and with origins if there are any.
    sizes
        Å per pixel of the micrographs: one number, or one a row (n,).

    Returns
    -------
    x (n,) and y (n,), Å.
    """
    def centre_along(axis: str) -> Any:
        coordinate = rows[f"rlnCoordinate{axis}"].to_numpy(float) * sizes
        if f"rlnOrigin{axis}Angst" in rows:
            return coordinate - rows[f"rlnOrigin{axis}Angst"].to_numpy(float)
        if f"rlnOrigin{axis}" in rows:
            return coordinate - rows[f"rlnOrigin{axis}"].to_numpy(float) * sizes
        return coordinate
    return centre_along("X"), centre_along("Y")


def _read(path: Path, pixel_size: float | None, setting: str) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} is not a file; give STAR, Topaz (.txt), .box or .cs files of coordinates")
    readers = {".star": _star, ".txt": _topaz, ".tsv": _topaz, ".csv": _topaz, ".box": _box, ".cs": _cryosparc}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} ends in {path.suffix or 'nothing'}; coordinates are read from .star, .txt, .tsv, "
                        ".csv, .box and .cs")
    try:
        return reader(path, pixel_size, setting)
    except (ValueError, KeyError, IndexError, EOFError, SyntaxError, TokenError, pd.errors.ParserError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as coordinates ({error}); check the file") from None


def _star(path: Path, pixel_size: float | None, setting: str) -> pd.DataFrame:
    blocks = read_blocks(path)
    rows = next((block for block in blocks.values() if "rlnCoordinateX" in block and "rlnCoordinateY" in block), None)
    if rows is None:
        if all(block.empty for block in blocks.values()):
            return _table(path, [], [], [], pixel_size or np.nan)
        raise DataError(f"{path} has no rlnCoordinateX and rlnCoordinateY; give a STAR file of coordinates")
    sizes = pixel_size or pixel_sizes(rows, blocks.get("optics", pd.DataFrame()))
    if sizes is None:
        raise _unknown_pixel_size(path, setting)
    x, y = particle_centres(rows, sizes)
    table = _table(path, rows.get("rlnMicrographName", _stem(path)), x, y, sizes, rows.get(SCORE_COLUMN))
    if "cryogemWhole" in rows:
        table["whole"] = rows["cryogemWhole"].to_numpy() == 1
    return table


def _topaz(path: Path, pixel_size: float | None, setting: str) -> pd.DataFrame:
    rows = pd.read_csv(path, sep="," if path.suffix.lower() == ".csv" else "\t", comment="#",
                       dtype={"image_name": str}, encoding="utf-8")
    missing = [name for name in TOPAZ_COLUMNS if name not in rows]
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}; give a table as Topaz writes it")
    if pixel_size is None:
        raise _unknown_pixel_size(path, setting)
    return _table(path, rows["image_name"], rows["x_coord"].to_numpy(float) * pixel_size,
                  rows["y_coord"].to_numpy(float) * pixel_size, pixel_size, rows.get("score"))


def _box(path: Path, pixel_size: float | None, setting: str) -> pd.DataFrame:
    """Picks of EMAN and crYOLO: corner and size of each box, px; crYOLO adds the score as a fifth column."""
    if pixel_size is None:
        raise _unknown_pixel_size(path, setting)
    text = path.read_text("utf-8")
    values = np.array([[float(word) for word in line.split()] for line in text.splitlines() if line.strip()])
    if not len(values):
        return _table(path, [], [], [], pixel_size)
    if values.ndim != 2 or values.shape[1] < 4:
        raise DataError(f"{path} has fewer than four columns; give lines of corner x, corner y, width, height")
    middle = values[:, :2] + values[:, 2:4] / 2
    score = values[:, 4] if values.shape[1] > 4 and (values[:, 4] >= 0).all() else None
    return _table(path, _stem(path), middle[:, 0] * pixel_size, middle[:, 1] * pixel_size, pixel_size, score)


def _cryosparc(path: Path, pixel_size: float | None, setting: str) -> pd.DataFrame:
    """Picks of cryoSPARC: fractions of the micrograph; y counts from the lower edge."""
    rows = np.load(path, allow_pickle=False)
    if not hasattr(rows, "dtype"):
        raise DataError(f"{path} holds several arrays; give the .cs file of picked or extracted particles")
    fields = rows.dtype.names or ()
    needed = [f"location/{name}" for name in ("micrograph_path", "center_x_frac", "center_y_frac", "micrograph_shape")]
    missing = [name for name in needed if name not in fields]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; give the .cs file of picked or extracted particles")
    sizes = pixel_size
    if sizes is None:
        if "location/micrograph_psize_A" not in fields:
            raise _unknown_pixel_size(path, setting)
        sizes = rows["location/micrograph_psize_A"].astype(float)
    shape = rows["location/micrograph_shape"].astype(float)
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in rows["location/micrograph_path"]]
    scores = next((rows[name] for name in ("pick_stats/ncc_score", "pick_stats/power") if name in fields), None)
    return _table(path, names, rows["location/center_x_frac"] * shape[:, 1] * sizes,
                  (1 - rows["location/center_y_frac"].astype(float)) * shape[:, 0] * sizes, sizes, scores)


def _table(path: Path, names: str | Iterable[str], x: Any, y: Any, sizes: Any, score: Any = None) -> pd.DataFrame:
    count = len(x)
    values = dict.fromkeys(COLUMNS, np.zeros(0))
    values |= {"micrograph": np.array([names] * count if isinstance(names, str) else list(names), object),
               "x": np.asarray(x, float), "y": np.asarray(y, float), "whole": np.ones(count, bool),
               "score": np.full(count, np.nan) if score is None else np.asarray(score, float),
               "pixel_size": np.broadcast_to(np.asarray(sizes, float), count)}
    return pd.DataFrame(values)


def _stem(path: Path) -> str:
    """The micrograph's name, from the name of its coordinate file."""
    stem = path.stem
    for ending in RELION_ENDINGS:
        stem = stem.removesuffix(ending)
    return stem


def _unknown_pixel_size(path: Path, setting: str) -> DataError:
    return DataError(f"{path} does not contain the pixel size of its coordinates; give {setting}")
