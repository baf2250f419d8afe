# SPDX-License-Identifier: GPL-3.0-or-later
"""STAR tables of any length in little memory: rows go to disk as they come."""
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO

import pandas as pd

from cryogem_scipion.engine.io.dataset import replacing, table_text

__all__ = ["GrowingTable"]


class GrowingTable:
    """A RELION 3.1 STAR file whose rows are appended one lot at a time; the file appears when it is finished.

    Until then the rows lie in a file without a name, which vanishes with the process.
    """

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        self._rows = tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent)  # noqa: SIM115
        self._head: pd.DataFrame | None = None
        weakref.finalize(self, _discard, self._rows)

    def append(self, rows: pd.DataFrame) -> None:
        """Add rows; every lot has the same columns, and texts without blanks."""
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
    with suppress(OSError):  # rows that wait to be written, on a disk that is full: nobody wants them any more
        file.close()
