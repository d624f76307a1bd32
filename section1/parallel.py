"""Threads for NumPy: while a matrix product runs, the interpreter is free for another thread.

Two layers of threads would fight for the cores, so the linear-algebra library under NumPy
is held to one thread, and the course hands out the work itself. That also makes a result
independent of the number of cores: the library's own split of a product would round
differently on another machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")


def available_threads() -> int:
    """The number of cores that this process may run on; a quota of their time does not count."""
    if hasattr(os, "sched_getaffinity"):  # honours cpusets and taskset; Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # searching the loaded libraries takes a millisecond


def one_blas_thread() -> AbstractContextManager:
    """A context in which each matrix product runs on the thread that asked for it."""
    return _controller().limit(limits=1, user_api="blas")


class Workers:
    """A few threads that share out numbered jobs; the caller is one of them.

    Job i goes to worker i mod `threads`. Which worker does a job never changes its
    result, so the number of threads is a matter of speed alone.
    """

    def __init__(self, threads: int | None = None):
        self.threads = available_threads() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"the number of threads must be at least 1, got {threads}")
        self._pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None

    def map(self, function: Callable[..., T], *columns: Iterable) -> list[T]:
        """[function(a, b, ...) for a, b, ... in zip(*columns)], on all threads."""
        jobs = list(zip(*columns))
        if self._pool is None or len(jobs) < 2:
            return [function(*job) for job in jobs]
        results: list = [None] * len(jobs)

        def work(first: int) -> None:
            for index in range(first, len(jobs), self.threads):
                results[index] = function(*jobs[index])

        helpers = [
            self._pool.submit(copy_context().run, work, first)  # np.errstate goes along
            for first in range(1, min(self.threads, len(jobs)))
        ]
        try:
            work(0)
        finally:  # never leave with a thread still writing
            errors = [helper.exception() for helper in helpers]
        for error in errors:
            if error is not None:
                raise error
        return results

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
