# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress with the time left: a bar on a terminal, a plain line every few seconds elsewhere."""
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

__all__ = ["duration", "tracked"]

T = TypeVar("T")
log = logging.getLogger("cryogem")


def tracked(items: Iterable[T], total: int, what: str, *, done: int = 0, seconds: float = 5.0,
            note: Callable[[T], str] = lambda item: "") -> Iterator[T]:
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
    """
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=what, unit="", dynamic_ncols=True) as bar:
            for item in items:
                yield item
                bar.set_postfix_str(note(item), refresh=False)
                bar.update()
        return
    start = last = time.monotonic()
    for number, item in enumerate(items, done + 1):
        yield item
        now = time.monotonic()
        if now - last >= seconds or number == total:
            last = now
            left = duration((now - start) / (number - done) * (total - number))
            extra = note(item)
            log.info("%s %d/%d, %s left%s", what, number, total, left, f", {extra}" if extra else "")


def duration(seconds: float) -> str:
    """A time span as people read it: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
