"""Fit step times to measured layers of vLLM 0.19 on RTX PRO 6000, and simulate the measured servers with them.

Usage: python bench/measured_steps.py DATA_DIR [OUT.yaml]   (the folder that holds kernels/, traces/ and end_to_end/)

Layers and attention were measured one by one (LLMServingSim, MIT; one prompt chunk and equal decodes a step, bf16). A step is
their sum over all layers, linear layers taken between neighbouring counts of tokens; every chunk is taken to emit a token. So
the steps hold no time of the host and none between kernels. Prints how far the fits are off on steps not seen, and the
server's times beside simulated ones; OUT.yaml receives the latency file of the 8B model. It knows nothing of how the layers
were measured.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from phasewise.control.latency import write_latency
from phasewise.control.resolve import resolve
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.core.steptimes import StepTimes
from phasewise.perf.fit import MeasuredStep, fit
from phasewise.perf.models import model
from phasewise.record.metrics import Scored
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load

RUNS = (("meta-llama/Llama-3.1-8B", 1, "llama31_8b", "llama_31_8b"), ("Qwen/Qwen3-32B", 2, "qwen3_32b", "qwen3_32b"))
DEVICE = "rtx-pro-6000"
EACH = ("qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj", "layernorm", "layernorm")
NORMS = ("q_norm", "k_norm", "qk_norm")  # of models that norm queries and keys
ONCE = ("embedding", "final_layernorm")
HEAD = ("lm_head", "sampler")
TOKEN_KNOTS = (1, 128, 256, 512, 1024, 2048)
BATCH_KNOTS = (1, 16, 64, 128)
BUDGET, SEQUENCES = 2048, 128  # of the measured servers
NOTE = "# Written by bench/measured_steps.py from measurements in github.com/casys-kaist/LLMServingSim (MIT).\n"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def measured(data: Path, name: str, tp: int, run: str) -> list[MeasuredStep]:
    """Whole steps that the server may run and the memory holds: attention as measured, beside the layers around it."""
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in rows(data / "kernels" / f"vllm_layers_rtxpro6000_{run}.csv"):
        if int(row["tp"]) == tp:
            lines[row["layer"]].append((int(row["tokens"]), float(row["time_us"])))
    at = {layer: np.array(sorted(points)).T for layer, points in lines.items()}

    def time(names: tuple[str, ...], count: int) -> float:
        return float(sum(np.interp(count, *at[layer]) for layer in names if layer in at))

    layers = model(name).layers
    (replica,) = resolve(Deployment(name, (ReplicaSpec(DEVICE, tp=tp),))).replicas
    room = replica.blocks * 16
    steps = []
    for row in rows(data / "kernels" / f"vllm_attention_mixed_rtxpro6000_{run}.csv"):
        q, cached, decodes, context = (int(row[k]) for k in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"))
        tokens = q + decodes
        if int(row["tp"]) != tp or tokens > BUDGET or decodes > SEQUENCES or cached + q + decodes * context > room:
            continue
        layer = time((*EACH, *NORMS), tokens) + float(row["time_us"])
        time_us = layers * layer + time(ONCE, tokens) + time(HEAD, decodes + (q > 0))
        # As we read the source, kv_decode counts what a decode reads: the new token included.
        steps.append(MeasuredStep(((cached, q),) if q else (), decodes, decodes * (context - 1), time_us))
    return steps


def fits(data: Path, name: str, tp: int, run: str, table: Table) -> StepTimes:
    steps = measured(data, name, tp, run)
    source = "vLLM 0.19 layers, measured by LLMServingSim (MIT)"
    for tokens, batch in (((), ()), (TOKEN_KNOTS, BATCH_KNOTS)):
        times = fit(steps, source, token_knots=tokens, batch_knots=batch, model=name, device=DEVICE, tp=tp)
        off = times.error
        assert off is not None
        shares = [f"{share:.1%}" for share in (off.mean, off.p90, off.worst)]
        table.add_row(f"{name}, tp {tp}", times.kind, f"{off.points:,}", *shares)
    return times


def server(data: Path, name: str, tp: int, trace: str, run: str, latency: str | None, table: Table) -> None:
    batcher = PolicySpec("vllm-v1", {"token_budget": BUDGET, "max_seqs": SEQUENCES})
    deployment = Deployment(name, (ReplicaSpec(DEVICE, tp=tp),), batcher, latency=latency)
    scored = Scored(simulate(deployment, load(data / "traces" / f"sharegpt300_{trace}_10rps.csv")).tables)
    theirs = rows(data / "end_to_end" / f"vllm019_rtxpro6000_{run}_requests.csv")
    cells = []
    for metric in ("ttft", "tpot", "e2e"):
        ours, real = getattr(scored, f"{metric}_s"), np.array([float(row[f"{metric}_ms"]) for row in theirs]) / 1e3
        cells.append(
            f"{np.nanmedian(ours):.3g} / {np.nanmedian(real):.3g} ({np.nanmedian(np.abs(ours - real) / real):.0%})"
        )
    table.add_row(f"{name}, tp {tp}", "roofline" if latency is None else "fitted", *cells)


def rounded(plain: Any) -> Any:
    """Six digits of every number: more than a measurement has."""
    if isinstance(plain, dict):
        return {key: rounded(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [rounded(value) for value in plain]
    return float(f"{plain:.6g}") if isinstance(plain, float) else plain


def main(data: Path, out: Path | None) -> None:
    errors = Table("model", "kind", "steps", "mean", "p90", "worst", title="Relative error on steps not seen")
    servers = Table(
        "model", "times", "TTFT", "TPOT", "E2E", title="Servers: simulated / measured median, s (median error)"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, tp, trace, run in RUNS:
            times = fits(data, name, tp, run, errors)
            path = Path(folder) / f"{run}.yaml"
            write_latency(times, path)
            if out is not None and tp == 1:
                write_latency(msgspec.convert(rounded(msgspec.to_builtins(times)), StepTimes), out)
                out.write_text(NOTE + out.read_text(encoding="utf-8"), encoding="utf-8")
            for latency in (None, str(path)):
                server(data, name, tp, trace, run, latency, servers)
    console = Console(width=120)
    console.print(errors)
    console.print(servers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
