# SPDX-License-Identifier: GPL-3.0-or-later
"""Several micrographs at a time, each on one thread; the results keep their order."""
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from cryogem_scipion.engine.compute.threads import (
    available_threads,
    blas_on_one_thread,
    one_thread,
    set_up_worker_thread,
)
from cryogem_scipion.engine.errors import DataError

__all__ = ["check_memory", "map_in_order", "worker_count"]

T = TypeVar("T")
R = TypeVar("R")


def worker_count(device: torch.device, micrographs: int, bytes_each: int) -> int:
    """Return how many micrographs to work on at a time.

    Parameters
    ----------
    device
        On a CPU there is one worker for each available thread. On a GPU there are two: one computes while the other
        writes its files.
    micrographs
        Number of micrographs of the run.
    bytes_each
        Memory that one micrograph needs, in bytes. All workers together use at most half of the free memory.
    """
    workers = available_threads() if device.type == "cpu" else 2
    return max(1, min(workers, micrographs, _free_memory() // 2 // max(1, bytes_each)))


def check_memory(device: torch.device, bytes_each: int, remedy: str) -> None:
    """Refuse a run in which not even one micrograph fits into the memory.

    Parameters
    ----------
    device
        Only the memory of CPUs is checked. A GPU reports by itself when its memory is too small.
    bytes_each
        Memory that one micrograph needs, in bytes, roughly.
    remedy
        What the user can do, for the message: ``lower threads``.

    Raises
    ------
    DataError
        One micrograph needs more than the free memory.
    """
    if device.type == "cpu" and bytes_each > _free_memory():
        raise DataError(f"a micrograph needs about {bytes_each / 1e9:.0f} GB of memory, but only "
                        f"{_free_memory() / 1e9:.0f} GB are free; {remedy}")


def _free_memory() -> int:
    """Bytes that programs can still use, or all memory where the system does not report the free part."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def map_in_order(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield ``work(item)`` for each item in order, working on ``threads`` items at a time.

    One thread computes one item, so the number of threads changes no bit of a result. At most twice as many results as
    threads wait for the caller, so memory does not grow with the number of items. An error in one item stops all work.
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
        pool = ThreadPoolExecutor(threads, initializer=set_up_worker_thread, initargs=(share,))
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)  # the workers changed the default for new threads
