# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that names and patterns stand for."""
import glob
from collections.abc import Sequence
from pathlib import Path

from cryogem_scipion.engine.errors import DataError

__all__ = ["files_of"]


def files_of(patterns: Sequence[str], what: str) -> list[Path]:
    """Return the files that names and patterns stand for, sorted, each once.

    Raises
    ------
    DataError
        A name or pattern stands for nothing; the message asks for ``what``.
    """
    files: set[Path] = set()
    for pattern in patterns:
        # A file whose own name holds wildcard characters is meant as it is.
        found = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)
        if not found:
            raise DataError(f"{pattern} stands for no file; give {what}")
        files.update(Path(name) for name in found)
    return sorted(files)
