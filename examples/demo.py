"""Three batchers on one device under one load: a table, and their phase timelines in `demo/timeline.png`.

Run by `make demo`. It uses nothing but the public names of the package.
"""

from __future__ import annotations

from pathlib import Path

import phasewise
from phasewise.report import compare_timelines, save, side_by_side

RATE = 8.0
REQUESTS = 2000
BATCHERS = [
    phasewise.PolicySpec("static"),
    phasewise.PolicySpec("vllm-v1"),
    phasewise.PolicySpec("sarathi", {"token_budget": 512}),
]


def main() -> None:
    """Simulate, print, draw."""
    workload = phasewise.load_workload("azure-conv", rate=RATE, requests=REQUESTS)
    runs = []
    for batcher in BATCHERS:
        deployment = phasewise.Deployment(
            model="meta-llama/Llama-3.1-8B",
            replicas=(phasewise.ReplicaSpec("h100"),),
            batcher=batcher,
            # Static batching reserves this many tokens of KV memory for every request, however short.
            max_context=8192,
            slo=phasewise.Slo(ttft_s=1.0, tpot_s=0.03),
        )
        runs.append((batcher.name, phasewise.simulate(deployment, workload)))
    print(f"Llama-3.1-8B on one H100, {REQUESTS:,} chat requests at {RATE:g} a second (azure-conv), three batchers.")
    print(f"Simulated; times rest on: {runs[0][1].header.resolved.basis}.\n")
    table(runs)
    print(
        "\nstatic     waits for a batch to end before it starts the next: few pauses between tokens, seconds in the queue."
        "\nvllm-v1    starts prompts at once, up to 2,048 tokens an iteration: everybody who decodes pauses for them."
        "\nsarathi    cuts prompts into 512-token chunks: short pauses, for a little more time to the first token."
    )
    folder = Path("demo")
    folder.mkdir(exist_ok=True)
    save(compare_timelines(runs), folder / "timeline.png")
    took = sum(log.summary["wall_s"] for _, log in runs)
    print(f"\nThe picture of it is {folder / 'timeline.png'}. Simulating all three took {took:.1f} s.")


def table(runs: list[tuple[str, phasewise.RunLog]]) -> None:
    """One column a run, one row a metric."""
    print(f"{'':14}" + "".join(f"{name:>10}" for name, _ in runs))
    for row in side_by_side(runs):
        cells = "".join(f"{cell:>10}" for cell in row.cells)
        print(f"{row.name:14}{cells}  {row.unit:9} {row.note}")


if __name__ == "__main__":
    main()
