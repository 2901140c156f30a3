"""How fast, and how large: Llama-3.1-8B on an H100, Sarathi-Serve with a budget of 512, `azure-conv`, 5 requests/s a replica.

    python bench/speed.py [--runs N] [--beside SCRIPT]

Every figure is a median over fresh processes. `wall` runs from the first event to the finished summary: exact blocks, log
and four scorers in, imports and workload out. `--beside` runs another simulator in turn with ours, as
`python SCRIPT TRACE.csv REPLICAS 1`, and prints the ratio of the requests per second that both report; the trace that it is
given holds the very requests that ours runs.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
from rich.console import Console
from rich.table import Table

from phasewise.workload.source import load

REQUESTS = 20_000
ONE = """
import resource, sys
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Slo
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
replicas, requests = int(sys.argv[1]), int(sys.argv[2])
workload = load("azure-conv", rate=5.0 * replicas, requests=requests, seed=0)
deployment = Deployment(
    "meta-llama/Llama-3.1-8B", (ReplicaSpec("h100", replicas),), PolicySpec("sarathi", {"token_budget": 512}),
    slo=Slo(ttft_s=1.0, tpot_s=0.05),
)
log = simulate(deployment, workload)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(log.summary["requests_per_wall_s"], log.nbytes / requests, peak / 1024, log.summary["events"] / requests)
"""


def ours(replicas: int, requests: int = REQUESTS) -> tuple[float, float, float, float]:
    """Requests per second, log bytes a request, peak MiB, events a request: of one run in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", ONE, str(replicas), str(requests)], capture_output=True, text=True, check=True
    )
    rate, log_bytes, peak, events = map(float, done.stdout.split())
    return rate, log_bytes, peak, events


def beside(script: str, trace: Path, replicas: int) -> float:
    """Requests per second that another simulator reports of itself."""
    done = subprocess.run(
        [sys.executable, script, str(trace), str(replicas), "1"], capture_output=True, text=True, check=True
    )
    found = re.search(r"([\d.]+) req/s", done.stdout)
    if found is None:
        raise SystemExit(f"{script} printed no 'N req/s'")
    return float(found.group(1))


def trace_of(replicas: int, folder: Path) -> Path:
    """The benchmark's requests as a plain CSV."""
    workload = load("azure-conv", rate=5.0 * replicas, requests=REQUESTS, seed=0)
    path = folder / f"{replicas}.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["arrival_s", "input_tokens", "output_tokens"])
        for request in workload.requests():
            rows.writerow([request.arrival_ns / 1e9, request.prompt_tokens, workload.truth.output_tokens(request.id)])
    return path


def command_s() -> float:
    """Seconds that the whole command takes, from the shell's point of view."""
    flags = "--model meta-llama/Llama-3.1-8B --device h100 --batcher sarathi --set batcher.token_budget=512"
    flags += f" --workload azure-conv --rate 5 --requests {REQUESTS}"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "phasewise", "simulate", *flags.split()], capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--beside", metavar="SCRIPT")
    options = parser.parse_args()
    table = Table(title=f"{REQUESTS:,} requests; python {sys.version.split()[0]}, numpy {numpy.__version__}")
    for heading in ("what", "requests/s", "best", "ratio", "log bytes/request", "peak MiB", "events/request"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    with tempfile.TemporaryDirectory() as folder:
        for replicas in (1, 8):
            trace = trace_of(replicas, Path(folder))
            runs, others = [], []
            for _ in range(options.runs):
                if options.beside:
                    others.append(beside(options.beside, trace, replicas))
                runs.append(ours(replicas))
            rate, log_bytes, peak, events = (statistics.median(column) for column in zip(*runs, strict=True))
            ratio = statistics.median(r[0] / o for r, o in zip(runs, others, strict=True)) if others else float("nan")
            best = max(r[0] for r in runs)
            row = (f"{rate:,.0f}", f"{best:,.0f}", f"{ratio:.2f}", f"{log_bytes:.0f}", f"{peak:.0f}", f"{events:.2f}")
            table.add_row(f"{replicas} replica{'s' * (replicas > 1)}", *row)
            if others:
                table.add_row("  beside", f"{statistics.median(others):,.0f}", f"{max(others):,.0f}")
    rate, log_bytes, peak, events = ours(1, 100_000)
    table.add_row("100,000 requests", f"{rate:,.0f}", "", "", f"{log_bytes:.0f}", f"{peak:.0f}", f"{events:.2f}")
    seconds = [command_s() for _ in range(options.runs)]
    table.add_row("whole command", f"{statistics.median(seconds):.2f} s", f"{min(seconds):.2f} s")
    Console(width=110).print(table)
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
