# SPDX-License-Identifier: GPL-3.0-or-later
"""Micrographs side by side, each by one thread, handed on in their order."""
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from cryogem_scipion.engine.compute.threads import available_threads, begin_worker, blas_on_one_thread, one_thread
from cryogem_scipion.engine.errors import DataError

__all__ = ["check_memory", "in_order", "workers"]

T = TypeVar("T")
R = TypeVar("R")


def workers(device: torch.device, count: int, needed: int) -> int:
    """Return how many micrographs to work on at a time.

    Parameters
    ----------
    device
        A GPU needs a second one only, to compute while the first is written.
    count
        Of micrographs.
    needed
        Memory (bytes) that one takes; half of what is free may be used.
    """
    wanted = available_threads() if device.type == "cpu" else 2
    return max(1, min(wanted, count, _free_memory() // 2 // max(1, needed)))


def check_memory(device: torch.device, needed: int, remedy: str) -> None:
    """Refuse a run whose micrographs, one at a time, do not fit into the memory.

    Parameters
    ----------
    needed
        Memory (bytes) that one takes, roughly; on a GPU it is the GPU that says when it is too much.
    remedy
        What to lower.
    """
    if device.type == "cpu" and needed > _free_memory():
        raise DataError(f"a micrograph takes about {needed / 1e9:.0f} GB of memory and {_free_memory() / 1e9:.0f} GB "
                        f"are free; lower {remedy}")


def _free_memory() -> int:
    """Bytes that programs can still have, the system's caches included; all there is where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def in_order(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield ``work(item)`` for each item in order, working on a few at a time.

    Each is worked on by one thread, so that their number changes no bit. Never more than twice as many results as
    threads wait to be taken, so memory does not grow with the number of items. An error in one ends the whole.
    """
    if threads <= 1:
        for item in items:
            with one_thread():
                result = work(item)
            yield result
        return
    before = torch.get_num_threads()
    share = max(1, available_threads() // threads)
    waiting: deque[Future[R]] = deque()
    with blas_on_one_thread():
        pool = ThreadPoolExecutor(threads, initializer=begin_worker, initargs=(share,))
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)  # what a thread sets becomes the default of those to come
