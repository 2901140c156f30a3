"""Workers compute what they are given, and what goes wrong in one is told."""

from __future__ import annotations

import os

import pytest

from phasewise.core.errors import InputError, PhasewiseError
from phasewise.planner.workers import Workers, cores
from phasewise.workload.source import load


def test_several_compute_elsewhere_and_one_here() -> None:
    with Workers(2) as workers:
        assert workers.submit(os.getpid).result() != os.getpid()
    with Workers(1) as workers:
        assert workers.submit(os.getpid).result() == os.getpid()
    assert cores() >= 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_comes_back_as_it_is(jobs: int) -> None:
    with pytest.raises(InputError, match="unknown workload 'azure-cnv'; did you mean"), Workers(jobs) as workers:
        workers.submit(load, "azure-cnv").result()


def test_a_worker_that_dies_is_said_in_a_line() -> None:
    with (
        pytest.raises(PhasewiseError, match="a worker process died, of memory perhaps; a script"),
        Workers(2) as workers,
    ):
        workers.submit(os._exit, 1).result()


@pytest.mark.parametrize("jobs", [1, 2])
def test_rows_come_back_in_order_and_progress_is_told(jobs: int) -> None:
    told: list[int] = []
    with Workers(jobs) as workers:
        found = workers.gather(divmod, [(i, 3) for i in range(7)], told.append)
        assert [future.result() for future in found] == [divmod(i, 3) for i in range(7)]
    assert told == list(range(1, 8))
