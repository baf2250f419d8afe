# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress of a run with the time left: a bar on a terminal, plain lines elsewhere, and a file for Scipion."""
import json
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol, TypeVar

from tqdm import tqdm

from cryogem_scipion.engine.io.dataset import replacing

__all__ = ["PROGRESS", "Progress", "duration", "read_progress", "run_steps", "track_progress"]


class TrainingStep(Protocol):
    """Record of a step of a training."""

    @property
    def step(self) -> int:
        """Number of finished steps, from 1."""
        ...


T = TypeVar("T")
Record = TypeVar("Record", bound=TrainingStep)
log = logging.getLogger("cryogem")
PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """Progress of a run; a file in the run's folder holds it until the run has ended."""

    what: str
    """Name of the work, for people: ``training step``."""
    done: int
    """Number of finished items."""
    total: int
    seconds_left: float | None
    """None before the first item is done."""
    note: str
    """Further text, such as losses."""

    def __str__(self) -> str:
        """Progress as one line of text."""
        left = "" if self.seconds_left is None else f", {duration(self.seconds_left)} left"
        return f"{self.what} {self.done}/{self.total}{left}{f', {self.note}' if self.note else ''}"


def track_progress(items: Iterable[T], total: int, what: str, *, done: int = 0, seconds: float = 5.0,
                   note: Callable[[T], str] = lambda item: "", folder: Path | None = None) -> Iterator[T]:
    """Yield the items, and show how many are done and how much time the rest takes.

    Parameters
    ----------
    items
        The items that are left to do.
    total, done
        Number of all items, and of those that an earlier run has done.
    what
        Name of the work, for people: ``training step``.
    seconds
        Least time between two plain lines.
    note
        Returns further text for an item, such as losses.
    folder
        Folder of the run. The progress is written to a file there, for ``read_progress``. The file is removed at the
        end.
    """
    _write_progress(folder, Progress(what, done, total, None, ""))
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
                _write_progress(folder, state)
                if bar.disable:
                    log.info("%s", state)
    if folder is not None:
        (folder / PROGRESS).unlink(missing_ok=True)


def run_steps(records: Iterator[Record], steps: int, note: Callable[[Record], str], folder: Path) -> None:
    """Run all steps of a training that are left, and report the progress every few seconds.

    Parameters
    ----------
    records
        Yields the record of each step that is left.
    steps
        Number of steps of the whole training.
    note, folder
        As for ``track_progress``.
    """
    first = next(records, None)
    if first is not None:
        deque(track_progress(chain([first], records), steps, "training step", done=first.step - 1, note=note,
                             folder=folder), maxlen=0)


def read_progress(folder: Path) -> Progress | None:
    """Return the progress of a run, or of a stopped run; None when it is not known or the run has ended."""
    try:
        return Progress(**json.loads((folder / PROGRESS).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def duration(seconds: float) -> str:
    """Return a time span as text: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _write_progress(folder: Path | None, state: Progress) -> None:
    if folder is not None:
        with replacing(folder / PROGRESS) as path:
            path.write_text(json.dumps(asdict(state)), "utf-8")
