# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are whole or not there, in folders that one process writes at a time."""
import fcntl
import os
import tempfile
from pathlib import Path

__all__ = ["PARTIAL", "claim", "release", "replacing"]

PARTIAL = ".partial-"
"""Beginning of the names of files that are still written; a killed run leaves one or two, the next removes them."""


class replacing:
    """A temporary path that takes the final name when the block ends well, and vanishes when not.

    A file under its final name is therefore always whole.
    """

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(prefix=PARTIAL, suffix=self.path.suffix, dir=self.path.parent)
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
    """The process's file mode mask, read the only way there is."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


# Folders that this process writes, with the handles that lock them.
_claimed: dict[Path, int] = {}


def claim(folder: Path) -> bool:
    """Keep other processes from writing a folder, until ``release`` or the end of this one; false when one does."""
    if folder in _claimed:
        return True
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:  # a file system that cannot lock
        os.close(handle)
    else:
        _claimed[folder] = handle
    return True


def release() -> None:
    """Let go of all claimed folders."""
    while _claimed:
        os.close(_claimed.popitem()[1])
