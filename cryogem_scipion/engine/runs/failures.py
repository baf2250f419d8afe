# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run says that cannot go on, and what it leaves behind."""
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryogem_scipion.engine.errors import CryogemError, DataError
from cryogem_scipion.engine.io.dataset import MANIFEST
from cryogem_scipion.engine.io.files import release
from cryogem_scipion.engine.settings import RunSettings

__all__ = ["guarded", "one_line"]

AGAIN = "; then the same command continues"
REMEDIES = {
    errno.ENOSPC: "make room on the disk" + AGAIN, errno.EDQUOT: "make room in your quota" + AGAIN,
    errno.EACCES: "allow this user to read and write there", errno.EPERM: "allow this user to read and write there",
    errno.EROFS: "choose another out", errno.EIO: "check the disk" + AGAIN, errno.ESTALE: "mount the disk" + AGAIN,
    errno.EMFILE: "raise the limit of open files (ulimit -n)" + AGAIN,
    errno.ENFILE: "close other programs" + AGAIN, errno.ENAMETOOLONG: "use shorter names"}


@contextmanager
def guarded(settings: RunSettings) -> Iterator[None]:
    """Run a stage: whatever the machine refuses becomes one line, and a refused new run leaves no files.

    A run that was stopped (killed, no room on the disk) keeps what it made, so that the same command continues.

    Raises
    ------
    CryogemError
        As the stage raised it; ``DataError`` in place of a full or closed disk, or too little memory.
    """
    out = settings.out
    missing, new = _before(out)
    try:
        yield
    except CryogemError:
        if new and not (out / MANIFEST).is_file():
            _clear(out, missing)
        raise
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        where = error.filename or out
        raise DataError(f"{where}: {os.strerror(error.errno)}; {REMEDIES[error.errno]}") from error
    except (MemoryError, RuntimeError) as error:
        if not _memory_is_out(error):
            raise
        where = "the GPU's memory" if "CUDA" in str(error) else "memory"
        raise DataError(f"{where} does not suffice ({one_line(str(error)).partition('. ')[0]}); "
                        f"lower {settings.weighs_most}") from error
    finally:
        release()


def one_line(text: str) -> str:
    """A message on one line, with nothing in it that a terminal would obey: file names may hold anything."""
    words = " ".join(text.split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in words)


def _memory_is_out(error: BaseException) -> bool:
    # torch has several kinds of it, by version and device; only one of them is a class of its own.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" \
        or "not enough memory" in str(error) or "can't allocate memory" in str(error)


def _before(out: Path) -> tuple[list[Path], bool]:
    """The folders that the run has to make, innermost first, and whether it is a new one."""
    try:
        missing = [folder for folder in (out, *out.parents) if not folder.exists()]
        if os.environ.get("RANK", "0") != "0":  # the first process of several makes the folder
            return [], False
        return missing, out in missing or (out.is_dir() and not any(out.iterdir()))
    except (OSError, ValueError):  # what cannot be looked at cannot be written: the stage says so
        return [], False


def _clear(out: Path, missing: list[Path]) -> None:
    """Remove what a run wrote into an empty folder, and the folders that were ``missing`` before."""
    for path in out.iterdir() if out.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for folder in missing:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
