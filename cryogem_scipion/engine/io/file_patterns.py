# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that match names and patterns of the command line."""
import glob
from collections.abc import Sequence
from pathlib import Path

from cryogem_scipion.engine.errors import DataError

__all__ = ["matching_files"]


def matching_files(patterns: Sequence[str], expected: str) -> list[Path]:
    """Return the files that match names and patterns, sorted, each once.

    Parameters
    ----------
    patterns
        File names, or patterns with wildcards such as ``real/*.mrc``.
    expected
        Kind of the files, for the message: ``real micrographs (MRC)``.

    Raises
    ------
    DataError
        No file matches a name or pattern.
    """
    files: set[Path] = set()
    for pattern in patterns:
        # The name of an existing file may contain wildcard characters.
        names = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)
        if not names:
            raise DataError(f"no file matches {pattern}; give {expected}")
        files.update(Path(name) for name in names)
    return sorted(files)
