"""How much of a trace's prompts the prefix cache finds, by how much memory there is, beside the most that can be found.

    python bench/prefix.py TRACE

TRACE names the content of its prompts by blocks (Mooncake's conversation trace does). The most that can be found is what an
endless memory would hold if every prompt were computed before the next arrives: the ids seen before, as an unbroken
beginning, and never a prompt's last token.
"""

from __future__ import annotations

import argparse

import msgspec
from rich.console import Console
from rich.table import Table

from phasewise.control.resolve import resolve
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load
from phasewise.workload.workload import Workload


def bounds(workload: Workload) -> tuple[float, float, float]:
    """Shares of all blocks: those whose id was seen before, and those that a cache can use; the latter of whole blocks."""
    seen: set[int] = set()
    blocks = whole = again = usable = 0
    for request in workload.requests():
        ids = request.prefix_ids
        blocks += len(ids)
        whole += request.prompt_tokens // request.prefix_tokens
        again += sum(key in seen for key in ids)
        for key in ids[: (request.prompt_tokens - 1) // request.prefix_tokens]:
            if key not in seen:
                break
            usable += 1
        seen.update(ids)
    return again / blocks, usable / blocks, usable / whole


def ran(workload: Workload, tp: int, batcher: str, cache: bool, blocks: int) -> RunLog:
    """One replica of `tp` devices; `blocks` of KV memory instead of what they hold, unless 0."""
    replicas = (ReplicaSpec("h100", tp=tp),)
    resolved = resolve(Deployment("meta-llama/Llama-3.1-8B", replicas, PolicySpec(batcher), prefix_cache=cache))
    if blocks:
        roomy = tuple(msgspec.structs.replace(replica, blocks=blocks) for replica in resolved.replicas)
        resolved = msgspec.structs.replace(resolved, replicas=roomy)
    return simulate(resolved, workload)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trace")
    options = parser.parse_args()
    workload = load(options.trace)
    blocks = sum(len(request.prefix_ids) for request in workload.requests())
    unit = next(workload.requests()).prefix_tokens
    table = Table(title=f"{workload.name}: {len(workload):,} requests, {blocks:,} blocks of {unit} tokens")
    for heading in ("Llama-3.1-8B on", "batcher", "KV tokens", "blocks found", "TTFT p50 s", "without"):
        table.add_column(heading, justify="right" if heading[0] in "KbTw" and heading != "batcher" else "left")
    for label, tp, blocks_each in (
        ("2 x H100", 2, 0),
        ("4 x H100", 4, 0),
        ("8 x H100", 8, 0),
        ("8, endless", 8, 1 << 24),
    ):
        for name in ("vllm-v1", "sarathi"):
            found = [ran(workload, tp, name, cache, blocks_each) for cache in (True, False)]
            tokens = found[0].header.resolved.replicas[0].blocks * 16
            share = found[0].summary["tokens_cached"] / unit / blocks
            ttft = [f"{log.summary['ttft_s']['p50']:.2f}" for log in found]
            table.add_row(label, name, f"{tokens:,}", f"{share:.1%}", *ttft)
    Console(width=100).print(table)
    seen, usable, whole = bounds(workload)
    print(
        f"seen before: {seen:.1%} of all blocks; the most that any cache can use: {usable:.1%}, {whole:.1%} of whole blocks"
    )


if __name__ == "__main__":
    main()
