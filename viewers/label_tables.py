# SPDX-License-Identifier: GPL-3.0-or-later
"""Labels of large datasets, read in parts: a table of a million particles is never loaded as a whole."""
import io
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import MICROGRAPHS, PARTICLES, read_table
from cryogem_scipion.engine.simulation.optics import Optics

__all__ = ["micrograph_particles", "micrograph_rows", "particle_columns", "row_optics"]


def micrograph_rows(folder: Path) -> pd.DataFrame:
    """Return the rows of micrographs.star, each with the columns of its optics group."""
    optics, rows = read_table(folder / MICROGRAPHS, "micrographs", ("rlnMicrographName", "rlnOpticsGroup"))
    return rows.merge(optics, on="rlnOpticsGroup", how="left")


def row_optics(row: pd.Series) -> Optics:
    """Return the optics in a row of ``micrograph_rows``."""
    return Optics(*(float(row[name]) for name in (
        "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnDefocusU", "rlnDefocusV",
        "rlnDefocusAngle")), float(row.get("rlnPhaseShift", 0.0)))


def micrograph_particles(folder: Path, name: str) -> pd.DataFrame:
    """Return the rows of one micrograph in particles.star, where the rows of a micrograph are contiguous."""
    with _mapped_table(folder / PARTICLES) as (text, columns, start):
        if columns[0] != "rlnMicrographName":
            rows = read_table(folder / PARTICLES, "particles", ("rlnMicrographName",))[1]
            return rows[rows["rlnMicrographName"] == name]
        row_start = name.encode() + b"\t"
        first = text.find(b"\n" + row_start, start - 1) + 1
        if not first:
            return pd.DataFrame(columns=columns)
        text.seek(first)
        lines = []
        while (line := text.readline()).startswith(row_start):
            lines.append(line)
    return pd.read_csv(io.BytesIO(b"".join(lines)), sep="\t", names=columns)


def particle_columns(folder: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return the named columns of particles.star."""
    path = folder / PARTICLES
    with _mapped_table(path) as (text, file_columns, start):
        missing = [name for name in columns if name not in file_columns]
        if missing:
            raise DataError(f"{path} lacks {', '.join(missing)}; make the set again")
        text.seek(start)
        return pd.read_csv(text, sep=r"\s+", names=file_columns, usecols=list(columns))[list(columns)]


@contextmanager
def _mapped_table(path: Path) -> Iterator[tuple[mmap.mmap, list[str], int]]:
    """The memory-mapped file, the names of the particle table's columns, and the byte where its rows begin."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            text.seek(max(text.find(b"data_particles"), 0))
            columns, start = [], text.tell()
            while (line := text.readline()).startswith((b"data_", b"loop_", b"_")) or line in (b"\n", b"\r\n"):
                if line.startswith(b"_"):
                    columns.append(line.split()[0][1:].decode())
                start = text.tell()
            if not columns:
                raise DataError(f"{path} has no table of particles; make the set again")
            yield text, columns, start
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read ({error}); make the set again") from None
