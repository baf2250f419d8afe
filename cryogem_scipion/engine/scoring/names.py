# SPDX-License-Identifier: GPL-3.0-or-later
"""The same micrograph under the names that different programs give it."""
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from cryogem_scipion.engine.errors import DataError

__all__ = ["same_files"]

# Endings of images; what else follows a dot belongs to the name.
IMAGES = re.compile(r"\.(mrcs?|tiff?|st|png|jpe?g|eer|spi|hdf)$", re.IGNORECASE)
# cryoSPARC puts a unique number of 21 digits before names.
UNIQUE = re.compile(r"^\d{21}_")


def same_files(known: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Return which of the known files each of the others is; those that are none of them are left out.

    Names are compared from their end, without the image's ending, and with as many folders as it takes to tell the
    known files apart: ``Micrographs/a.mrc``, ``/data/a.mrc`` and Topaz's ``a`` are the same file as ``mics/a.mrc``
    unless there is an ``a`` in two folders.

    Raises
    ------
    DataError
        A name may mean several of the known files, or two names mean one.
    """
    files = sorted(set(known))
    depth = _telling_depth(files)
    by_key = {_key(file, depth): file for file in files}
    short = Counter(_key(file, 1) for file in files)
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for other in sorted(set(others)):
        key = _key(other, depth)
        file = by_key.get(key)
        if file is None:
            if len(key) < depth and short[key[-1:]] > 1:
                raise DataError(f"{other!r} may be any of {short[key[-1:]]} files of that name in the truth; give "
                                "names with their folders")
            continue
        if file in taken:
            raise DataError(f"{taken[file]!r} and {other!r} are both {file} by name; rename one, or give names with "
                            "their folders")
        found[other], taken[file] = file, other
    return found


def _telling_depth(files: list[str]) -> int:
    """How many parts of the names, from their end, tell all files apart."""
    deepest = max((len(PurePosixPath(file).parts) for file in files), default=1)
    for depth in range(1, deepest + 1):
        if len({_key(file, depth) for file in files}) == len(files):
            return depth
    return deepest


def _key(name: str, depth: int) -> tuple[str, ...]:
    """The last parts of a path, the file's name without its ending."""
    *folders, last = PurePosixPath(name.replace("\\", "/")).parts or ("",)
    return (*folders, UNIQUE.sub("", IMAGES.sub("", last)))[-depth:]
