"""Worker processes that cannot be orphaned. They know nothing of what they compute.

Each holds the reading end of a pipe whose writing end only the parent has: when the parent closes it, or is gone for
whatever reason, the worker ends at once, in the middle of what it computes. Interrupts of the terminal go to the parent alone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from types import TracebackType
from typing import Any, TypeVar

from phasewise.core.errors import PhasewiseError

T = TypeVar("T")


def cores() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """`jobs` processes; with one job, everything is computed here, when it is submitted."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool: Executor | None = None
        if jobs > 1:
            context = get_context("spawn")
            reader, self._leash = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(jobs, context, _begin, (reader,))
            self._reader = reader

    def submit(self, call: Callable[..., T], *arguments: Any) -> Future[T]:
        """`call(*arguments)` elsewhere; all of it must pickle."""
        if self._pool is not None:
            return self._pool.submit(call, *arguments)
        done: Future[T] = Future()
        try:
            done.set_result(call(*arguments))
        except PhasewiseError as error:
            done.set_exception(error)
        return done

    def gather(
        self,
        call: Callable[..., T],
        rows: Iterable[Sequence[Any]],
        progress: Callable[[int], None] | None = None,
    ) -> list[Future[T]]:
        """`call(*row)` of every row, in order, all of them done; `progress` is told how many are."""
        futures: list[Future[T]] = []
        for row in rows:
            futures.append(self.submit(call, *row))
            if progress is not None and self._pool is None:
                progress(len(futures))
        for done, _ in enumerate(as_completed(futures), start=1):
            if progress is not None and self._pool is not None:
                progress(done)
        return futures

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every worker, whatever it is at: the caller has all that it wants, or wants no more. PhasewiseError if one
        has died on its own."""
        if self._pool is not None:
            self._leash.close()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._reader.close()
        if isinstance(error, BrokenProcessPool):
            remedy = 'a script that uses several needs its code under `if __name__ == "__main__":`; or take one job'
            raise PhasewiseError(f"a worker process died, of memory perhaps; {remedy}") from error


def _begin(leash: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_follow, args=(leash,), daemon=True).start()


def _follow(leash: Connection) -> None:
    try:
        leash.recv()
    except (EOFError, OSError):
        os._exit(0)
