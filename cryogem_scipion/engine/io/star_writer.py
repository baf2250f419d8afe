# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes STAR tables of any length in little memory: rows go to disk at once."""
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO

import pandas as pd

from cryogem_scipion.engine.io.dataset import replacing, table_text

__all__ = ["StarTableWriter"]


class StarTableWriter:
    """Writer of a RELION 3.1 STAR file. Rows are appended in batches, and ``finish`` writes the file.

    Until then the rows are in an unnamed temporary file, which disappears with the process.

    Parameters
    ----------
    path
        The STAR file.
    name
        Name of the table: ``micrographs`` or ``particles``.
    """

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        self._rows = tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent)  # noqa: SIM115
        self._head: pd.DataFrame | None = None
        weakref.finalize(self, _discard, self._rows)

    def append(self, rows: pd.DataFrame) -> None:
        """Add rows; every batch has the same columns, and texts contain no blanks."""
        if self._head is None:
            self._head = rows.iloc[:0]
        columns = [[f"{value:.6f}" for value in column.tolist()] if column.dtype.kind == "f"
                   else [str(value) for value in column.tolist()] for _, column in rows.items()]
        self._rows.writelines("\t".join(row) + "\n" for row in zip(*columns, strict=True))

    def finish(self, optics: pd.DataFrame) -> None:
        """Write the file: the optics table, then all rows."""
        head = pd.DataFrame() if self._head is None else self._head
        with replacing(self.path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(table_text({"optics": optics, self.name: head}).rstrip("\n") + "\n")
            self._rows.seek(0)
            shutil.copyfileobj(self._rows, file)
        self._rows.close()


def _discard(file: IO[str]) -> None:
    with suppress(OSError):  # the disk may be full, and nobody needs the rows any more
        file.close()
