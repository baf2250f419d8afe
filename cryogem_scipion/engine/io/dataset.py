# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder that every stage leaves behind: manifest, STAR tables, names.

    manifest.json     what was made, by which settings, from which files (``Manifest``)
    micrographs.star  optics table, then a row for each micrograph
    particles.star    optics table, then a row for each particle, also those cut by the border
    extracted.star    the rows of the whole particles with their images, when stacks were written
    figures.npz       what the viewers draw of the run, arrays only (of a training)
    micrographs/ masks/ particles/ source/

Paths in the tables are relative to the folder. Nothing here needs torch: the Scipion side reads
the same files through the same functions.
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
from cryogem_scipion.engine.io.files import PARTIAL, replacing

__all__ = ["EXTRACTED", "FIGURES", "MANIFEST", "MICROGRAPHS", "PARTIAL", "PARTICLES", "README", "Contrast", "Manifest",
           "Source", "inside", "plain_name", "quoted_path", "read_blocks", "read_manifest", "read_table", "replacing",
           "table_text", "unquoted_path", "write_manifest", "write_table"]

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
MICROGRAPHS = "micrographs.star"
PARTICLES = "particles.star"
EXTRACTED = "extracted.star"
FIGURES = "figures.npz"
README = "README.txt"


NAMES = ["rlnMicrographName", "rlnImageName", "cryogemMask", "cryogemOriginal", "cryogemSource"]
"""Columns that stay text even where every name is a number."""


class Contrast(BaseModel):
    """How strong the particles are against the noise; see ``scale``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    snr: float = Field(gt=0, description="variance of the signal over that of the noise, at the working pixel size")
    background_deviation: float = Field(gt=0, description="deviation of the background over its mean")
    signal_deviation: float = Field(gt=0, description="deviation of s inside the masks: sqrt(snr) background_deviation")
    scale: float = Field(gt=0, description="projections (density x Angstrom) are multiplied by this")

    def brought_to(self, snr: float, background_deviation: float) -> "Contrast":
        """Return the contrast of the same particles at another signal-to-noise ratio and noise."""
        signal = snr**0.5 * background_deviation
        return Contrast(snr=snr, background_deviation=background_deviation, signal_deviation=signal,
                        scale=self.scale * signal / self.signal_deviation)


class Source(BaseModel):
    """A file that the folder was made from, copied to ``source/``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str = Field(description="relative to the folder")
    origin: str = Field(description="where it was read from")
    sha256: str


class Manifest(BaseModel):
    """Schema of manifest.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format_version: int = FORMAT_VERSION
    stage: Literal["simulate", "train", "generate", "import-model", "phantom", "evaluate", "picks", "poses", "export",
                   "preview"]
    version: str = Field(description="of this program")
    libraries: dict[str, str] = Field(description="versions of what the numbers depend on")
    processor: dict[str, str] = Field(
        default_factory=dict, description="what it was computed on; the last bit of the images depends on it")
    settings: dict[str, Any] = Field(description="of the stage, as given")
    simulation: dict[str, Any] | None = Field(
        default=None, description="settings of the simulation behind a generated set")
    seed: int
    pixel_size: float = Field(gt=0, description="of the micrographs, Angstrom per pixel")
    micrographs: int = Field(ge=0)
    particles: int = Field(default=0, ge=0, description="rows of particles.star")
    whole_particles: int = Field(default=0, ge=0, description="those whose box lies inside the micrograph")
    box_size: int | None = None
    particle_diameter_angstrom: float | None = None
    contrast: Contrast | None = None
    model: str | None = Field(default=None, description="the noise model, relative to the folder")
    sources: tuple[Source, ...] = ()
    warnings: tuple[str, ...] = ()
    figures: dict[str, float] = Field(default_factory=dict, description="what the stage measured")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, the last file of a stage; figures that are no numbers stay out of it."""
    # JSON has no word for them, and a manifest that cannot be read makes the whole folder worthless.
    figures = {name: value for name, value in manifest.figures.items() if math.isfinite(value)}
    manifest = manifest.model_copy(update={"figures": figures})
    with replacing(folder / MANIFEST) as path:
        path.write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a folder; ``DataError`` when there is none that this program can read."""
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError:
        raise DataError(f"{folder} has no {MANIFEST}; give a folder that a cryogem stage finished") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); make the folder again") from None
    found = values.get("format_version") if isinstance(values, dict) else None
    if isinstance(found, int) and found > FORMAT_VERSION:
        raise DataError(f"{path} has format {found}, newer than {FORMAT_VERSION}; update cryogem")
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "top level"
        raise DataError(f"{path} is not a cryogem manifest ({place}: {first['msg']}); make the folder again") from None


def write_table(path: Path, name: str, optics: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Write a RELION 3.1 STAR file: the optics table, then ``name`` (``micrographs`` or ``particles``)."""
    with replacing(path) as temporary:
        temporary.write_text(table_text({"optics": optics, name: rows}), "utf-8")


def table_text(tables: dict[str, pd.DataFrame]) -> str:
    """Return named tables as the text of a STAR file; equal tables give equal texts."""
    # The library's first line holds the time of writing.
    text: str = starfile.to_string(tables)
    return text.partition("\n")[2].lstrip()


def read_table(path: Path, name: str, columns: tuple[str, ...] = ()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the optics and the named table of a STAR file.

    Raises
    ------
    DataError
        The file is missing, no STAR file, or lacks one of ``columns``.
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
    """Return every table of a STAR file by its name; ``DataError`` when there is no such file."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; give a STAR file")
    # The library forgets the lines of a file when it has read it, but not when it has failed to.
    linecache.clearcache()
    try:
        found = starfile.read(path, always_dict=True, parse_as_string=NAMES)
        blocks = {str(name): _frame(block) for name, block in found.items()}
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, OSError,
            pd.errors.ParserError) as error:
        raise DataError(f"{path} cannot be read as STAR ({error}); check the file") from None
    for name, block in blocks.items():
        twice = block.columns[block.columns.duplicated()]
        if len(twice):
            raise DataError(f"{path} has the column {twice[0]} twice in data_{name}; remove one")
    return blocks


def _frame(block: Any) -> pd.DataFrame:
    """A table as a data frame, also where starfile found a simple block of one row."""
    return block if isinstance(block, pd.DataFrame) else pd.DataFrame([block])


def inside(folder: Path, name: str) -> Path:
    """Return ``folder / name``; ``DataError`` when that leaves the folder."""
    try:
        path = (folder / str(name)).resolve()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in it, a loop of links, longer than names may be
        raise DataError(f"{name!r} is no name of a file in {folder} ({error}); correct the table") from None
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{name!r} lies outside {folder}; the folder's tables may only name files inside it")
    return path


def plain_name(name: str) -> str:
    """Return a file name in letters that every reader of STAR tables takes: RELION knows no quotes around blanks."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def quoted_path(path: str | Path) -> str:
    """Return any path as a word for a STAR table: blanks, quotes, ``#`` and other letters as ``%20`` and so on."""
    return quote_from_bytes(os.fsencode(path))


def unquoted_path(word: str) -> str:
    """Return the path that ``quoted_path`` wrote."""
    return os.fsdecode(unquote_to_bytes(word))
