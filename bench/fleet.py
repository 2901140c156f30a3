"""How a fleet scales: Llama-3.1-8B on H100s, Sarathi-Serve with a budget of 512, `azure-conv`, 5 requests/s a replica.

    python bench/fleet.py [--router NAME] [--fleets 64:200000,1000:1000000]

Requests go to the fewest pending tokens unless told otherwise, so that replicas report; the log is streamed to a file in a
temporary folder. Every row is one fresh process. `wall` runs from the first event to the finished summary, `cpu` is what
the process used in it: on a busy machine the two part.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from rich.console import Console
from rich.table import Table

FLEETS = "64:200000,1000:1000000"
ONE = """
import resource, sys, time
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Slo
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
replicas, requests, router, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
workload = load("azure-conv", rate=5.0 * replicas, requests=requests, seed=0)
deployment = Deployment(
    "meta-llama/Llama-3.1-8B", (ReplicaSpec("h100", replicas),), PolicySpec("sarathi", {"token_budget": 512}),
    PolicySpec(router), slo=Slo(ttft_s=1.0, tpot_s=0.05),
)
began = time.process_time()
summary = simulate(deployment, workload, log=path).summary
cpu = time.process_time() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert summary["completed"] == requests
print(summary["wall_s"], cpu, peak / 1024, summary["events"] / requests)
"""


def one(replicas: int, requests: int, router: str, folder: Path) -> tuple[float, float, float, float, float]:
    """Wall and processor seconds, peak MiB, events and log bytes a request: of one run in a fresh process."""
    path = folder / f"{replicas}.log"
    done = subprocess.run(
        [sys.executable, "-c", ONE, str(replicas), str(requests), router, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    wall, cpu, peak, events = map(float, done.stdout.split())
    size = path.stat().st_size
    path.unlink()
    return wall, cpu, peak, events, size / requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--router", default="least-pending")
    parser.add_argument("--fleets", default=FLEETS, metavar="REPLICAS:REQUESTS,...")
    options = parser.parse_args()
    table = Table(title=f"{options.router}; python {sys.version.split()[0]}, numpy {numpy.__version__}")
    headings = (
        "replicas",
        "requests",
        "wall s",
        "cpu s",
        "requests/s",
        "peak MiB",
        "events/request",
        "log bytes/request",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for fleet in options.fleets.split(","):
            replicas, requests = map(int, fleet.split(":"))
            wall, cpu, peak, events, size = one(replicas, requests, options.router, Path(folder))
            row = (
                f"{wall:.1f}",
                f"{cpu:.1f}",
                f"{requests / wall:,.0f}",
                f"{peak:,.0f}",
                f"{events:.2f}",
                f"{size:.0f}",
            )
            table.add_row(f"{replicas:,}", f"{requests:,}", *row)
    Console(width=120).print(table)
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
