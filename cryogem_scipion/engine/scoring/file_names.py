# SPDX-License-Identifier: GPL-3.0-or-later
"""Matching of the names that different programs give to the same micrograph."""
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from cryogem_scipion.engine.errors import DataError

__all__ = ["match_file_names"]

# Suffixes of image files; any other text after a dot belongs to the name.
IMAGE_SUFFIX = re.compile(r"\.(mrcs?|tiff?|st|png|jpe?g|eer|spi|hdf)$", re.IGNORECASE)
# cryoSPARC puts a unique number of 21 digits before each name.
CRYOSPARC_NUMBER = re.compile(r"^\d{21}_")


def match_file_names(known_files: Iterable[str], other_files: Iterable[str]) -> dict[str, str]:
    """Return the known file that each other name stands for.

    Names are compared from their end, without the suffix, and with as many folders as are needed to tell the known
    files apart. So ``Micrographs/a.mrc``, ``/data/a.mrc`` and Topaz's ``a`` all match ``mics/a.mrc``, unless two known
    folders have a file ``a``.

    Parameters
    ----------
    known_files
        Names of the known files.
    other_files
        Names of the same files as another program writes them.

    Returns
    -------
    Known name of each other name; names without a known file are left out.

    Raises
    ------
    DataError
        A name matches several known files, or two names match the same file.
    """
    files = sorted(set(known_files))
    depth = _distinguishing_depth(files)
    by_key = {_key(file, depth): file for file in files}
    name_counts = Counter(_key(file, 1) for file in files)
    matches: dict[str, str] = {}
    matched_by: dict[str, str] = {}
    for other in sorted(set(other_files)):
        key = _key(other, depth)
        file = by_key.get(key)
        if file is None:
            if len(key) < depth and name_counts[key[-1:]] > 1:
                raise DataError(f"{other!r} matches {name_counts[key[-1:]]} files of the truth; give names with their "
                                "folders")
            continue
        if file in matched_by:
            raise DataError(f"{matched_by[file]!r} and {other!r} both match {file}; rename one of them, or give names "
                            "with their folders")
        matches[other], matched_by[file] = file, other
    return matches


def _distinguishing_depth(files: list[str]) -> int:
    """How many parts of a path, counted from its end, are needed to tell all files apart."""
    deepest = max((len(PurePosixPath(file).parts) for file in files), default=1)
    for depth in range(1, deepest + 1):
        if len({_key(file, depth) for file in files}) == len(files):
            return depth
    return deepest


def _key(name: str, depth: int) -> tuple[str, ...]:
    """The last ``depth`` parts of a path, without the file's suffix."""
    *folders, last = PurePosixPath(name.replace("\\", "/")).parts or ("",)
    return (*folders, CRYOSPARC_NUMBER.sub("", IMAGE_SUFFIX.sub("", last)))[-depth:]
