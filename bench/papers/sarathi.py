"""The published claims of Sarathi-Serve (OSDI'24, arXiv 2403.02310) beside ours; every table is Markdown.

    python bench/papers/sarathi.py [--capacity] [--budget] [--chunking] [--table4] [--why] [--figures FOLDER]

Mistral-7B on one A100 80 GB and Yi-34B on two, on workloads fitted to the quantiles that the paper prints. Without a
flag all parts run. What is not known here: the paper's measured curves (only the figures that its text names are compared),
its traces themselves, the rate of its Table 4, and how much time its software spent outside the device.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from sarathi_pictures import overhead, trade_off, write
from sarathi_runs import (
    ARMS,
    CURVES,
    DATA,
    FACTORS,
    MISTRAL,
    PROMPTS,
    SLOS_S,
    TABLE4_REQUESTS,
    YI,
    Bench,
    Cell,
    Curves,
    Setting,
    arm,
    budget_curves,
    cells,
    decode_s,
    full_step_s,
    overheads,
    rate_of,
    ratio,
    sarathi,
    say,
    two_scores,
)

from phasewise.planner.source import LEAST_REQUESTS
from phasewise.planner.workers import Workers, cores
from phasewise.report.rows import NONE, number

# Capacity of Sarathi-Serve over Orca's and over vLLM's: the abstract (Mistral-7B: the cell is not named) and Figure 10.
PUBLISHED = {("Mistral-7B", "chat", "strict"): (None, 2.6), ("Yi-34B", "chat", "strict"): (4.0, 3.7)}
# Table 4: median TTFT and P99 TBT, seconds, by arm.
TABLE4 = {"chat": ((0.53, 0.68), (1.04, 0.17), (0.76, 0.14)), "arxiv": ((3.78, 1.38), (5.38, 0.20), (3.90, 0.17))}
PARTS = ("capacity", "budget", "chunking", "table4", "why")


def times(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def said(values: Sequence[float | None]) -> str:
    return " / ".join("?" if value is None else f"{value:.1f}" for value in values)


def rate_text(value: float | None) -> str:
    return NONE if value is None else number(value)


def over(rates: Sequence[float | None]) -> str:
    return f"{times(ratio(rates, 0))} / {times(ratio(rates, 1))}"


def table(title: str, columns: Sequence[str]) -> Table:
    made = Table(title=title, box=box.MARKDOWN, title_justify="left")
    for column in columns:
        made.add_column(column, no_wrap=True)
    return made


def capacity_table(found: Sequence[Cell]) -> Table:
    names = ("model", "data", "P99 TBT, s", "orca", "vllm-v0", "sarathi", "over orca / vllm", "published")
    made = table("Capacity, requests/s", (*names, "P99 TBT by our step, s", "over orca / vllm "))
    for cell in found:
        slo_s = FACTORS[cell.slo] * cell.setting.step_s
        told = PUBLISHED.get((cell.setting.name, cell.data, cell.slo))
        ours = (*map(rate_text, cell.rates), over(cell.rates), NONE if told is None else said(told))
        first = (cell.setting.name, cell.data, f"{slo_s:g} ({cell.slo})")
        made.add_row(*first, *ours, f"{cell.own_slo_s:.3g}", over(cell.own_rates))
    return made


def budget_table(curves: Curves) -> Table:
    made = table(
        "Capacity on chat, requests/s, by the limit of P99 TBT (Figure 12)", ("model", "batcher", *map(str, SLOS_S))
    )
    for name, lines in curves.items():
        for batcher, rates in lines.items():
            made.add_row(name, batcher, *map(rate_text, rates))
    return made


def chunking_table(found: dict[int, list[float]]) -> Table:
    title = "How much longer a prompt takes in chunks than whole, Yi-34B on two A100 (Figure 14)"
    made = table(title, ("chunk", *(f"{prompt:,} tokens" for prompt in PROMPTS), "published"))
    published = {512: "at most about 25 %", 2048: "almost nothing"}
    for chunk, shares in found.items():
        made.add_row(f"{chunk:,}", *(f"{share:.1%}" for share in shares), published.get(chunk, NONE))
    slower = overheads(YI, host_s=0.01)[512]
    made.add_row("512, 10 ms of host a step", *(f"{share:.1%}" for share in slower), NONE)
    return made


def table4(workers: Workers, seeds: int) -> Table:
    """Table 4. The paper does not give the rate: it is set by one of the six published figures of each data set."""
    title = f"Yi-34B, budget 1,024, {TABLE4_REQUESTS} requests, medians over {seeds} draws (Table 4)"
    made = table(title, ("data", "requests/s", "arm", "P50 TTFT, s", "published", "P99 TBT, s", "published "))
    for data, published in TABLE4.items():
        say(f"table 4: {data}")
        arms = {name: arm(YI, DATA[data][1], sarathi(1024, **params)) for name, params in ARMS.items()}
        rate = rate_of(arms["both"], data, published[-1][0], seeds)
        found = [workers.submit(two_scores, deployment, data, rate, seeds) for deployment in arms.values()]
        for name, scores, told in zip(arms, found, published, strict=True):
            pairs = [f"{value:.2f}" for pair in zip(scores.result(), told, strict=True) for value in pair]
            made.add_row(data, f"{rate:.2f}", name, *pairs)
    return made


def why_table(bench: Bench) -> Table:
    """What the ratios under the strict SLO depend on, one change at a time."""
    columns = ("what", "model", "data, SLO", "orca", "vllm-v0", "sarathi", "over orca / vllm")
    made = table("One change at a time", columns)

    def row(what: str, setting: Setting, data: str, slo: str, bench: Bench = bench, **options: Any) -> None:
        say(f"why: {what}, {setting.name}, {data}")
        (rates,) = bench.three(setting, data, slo, (FACTORS[slo] * setting.step_s,), **options)
        made.add_row(what, setting.name, f"{data}, {slo}", *map(rate_text, rates), over(rates))

    for setting in (MISTRAL, YI):
        row("as above", setting, "chat", "strict")
        for host_s in (0.002, 0.005, 0.01):
            row(f"{host_s * 1e3:g} ms of host a step", setting, "chat", "strict", host_s=host_s)
        for bend in (0.5, 2.0):
            row(
                f"{'fewer' if bend < 1 else 'more'} short prompts", setting, "chat", "strict", bench._replace(bend=bend)
            )
        both = bench._replace(bend=0.5)
        row("fewer short, 5 ms of host", setting, "chat", "strict", both, host_s=0.005)
        row("another seed", setting, "chat", "strict", bench._replace(seed=bench.seed + 1))
        row("2,048 requests", setting, "chat", "strict", bench._replace(requests=2048))
        row("16,384 tokens reserved", setting, "chat", "relaxed", context=16384)
    row("no window (v0.3)", MISTRAL._replace(model="mistralai/Mistral-7B-v0.3"), "arxiv", "strict")
    return made


def claims(found: Sequence[Cell], curves: Curves, chunks: dict[int, list[float]]) -> Table:
    """What the paper's text claims, and what came of it here; of the parts that ran."""
    made = table("Claims", ("claim", "published", "ours"))
    by = {(cell.setting.name, cell.data, cell.slo): cell.rates for cell in found}
    if found:
        best = max(ratio(rates, 1) or 0 for (name, _, _), rates in by.items() if name == YI.name)
        made.add_row("Mistral-7B over vLLM (abstract)", "2.6", times(ratio(by[MISTRAL.name, "chat", "strict"], 1)))
        made.add_row("Yi-34B over vLLM, at most (abstract)", "3.7", times(best))
        made.add_row(
            "Yi-34B over Orca, chat, strict (Figure 10)", "4.0", times(ratio(by[YI.name, "chat", "strict"], 0))
        )
    if curves:
        for setting, budget, slo_s, told in ((MISTRAL, 512, 0.1, "3.5"), (YI, 2048, 1.0, "1.65")):
            lines, at = curves[setting.name], SLOS_S.index(slo_s)
            pair = [lines["vllm-v0, 128 seats"][at], lines[f"sarathi, budget {budget:,}"][at]]
            what = f"{setting.name}, budget {budget:,}, over vLLM at {slo_s:g} s (Figure 12)"
            made.add_row(what, told, times(ratio(pair, 0)))
        seats = [curves[MISTRAL.name][name][0] or 0.0 for name in CURVES if name.startswith("vllm")]
        spread = f"{max(seats) / min(seats) - 1:.1%} apart"
        made.add_row("vLLM with 32, 64, 128 seats, Mistral-7B at 0.1 s (Figure 12)", "nearly identical", spread)
    if chunks:
        made.add_row("chunks of 512 slow a prompt by at most (Figure 14)", "about 25 %", f"{max(chunks[512]):.0%}")
        made.add_row(
            "chunks of 2,048 slow a prompt by (Figure 14)", "almost nothing", f"at most {max(chunks[2048]):.0%}"
        )
    return made


