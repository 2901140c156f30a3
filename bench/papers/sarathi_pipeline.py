"""Sarathi-Serve with pipelines (OSDI'24, Figures 10, 11 and 13): the published claims beside ours; every table is Markdown.

    python bench/papers/sarathi_pipeline.py

Falcon-180B on two nodes of four A100 with 100 Gbit/s between them, as TP4-PP2 and as TP8 across the nodes; LLaMA2-70B on eight
A40 as TP4-PP2. What is not known here: which data Figure 13 is of, the curves, how much time the paper's software spent outside
the device, and how its all-reduces went over Ethernet.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from sarathi_pipeline_runs import (
    FACTORS,
    FALCON,
    FALCON_NODE,
    FALCON_TP8,
    LLAMA,
    Bench,
    Cell,
    Idle,
    Rate,
    Setting,
    bubbles,
    falcon,
    llama,
    step,
)
from sarathi_runs import say

from phasewise.planner.workers import Workers, cores
from phasewise.report.rows import NONE, number, share

REQUESTS = 2048  # of a probe, as the paper's
# Sarathi-Serve over the other two arms of a cell, as published.
PUBLISHED = {
    ("Falcon-180B", "chat", "strict"): (4.3, 3.6),
    ("Falcon-180B", "chat", "relaxed"): (None, 1.48),
    ("LLaMA2-70B", "chat", "strict"): (6.3, 4.3),
}


def table(title: str, columns: Sequence[str]) -> Table:
    made = Table(title=title, box=box.MARKDOWN, title_justify="left")
    for column in columns:
        made.add_column(column, no_wrap=True)
    return made


def over(rates: dict[str, Rate]) -> list[float | None]:
    """The last capacity over each of the others."""
    *others, best = rates.values()
    return [best / other if best and other else None for other in others]


def said(values: Sequence[float | None]) -> str:
    return " / ".join("?" if value is None else f"{value:.2f}" for value in values)


def capacity_table(found: Sequence[Cell]) -> Table:
    columns = ("model", "data", "P99 TBT, s", "arms", "requests/s", "over the first / second", "published")
    made = table("Capacity", (*columns, "P99 TBT by our step, s", "requests/s ", "over "))
    for cell in found:
        published = PUBLISHED.get((cell.setting.name, cell.data, cell.slo))
        made.add_row(
            cell.setting.name,
            cell.data,
            f"{cell.limit_s:g} ({cell.slo})",
            " / ".join(cell.rates),
            " / ".join(number(rate) for rate in cell.rates.values()),
            said(over(cell.rates)),
            NONE if published is None else said(published),
            f"{cell.own_limit_s:.3g}",
            " / ".join(number(rate) for rate in cell.own_rates.values()),
            said(over(cell.own_rates)),
        )
    return made


def steps_table() -> Table:
    """Single steps of every shape: where the time between tokens comes from."""
    made = table(
        "One step alone, ms",
        (
            "model",
            "shape",
            "32 decodes of 4,096 tokens",
            "in its slowest stage",
            "a prompt of 4,096",
            "in its slowest stage ",
        ),
    )
    rows = {
        FALCON: "100 Gbit/s between nodes",
        FALCON._replace(link_gb_s=300.0): "the same, NVLink in the whole node",
        FALCON_TP8: "across nodes",
        FALCON_NODE: "in one NVLink node",
        LLAMA: "one node",
    }
    for setting, where in rows.items():
        decode, prompt = step(setting, 32, 4096), step(setting, prompt=4096)
        times = (decode.whole_s, decode.stage_s, prompt.whole_s, prompt.stage_s)
        made.add_row(setting.name, f"{setting.shape}, {where}", *(f"{1e3 * value:,.0f}" for value in times))
    return made


def bubble_table(setting: Setting, found: Sequence[Idle]) -> Table:
    columns = (
        "batcher",
        "requests/s",
        "PB1",
        "PB2",
        "PB3",
        "all three",
        "too few micro-batches",
        "TBT P50, s",
        "TBT P99, s",
    )
    made = table(f"Idle stages, share of stages x busy time: {setting.name}, {setting.shape}, chat", columns)
    for run in found:
        published = sum(run.shares[name] for name in ("pb1", "pb2", "pb3"))
        shares = (*(run.shares[name] for name in ("pb1", "pb2", "pb3")), published, run.shares["unfilled"])
        made.add_row(run.name, number(run.rate), *map(share, shares), f"{run.tbt_p50_s:.3f}", f"{run.tbt_p99_s:.3f}")
    return made


def why_table(bench: Bench, found: Sequence[Cell]) -> Table:
    """What the ratios depend on, one change at a time."""
    made = table("One change at a time (chat)", ("what", "model", "SLO", "requests/s", "over the first / second"))

    def row(what: str, cell: Cell) -> None:
        rates = " / ".join(number(rate) for rate in cell.rates.values())
        made.add_row(what, cell.setting.name, cell.slo, rates, said(over(cell.rates)))

    for each in found:
        if each.data == "chat":
            row("as above", each)
    row("20 ms of host a stage", falcon(bench, "chat", "strict", 0.02))
    row("20 ms of host a stage", llama(bench, "chat", "strict", 0.02))
    row("NVLink in the whole node", falcon(bench, "chat", "strict", link_gb_s=300.0))
    for slo in FACTORS:
        row("128 seats in each pipe", falcon(bench, "chat", slo, seats=128))
        row("128 seats in each pipe", llama(bench, "chat", slo, seats=128))
    again = bench._replace(seed=bench.seed + 1)
    row("another seed", falcon(again, "chat", "strict"))
    row("another seed", llama(again, "chat", "strict"))
    return made


def claims(found: Sequence[Cell], falcon_idle: Sequence[Idle], llama_idle: Sequence[Idle]) -> Table:
    made = table("Claims", ("claim", "published", "ours"))
    names = {FALCON.name: ("vLLM, TP8 across nodes", "vLLM with a pipeline"), LLAMA.name: ("Orca", "vLLM")}
    for cell in found:
        published = PUBLISHED.get((cell.setting.name, cell.data, cell.slo), (None, None))
        for name, told, ours in zip(names[cell.setting.name], published, over(cell.rates), strict=True):
            if told is not None:
                made.add_row(f"{cell.setting.name} over {name}, {cell.slo}", f"{told:.3g}", said([ours]))
    ratio = step(FALCON_TP8, 32, 4096).whole_s / step(FALCON, 32, 4096).whole_s
    made.add_row(
        "Falcon-180B, decode TBT of TP8 across nodes over TP4-PP2's (Figure 13)", "about 2 (median)", f"{ratio:.2f}"
    )
    prompt, decode = step(FALCON, prompt=4096), step(FALCON, 32, 4096)
    ours = f"{prompt.stage_s:.2f} s and {decode.stage_s:.3f} s in a stage"
    made.add_row("Falcon-180B, a prompt of 4,096 tokens and a decode iteration of 32", "1.15 s and 0.2 s", ours)
    for setting, runs in ((FALCON, falcon_idle), (LLAMA, llama_idle)):
        idle = {run.name: sum(run.shares[name] for name in ("pb1", "pb2", "pb3")) for run in runs}
        ours = f"{share(idle['orca'])} and {share(idle['sarathi, 512'])}"
        made.add_row(
            f"{setting.name}, bubbles of Orca and of Sarathi-Serve at one rate", "fewer with Sarathi-Serve", ours
        )
    return made


def main() -> None:
    """Run everything and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"of a probe (default: {REQUESTS:,})")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes (default: one a core)")
    given = parser.parse_args()
    out = Console(width=220, highlight=False)
    began = time.perf_counter()
    out.print(steps_table())
    with Workers(given.jobs) as workers:
        bench = Bench(workers, given.requests)
        found = [make(bench, data, slo) for make in (falcon, llama) for data in ("chat", "arxiv") for slo in FACTORS]
        out.print(capacity_table(found))
        idle = [bubbles(bench, setting, "chat") for setting in (FALCON, LLAMA)]
        for setting, runs in zip((FALCON, LLAMA), idle, strict=True):
            out.print(bubble_table(setting, runs))
        out.print(why_table(bench, found))
    out.print(claims(found, *idle))
    tp8, pipes = (step(setting, 32, 4096).whole_s for setting in (FALCON_TP8, FALCON))
    more_ms = 1e3 * (2 * pipes - tp8) / 81
    out.print(f"TP8 would take twice as long as TP4-PP2 if each of its 81 all-reduces took {more_ms:.2f} ms more.")
    say(f"{time.perf_counter() - began:.0f} s with {given.jobs} processes")


if __name__ == "__main__":
    main()
