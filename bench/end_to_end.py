"""Predicted beside measured: two vLLM 0.19 servers on RTX PRO 6000 cards, request by request.

    python bench/end_to_end.py DATA_DIR

The measured runs come from LLMServingSim's examples (MIT): 300 ShareGPT requests at 10 requests/s, batches of at most 128
sequences and 2,048 tokens, bf16, prefix cache off. Nothing here is fitted on them, nor on that device: its times rest on the
data sheet and on kernel efficiencies borrowed from the H100.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.record.metrics import Scored
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load

RUNS = (("meta-llama/Llama-3.1-8B", 1, "llama31_8b", "llama_31_8b"), ("Qwen/Qwen3-32B", 2, "qwen3_32b", "qwen3_32b"))


def main(data: Path) -> None:
    table = Table(title="vLLM 0.19 on RTX PRO 6000, 300 ShareGPT requests at 10/s: seconds, predicted / measured")
    for heading in ("model", "metric", "p50", "p90", "p99", "median |error|"):
        table.add_column(heading, justify="left" if heading in ("model", "metric") else "right")
    for model, tp, trace, run in RUNS:
        batcher = PolicySpec("vllm-v1", {"token_budget": 2048, "max_seqs": 128})
        deployment = Deployment(model, (ReplicaSpec("rtx-pro-6000", tp=tp),), batcher)
        log = simulate(deployment, load(data / "traces" / f"sharegpt300_{trace}_10rps.csv"))
        scored = Scored(log.tables)
        with (data / "end_to_end" / f"vllm019_rtxpro6000_{run}_requests.csv").open() as file:
            rows = list(csv.DictReader(file))
        for name in ("ttft", "tpot", "e2e"):
            ours = getattr(scored, f"{name}_s")
            theirs = np.array([float(row[f"{name}_ms"]) for row in rows]) / 1e3
            pairs = [f"{np.nanquantile(ours, q):.3g} / {np.nanquantile(theirs, q):.3g}" for q in (0.5, 0.9, 0.99)]
            error = np.nanmedian(np.abs(ours - theirs) / theirs)
            table.add_row(f"{model}, tp {tp}", name.upper(), *pairs, f"{error:.0%}")
        makespan = max(float(row["arrival_s"]) + float(row["e2e_ms"]) / 1e3 for row in rows)
        table.add_row("", "makespan", f"{scored.last_token_ns / 1e9:.1f} / {makespan:.1f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
