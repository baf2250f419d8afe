# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are never half written, and folders that only one process writes at a time."""
import fcntl
import os
import tempfile
from pathlib import Path

__all__ = ["PARTIAL_PREFIX", "lock_folder", "replacing", "unlock_folders"]

PARTIAL_PREFIX = ".partial-"
"""Prefix of the names of unfinished files. A killed run leaves one or two of them; the next run removes them."""


class replacing:
    """Context manager that gives a temporary path, and renames it to the final path at the end of the block.

    If the block raises an error, the temporary file is removed and the final path is left as it was. A file under its
    final name is therefore always complete.
    """

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(prefix=PARTIAL_PREFIX, suffix=self.path.suffix, dir=self.path.parent)
        os.close(handle)
        os.chmod(name, 0o666 & ~_umask())
        self.temporary = Path(name)
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            os.replace(self.temporary, self.path)
        else:
            self.temporary.unlink(missing_ok=True)


def _umask() -> int:
    """File mode mask of the process. It can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


# Folders that this process has locked, with the file handles that hold the locks.
_locked: dict[Path, int] = {}


def lock_folder(folder: Path) -> bool:
    """Lock a folder against other processes, until ``unlock_folders`` or the end of this process.

    Returns
    -------
    False when another process has locked the folder. True also where the file system has no locks.
    """
    if folder in _locked:
        return True
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:  # a file system without locks
        os.close(handle)
    else:
        _locked[folder] = handle
    return True


def unlock_folders() -> None:
    """Unlock all folders that this process has locked."""
    while _locked:
        os.close(_locked.popitem()[1])
