"""How long a capacity search takes: six batchers on one workload, Llama-3.1-8B on an H100, `azure-conv`, the default requests.

    python bench/capacity.py [--requests N] [--jobs 1,2]

Wall-clock time of one search after another in one process pool, workers' start included; the capacities beside it show
that the searches are real, and that the number of jobs changes none of them.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from phasewise.control.resolve import resolve
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.planner.capacity import TOLERANCE, Capacity, capacities
from phasewise.planner.objective import percentiles
from phasewise.planner.source import source
from phasewise.planner.workers import Workers
from phasewise.report.rows import number, policy_text

OBJECTIVE = ("tbt=0.05@p99", "delay=2@p50")
BATCHERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("static", {}),
    ("orca", {}),
    ("vllm-v0", {}),
    ("vllm-v1", {"token_budget": 2048}),
    ("sarathi", {"token_budget": 512}),
    ("wait", {"threshold": 2, "max_wait_s": 0.1}),
)


def searched(specs: list[PolicySpec], requests: int | None, jobs: int) -> tuple[list[Capacity], float]:
    """All capacities, and the seconds that they took."""
    began = time.perf_counter()
    arms = [resolve(Deployment("meta-llama/Llama-3.1-8B", (ReplicaSpec("h100"),), s, max_context=8192)) for s in specs]
    with Workers(jobs) as workers:
        found = capacities(arms, source("azure-conv", requests), percentiles(OBJECTIVE), TOLERANCE, workers)
    return found, time.perf_counter() - began


def main() -> None:
    """Search with each number of jobs, compare, print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int)
    parser.add_argument("--jobs", default="1,2", help="numbers of processes, such as 1,2")
    given = parser.parse_args()
    specs = [PolicySpec(name, params) for name, params in BATCHERS]
    runs = {int(jobs): searched(specs, given.requests, int(jobs)) for jobs in given.jobs.split(",")}
    first = next(iter(runs.values()))[0]
    assert all(found == first for found, _ in runs.values()), "the number of jobs changed a result"
    took = ", ".join(f"{wall_s:.1f} s with {jobs} jobs" for jobs, (_, wall_s) in runs.items())
    table = Table(title=f"{' and '.join(OBJECTIVE)}, {first[0].requests:,} requests: {took}")
    for name in ("batcher", "capacity, requests/s", "bound by", "simulations"):
        table.add_column(name)
    for spec, capacity in zip(specs, first, strict=True):
        cells = (number(capacity.rate), ", ".join(capacity.bound_by), str(1 + len(capacity.probes)))
        table.add_row(policy_text(spec), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
