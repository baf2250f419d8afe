# SPDX-License-Identifier: GPL-3.0-or-later
"""How many threads may work, and why no result tells how many did.

The last bit of a sum, a matrix product or a convolution depends on how many threads share it. So what belongs to one
image is computed on one thread, and threads are used for images, or other parts that know nothing of each other.
"""
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

__all__ = ["available_threads", "begin_worker", "blas_on_one_thread", "one_thread", "parallel_map", "torch_threads"]

T = TypeVar("T")
R = TypeVar("R")

_own = threading.local()


def available_threads() -> int:
    """Return how many threads the caller may use for parts that know nothing of each other."""
    count: int = getattr(_own, "count", 0)
    return count or torch.get_num_threads()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch work on so many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch, and what numpy and scipy use for linear algebra, work on one thread in the block.

    ``available_threads`` stays what it was.
    """
    before = getattr(_own, "count", 0)
    _own.count = available_threads()
    try:
        with blas_on_one_thread(), torch_threads(1):
            yield
    finally:
        _own.count = before


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Let what numpy and scipy use for linear algebra work on one thread in the block, in every thread."""
    with _libraries().limit(limits=1, user_api="blas"):
        yield


def begin_worker(count: int) -> None:
    """Begin a thread that works beside others: one for each operation of torch, ``count`` for independent parts."""
    torch.set_num_threads(1)
    _own.count = count


def parallel_map(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return ``work(item)`` for every item, each computed on one of the available threads.

    What the items give must not depend on each other: they are worked on in any order.
    """
    threads = min(available_threads(), len(items))
    if threads <= 1:
        with one_thread():
            return [work(item) for item in items]
    before = torch.get_num_threads()
    try:
        with (blas_on_one_thread(),
              ThreadPoolExecutor(threads, initializer=begin_worker, initargs=(1,)) as pool):
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(before)  # what a thread sets becomes the default of those to come


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    """The libraries for linear algebra that are loaded."""
    import numpy.linalg  # noqa: F401
    import scipy.linalg  # noqa: F401
    return ThreadpoolController()
