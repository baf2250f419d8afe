# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of each step of a training, in a CSV file that viewers can follow."""
import csv
from collections.abc import Mapping
from pathlib import Path

from cryogem_scipion.engine.io.files import replacing

__all__ = ["CsvLog"]


class CsvLog:
    """CSV file to which rows are added; rows after the checkpoint of a stopped training are dropped."""

    def __init__(self, path: Path, columns: list[str], step: int) -> None:
        rows = []
        if path.is_file() and step:
            with path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file)
                        if (row["step"] or "").isdigit() and int(row["step"]) <= step]
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        # Line by line, so that viewers can follow the training.
        self._file = path.open("a", encoding="utf-8", newline="", buffering=1)
        self._writer = csv.DictWriter(self._file, columns, lineterminator="\n")

    def add(self, values: Mapping[str, int | float | None]) -> None:
        """Add a row.

        Parameters
        ----------
        values
            Values by column; None becomes an empty cell.
        """
        self._writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value
                               for name, value in values.items()})

    def __enter__(self) -> "CsvLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
