# SPDX-License-Identifier: GPL-3.0-or-later
"""Number of threads. The number changes no result, not even in the last bit.

The last bit of a sum, a matrix product or a convolution depends on how many threads share the work. So one image is
computed on one thread. Several threads work on different images, or on other parts that are independent.
"""
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

__all__ = ["available_threads", "blas_on_one_thread", "one_thread", "parallel_map", "set_up_worker_thread",
           "torch_threads"]

T = TypeVar("T")
R = TypeVar("R")

_thread_local = threading.local()


def available_threads() -> int:
    """Return how many threads the caller may use for independent parts of its work."""
    count: int = getattr(_thread_local, "count", 0)
    return count or torch.get_num_threads()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch, and the linear algebra of numpy and scipy, use one thread inside the block.

    ``available_threads`` does not change.
    """
    before = getattr(_thread_local, "count", 0)
    _thread_local.count = available_threads()
    try:
        with blas_on_one_thread(), torch_threads(1):
            yield
    finally:
        _thread_local.count = before


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Let the linear algebra of numpy and scipy use one thread inside the block, whichever thread calls it."""
    with _linear_algebra_libraries().limit(limits=1, user_api="blas"):
        yield


def set_up_worker_thread(count: int) -> None:
    """Prepare a worker thread: torch uses one thread in it, and ``available_threads`` returns ``count``."""
    torch.set_num_threads(1)
    _thread_local.count = count


def parallel_map(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return ``work(item)`` for every item, each computed on one of the available threads.

    The results must not depend on each other: the order of the work is not fixed.
    """
    threads = min(available_threads(), len(items))
    if threads <= 1:
        with one_thread():
            return [work(item) for item in items]
    before = torch.get_num_threads()
    try:
        with (blas_on_one_thread(),
              ThreadPoolExecutor(threads, initializer=set_up_worker_thread, initargs=(1,)) as pool):
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(before)  # the workers changed the default for new threads


@lru_cache(maxsize=1)
def _linear_algebra_libraries() -> ThreadpoolController:
    """Control of the loaded libraries for linear algebra."""
    import numpy.linalg  # noqa: F401
    import scipy.linalg  # noqa: F401
    return ThreadpoolController()