def draw(folder: Path, curves: Curves, chunks: dict[int, list[float]]) -> None:
    """The pictures of the parts that ran."""
    folder.mkdir(parents=True, exist_ok=True)
    if curves:
        write(trade_off(SLOS_S, curves), folder / "sarathi-figure12.png")
    if chunks:
        title = "A prompt in chunks against whole: Yi-34B on two A100, idle replica"
        write(overhead(PROMPTS, chunks, title), folder / "sarathi-figure14.png")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--requests", type=int, default=LEAST_REQUESTS, help="of a probe (default: 10,000)")
    parser.add_argument("--draws", type=int, default=25, help="of the 128 requests of Table 4 (default: 25)")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes (default: one a core)")
    parser.add_argument("--figures", type=Path, help="a folder for pictures of Figures 12 and 14 (default: none)")
    return parser.parse_args()


def main() -> None:
    """Run the parts that are asked for, and print their tables."""
    given = arguments()
    chosen = [part for part in PARTS if getattr(given, part)] or PARTS
    out = Console(width=200, highlight=False)
    began = time.perf_counter()
    for setting in (MISTRAL, YI):
        steps = f"{decode_s(setting) * 1e3:.1f} ms, and the paper's SLOs imply {setting.step_s * 1e3:g} ms"
        out.print(f"{setting.name}: a decode iteration of 32 requests with 4,096 tokens each takes {steps}")
    with Workers(given.jobs) as workers:
        bench = Bench(workers, given.requests)
        found = cells(bench) if "capacity" in chosen else []
        curves = {s.name: budget_curves(bench, s) for s in (MISTRAL, YI)} if "budget" in chosen else {}
        chunks = overheads(YI) if "chunking" in chosen else {}
        if found:
            out.print(capacity_table(found))
        if curves:
            out.print(budget_table(curves))
        if chunks:
            out.print(chunking_table(chunks))
        if "table4" in chosen:
            out.print(table4(workers, given.draws))
            for start in (0, 4096):
                ours_s, peak_s = full_step_s(start)
                what = f"an iteration of 1,024 prompt tokens after {start:,} others, beside 20 decodes"
                out.print(f"Yi-34B: {what}, takes {ours_s:.3f} s; {peak_s:.3f} s at the data sheet's peak")
        if "why" in chosen:
            out.print(why_table(bench))
    if found or curves or chunks:
        out.print(claims(found, curves, chunks))
    if given.figures:
        draw(given.figures, curves, chunks)
    say(f"{time.perf_counter() - began:.0f} s with {given.jobs} processes")


if __name__ == "__main__":
    main()
