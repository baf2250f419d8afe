# SPDX-License-Identifier: GPL-3.0-or-later
"""Failures of a run: their messages, and the files that they leave."""
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryogem_scipion.engine.errors import CryogemError, DataError
from cryogem_scipion.engine.io.dataset import MANIFEST
from cryogem_scipion.engine.io.files import unlock_folders
from cryogem_scipion.engine.settings import RunSettings

__all__ = ["handle_failures", "one_line"]

CONTINUE = "; the same command then continues the run"
REMEDIES = {
    errno.ENOSPC: "free some space on the disk" + CONTINUE,
    errno.EDQUOT: "free some space in your quota" + CONTINUE,
    errno.EACCES: "allow this user to read and write there",
    errno.EPERM: "allow this user to read and write there",
    errno.EROFS: "choose another out",
    errno.EIO: "check the disk" + CONTINUE,
    errno.ESTALE: "mount the disk" + CONTINUE,
    errno.EMFILE: "raise the limit of open files (ulimit -n)" + CONTINUE,
    errno.ENFILE: "close other programs" + CONTINUE,
    errno.ENAMETOOLONG: "use shorter names"}


@contextmanager
def handle_failures(settings: RunSettings) -> Iterator[None]:
    """Run a stage inside the block: a failure of the machine becomes a message of one line.

    A new run that refuses its input removes the files that it has written. A run that was stopped (killed, disk full)
    keeps its files, so that the same command continues.

    Raises
    ------
    CryogemError
        The error of the stage, unchanged.
    DataError
        The disk is full or cannot be written, or the memory is too small.
    """
    out = settings.out
    missing, is_new = _state_before(out)
    try:
        yield
    except CryogemError:
        if is_new and not (out / MANIFEST).is_file():
            _clear(out, missing)
        raise
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        where = error.filename or out
        raise DataError(f"{where}: {os.strerror(error.errno)}; {REMEDIES[error.errno]}") from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        where = "the GPU's memory" if "CUDA" in str(error) else "memory"
        raise DataError(f"{where} is too small ({one_line(str(error)).partition('. ')[0]}); "
                        f"{settings.memory_remedy}") from error
    finally:
        unlock_folders()


def one_line(text: str) -> str:
    """Return a message on one line, without control characters: file names may contain them."""
    words = " ".join(text.split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in words)


def _is_out_of_memory(error: BaseException) -> bool:
    # torch reports it in several ways, by version and device; only one of them has its own class.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" \
        or "not enough memory" in str(error) or "can't allocate memory" in str(error)


def _state_before(out: Path) -> tuple[list[Path], bool]:
    """Folders that the run has to create, innermost first, and whether the run is new."""
    try:
        missing = [folder for folder in (out, *out.parents) if not folder.exists()]
        if os.environ.get("RANK", "0") != "0":  # of several processes only the first creates the folder
            return [], False
        return missing, out in missing or (out.is_dir() and not any(out.iterdir()))
    except (OSError, ValueError):  # the folder cannot be read; the stage will say so
        return [], False


def _clear(out: Path, missing: list[Path]) -> None:
    """Remove the files of a run that began in an empty folder, and the folders that did not exist before."""
    for path in out.iterdir() if out.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for folder in missing:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
