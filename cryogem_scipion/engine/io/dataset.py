# SPDX-License-Identifier: GPL-3.0-or-later
"""The dataset folder that every stage writes: manifest, STAR tables, file names.

    manifest.json     contents of the folder, settings and source files (``Manifest``)
    micrographs.star  optics table, then one row for each micrograph
    particles.star    optics table, then one row for each particle, also for particles cut by the border
    extracted.star    rows of the whole particles with their images, if stacks were written
    figures.npz       arrays for the viewers' figures (training only)
    micrographs/ masks/ particles/ source/

Paths in the tables are relative to the folder. This module does not need torch: Scipion's side reads the files with the
same functions.
"""
import json
import linecache
import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pandas as pd
import starfile
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.files import PARTIAL_PREFIX, replacing

__all__ = ["EXTRACTED", "FIGURES", "MANIFEST", "MICROGRAPHS", "MOTION", "PARTIAL_PREFIX", "PARTICLES", "README",
           "VARIATION", "Contrast", "Manifest", "Source", "path_inside", "plain_name", "quoted_path", "read_blocks",
           "read_manifest", "read_table", "replacing", "table_text", "unquoted_path", "write_manifest", "write_table"]

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
MICROGRAPHS = "micrographs.star"
PARTICLES = "particles.star"
EXTRACTED = "extracted.star"
FIGURES = "figures.npz"
README = "README.txt"

TEXT_COLUMNS = ["rlnMicrographName", "rlnImageName", "cryogemMask", "cryogemOriginal", "cryogemSource"]
"""Columns that are read as text even where every value is a number."""

VARIATION = ("rlnCtfBfactor", "rlnCtfScalefactor", "cryogemRemaining", "cryogemCutX", "cryogemCutY", "cryogemCutZ")
"""Columns of particles.star for the variation between particles. All but the first exist only where particles vary."""
MOTION = ("cryogemMotionU", "cryogemMotionV", "cryogemMotionAngle")
"""Columns of micrographs.star for the residual motion; they exist only where the simulation has some."""


class Contrast(BaseModel):
    """Strength of the particles relative to the noise."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    snr: float = Field(gt=0, description="variance of the particles divided by the variance of the noise, at the "
                                         "working pixel size")
    background_deviation: float = Field(gt=0, description="standard deviation of the background divided by its mean")
    signal_deviation: float = Field(gt=0, description="standard deviation of s inside the masks: sqrt(snr) times "
                                                      "background_deviation")
    scale: float = Field(gt=0, description="factor by which projections (density x Angstrom) are multiplied")

    def rescaled(self, snr: float, background_deviation: float) -> "Contrast":
        """Return the contrast of the same particles at another signal-to-noise ratio and background deviation."""
        signal = snr**0.5 * background_deviation
        return Contrast(snr=snr, background_deviation=background_deviation, signal_deviation=signal,
                        scale=self.scale * signal / self.signal_deviation)


class Source(BaseModel):
    """A source file of the run, copied to ``source/``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str = Field(description="relative to the folder")
    origin: str = Field(description="original path of the file")
    sha256: str


class Manifest(BaseModel):
    """Contents of manifest.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format_version: int = FORMAT_VERSION
    stage: Literal["simulate", "train", "generate", "import-model", "phantom", "evaluate", "picks", "poses", "export",
                   "preview", "measure", "train-poses", "assign-poses"]
    version: str = Field(description="version of this program")
    libraries: dict[str, str] = Field(description="versions of the libraries that the results depend on")
    processor: dict[str, str] = Field(
        default_factory=dict, description="the CPU; the last bit of the images depends on it")
    settings: dict[str, Any] = Field(description="settings of the stage")
    simulation: dict[str, Any] | None = Field(
        default=None, description="settings of the simulation that a generated set is based on")
    seed: int
    pixel_size: float = Field(gt=0, description="pixel size of the micrographs in Angstrom")
    micrographs: int = Field(ge=0)
    particles: int = Field(default=0, ge=0, description="rows of particles.star")
    whole_particles: int = Field(default=0, ge=0, description="particles whose box lies inside the micrograph")
    box_size: int | None = None
    particle_diameter_angstrom: float | None = None
    contrast: Contrast | None = None
    model: str | None = Field(default=None, description="the noise model, relative to the folder")
    sources: tuple[Source, ...] = ()
    warnings: tuple[str, ...] = ()
    figures: dict[str, float] = Field(default_factory=dict, description="values that the stage measured")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, the last file of a stage, without figures that are not finite."""
    # JSON cannot hold these values, and without a readable manifest the whole folder is useless.
    figures = {name: value for name, value in manifest.figures.items() if math.isfinite(value)}
    manifest = manifest.model_copy(update={"figures": figures})
    with replacing(folder / MANIFEST) as path:
        path.write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a folder.

    Raises
    ------
    DataError
        The folder has no manifest, or the manifest is damaged or of a newer version.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError:
        raise DataError(f"{folder} has no {MANIFEST}; give a folder that a cryogem stage finished") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); make the folder again") from None
    file_version = values.get("format_version") if isinstance(values, dict) else None
    if isinstance(file_version, int) and file_version > FORMAT_VERSION:
        raise DataError(f"{path} has format {file_version}, but this program reads formats up to {FORMAT_VERSION}; "
                        "update cryogem")
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "top level"
        raise DataError(f"{path} is not a cryogem manifest ({field}: {first['msg']}); make the folder again") from None


