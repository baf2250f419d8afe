# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress with the time left: a bar on a terminal, a plain line every few seconds elsewhere, a file for others."""
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from cryogem_scipion.engine.io.dataset import replacing

__all__ = ["PROGRESS", "Progress", "duration", "read_progress", "tracked"]

T = TypeVar("T")
log = logging.getLogger("cryogem")
PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """How far a run is; kept in its folder until the work is done."""

    what: str
    done: int
    total: int
    seconds_left: float | None
    """None before the first item is done."""
    note: str

    def __str__(self) -> str:
        """As people read it."""
        left = "" if self.seconds_left is None else f", {duration(self.seconds_left)} left"
        return f"{self.what} {self.done}/{self.total}{left}{f', {self.note}' if self.note else ''}"


def tracked(items: Iterable[T], total: int, what: str, *, done: int = 0, seconds: float = 5.0,
            note: Callable[[T], str] = lambda item: "", folder: Path | None = None) -> Iterator[T]:
    """Yield the items and show how many are done and how long the rest takes.

    Parameters
    ----------
    items
        What there is left to do.
    total, done
        The whole number, and how many were done in an earlier run.
    what
        Name of the work, for people.
    seconds
        Between two plain lines.
    note
        What else to say of an item.
    folder
        Of the run: ``read_progress`` tells from it how far the work is. Nothing of that is left at its end.
    """
    _record(folder, Progress(what, done, total, None, ""))
    with tqdm(total=total, initial=done, desc=what, unit="", dynamic_ncols=True,
              disable=not sys.stderr.isatty()) as bar:
        start = last = time.monotonic()
        for number, item in enumerate(items, done + 1):
            yield item
            bar.set_postfix_str(note(item), refresh=False)
            bar.update()
            now = time.monotonic()
            if now - last >= seconds or number == total:
                last = now
                state = Progress(what, number, total, (now - start) / (number - done) * (total - number), note(item))
                _record(folder, state)
                if bar.disable:
                    log.info("%s", state)
    if folder is not None:
        (folder / PROGRESS).unlink(missing_ok=True)


def read_progress(folder: Path) -> Progress | None:
    """Return how far a run is, or was when it stopped; None where that is not known."""
    try:
        return Progress(**json.loads((folder / PROGRESS).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def duration(seconds: float) -> str:
    """A time span as people read it: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _record(folder: Path | None, state: Progress) -> None:
    if folder is not None:
        with replacing(folder / PROGRESS) as path:
            path.write_text(json.dumps(asdict(state)), "utf-8")
