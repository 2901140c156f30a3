"""How much can one device take, and what does it feel like? The batchers side by side: a table and three pictures in `demo/`.

Run by `make demo`; a number of requests may be given, for a quicker look. It uses nothing but the public names of the package.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import phasewise
from phasewise.planner.pictures import draw
from phasewise.report import side_by_side

MODEL, DEVICE, WORKLOAD = "meta-llama/Llama-3.1-8B", "h100", "azure-conv"
RATE = 8.0
OBJECTIVE = ("tbt=0.05@p99", "delay=2@p50")
BATCHERS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("static", {}, "ends a batch before it starts the next: few pauses between tokens, seconds in the queue"),
    ("orca", {}, "admits whole prompts beside the decodes, and reserves the longest context for each"),
    ("vllm-v0", {}, "serves waiting prompts first, in iterations of their own: decodes stand still meanwhile"),
    ("vllm-v1", {}, "starts prompts at once, up to 2,048 tokens an iteration: everybody who decodes pauses for them"),
    (
        "sarathi",
        {"token_budget": 512},
        "cuts prompts into 512-token chunks: short pauses, a little more time to first token",
    ),
    (
        "wait",
        {"threshold": 2, "max_wait_s": 0.1},
        "gathers two prompts before each step, or 100 ms: fewer interruptions, but everybody waits for them",
    ),
)
FOLDER = Path("demo")


def main() -> None:
    """Search, print, draw."""
    began = time.perf_counter()
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    print(f"{MODEL} on one {DEVICE}, {requests:,} chat requests ({WORKLOAD}), {len(BATCHERS)} batchers.")
    print(f"Which rate can each take with {' and '.join(OBJECTIVE)} (seconds at a percentile)?\n")
    found = phasewise.compare(
        {name: deployment(name, params) for name, params, _ in BATCHERS},
        WORKLOAD,
        rate=RATE,
        objective=OBJECTIVE,
        requests=requests,
    )
    table(found)
    print()
    for name, _, about in BATCHERS:
        print(f"{name:10} {about}.")
    FOLDER.mkdir(exist_ok=True)
    names = draw(found, lambda name: FOLDER / name)
    print(f"\nPictures: {', '.join(str(FOLDER / name) for name in names)}.")
    print(
        f"Simulated; times rest on: {found.arms[0].deployment.basis}. All of it took {time.perf_counter() - began:.0f} s."
    )


def deployment(name: str, params: dict[str, Any]) -> phasewise.Deployment:
    """One replica under one batcher."""
    return phasewise.Deployment(
        model=MODEL,
        replicas=(phasewise.ReplicaSpec(DEVICE),),
        batcher=phasewise.PolicySpec(name, params),
        # Static batching reserves this many tokens of KV memory for every request, however short.
        max_context=8192,
    )


def table(found: phasewise.Comparison) -> None:
    """One column a batcher: the capacity and what bound it, then latencies at one rate for all."""
    columns = [14, *(max(10, len(arm.name) + 2) for arm in found.arms)]

    def row(name: str, cells: list[str], note: str) -> None:
        print(
            f"{name:{columns[0]}}" + "".join(f"{c:>{w}}" for c, w in zip(cells, columns[1:], strict=True)) + f"  {note}"
        )

    searched = [c for c in found.capacities if c is not None]
    row("", [arm.name for arm in found.arms], "")
    row(
        "capacity", ["none" if c.rate is None else f"{c.rate:.1f}" for c in searched], "requests/s, highest within both"
    )
    row("bound by", [", ".join(c.bound_by) for c in searched], "what missed just above")
    print(f"\nat {RATE:g} requests/s:")
    for line in side_by_side([(arm.name, log) for arm, log in zip(found.arms, found.runs, strict=True)]):
        row(line.name, list(line.cells), f"{line.unit:9} {line.note}")


if __name__ == "__main__":
    main()