def write_table(path: Path, name: str, optics: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Write a RELION 3.1 STAR file: the optics table, then ``rows`` as table ``name``.

    Parameters
    ----------
    name
        ``micrographs`` or ``particles``.
    rows
        One row for each micrograph or particle, with STAR labels as columns.
    """
    with replacing(path) as temporary:
        temporary.write_text(table_text({"optics": optics, name: rows}), "utf-8")


def table_text(tables: dict[str, pd.DataFrame]) -> str:
    """Return named tables as the text of a STAR file; equal tables give equal texts."""
    # The library writes the time into the first line.
    text: str = starfile.to_string(tables)
    return text.partition("\n")[2].lstrip()


def read_table(path: Path, name: str, columns: tuple[str, ...] = ()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the optics table and another table of a STAR file.

    Parameters
    ----------
    name
        Name of the other table, without ``data_``.
    columns
        Columns that it must have.

    Raises
    ------
    DataError
        The file is missing, is not a STAR file, or has no such table or column.
    """
    blocks = read_blocks(path)
    if name not in blocks:
        raise DataError(f"{path} has no table data_{name} (found: {', '.join(map(str, blocks)) or 'nothing'}); "
                        "give a RELION 3.1 STAR file")
    rows = blocks[name]
    missing = [column for column in columns if column not in rows]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; write the file with these columns")
    return blocks.get("optics", pd.DataFrame()), rows


def read_blocks(path: Path) -> dict[str, pd.DataFrame]:
    """Return every table of a STAR file by its name.

    Raises
    ------
    DataError
        The file is missing or is not a STAR file, or a table has a column twice.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; give a STAR file")
    # After a failed read the library keeps the old lines of the file.
    linecache.clearcache()
    try:
        tables = starfile.read(path, always_dict=True, parse_as_string=TEXT_COLUMNS)
        blocks = {str(name): _data_frame(block) for name, block in tables.items()}
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, OSError,
            pd.errors.ParserError) as error:
        raise DataError(f"{path} cannot be read as STAR ({error}); check the file") from None
    for name, block in blocks.items():
        duplicates = block.columns[block.columns.duplicated()]
        if len(duplicates):
            raise DataError(f"{path} has the column {duplicates[0]} twice in data_{name}; remove one")
    return blocks


def _data_frame(block: Any) -> pd.DataFrame:
    """A table as a data frame, also where starfile returns a simple block of one row."""
    return block if isinstance(block, pd.DataFrame) else pd.DataFrame([block])


def path_inside(folder: Path, name: str) -> Path:
    """Return the absolute path of a file in a folder.

    Raises
    ------
    DataError
        The path leads out of the folder, also through a link, or is not a possible path.
    """
    try:
        path = (folder / str(name)).resolve()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL character, a loop of links, or a name that is too long
        raise DataError(f"{name!r} cannot be the name of a file in {folder} ({error}); correct the table") from None
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{name!r} lies outside {folder}, and tables may only name files inside; correct the table")
    return path


def plain_name(name: str) -> str:
    """Return a file name without blanks and special characters, because RELION does not read quoted names."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def quoted_path(path: str | Path) -> str:
    """Return a path as one word for a STAR table: special characters are encoded, a blank as ``%20``."""
    return quote_from_bytes(os.fsencode(path))


def unquoted_path(word: str) -> str:
    """Return the path that ``quoted_path`` encoded."""
    return os.fsdecode(unquote_to_bytes(word))
