"""The published claims of DistServe (OSDI'24, arXiv 2401.09670) beside ours; every table is Markdown.

    python bench/papers/distserve.py [--memory] [--capacity] [--simulator] [--transfers] [--why]

OPT-13B and OPT-66B on A100 80 GB with the published fits of step times, which all arms share. Without a flag all parts run.
What is not known here: the authors' data themselves (only their mean lengths, from memory, and how they were cut), their
measured curves, and how long the steps of the vLLM that they measured took.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from distserve_arms import (
    APPLICATIONS,
    BLOCK,
    DEVICE,
    ETHERNET,
    MEMORY,
    OPT_13B,
    OPT_66B,
    OPT_175B,
    SARATHI,
    SIMULATED,
    VLLM,
    Application,
    colocated,
    devices,
    earlier,
    pair,
    placed,
    placed_175b,
    roomy,
    slower,
)
from distserve_runs import Bench, Found, Rate, attainments, mean_lengths, moved, say
from rich import box
from rich.console import Console
from rich.table import Table

from phasewise.core.spec import Resolved
from phasewise.perf.hardware import device
from phasewise.perf.memory import kv_blocks
from phasewise.perf.models import model
from phasewise.planner.workers import Workers, cores
from phasewise.report.rows import NONE, number

PARTS = ("memory", "capacity", "simulator", "transfers", "why")
# Goodput over vLLM: the first version of the paper, and the final one.
PUBLISHED = {
    "chat 13B": ("2.0 to 3.4", "2.0 to 4.6"),
    "chat 66B": ("2.0 to 3.4", "2.0 to 4.6"),
    "code 66B": ("3.2", "5.7"),
    "summaries 66B": ("4.48", "4.3"),
}
FAILS = {"chat 13B": "TPOT", "chat 66B": "TPOT", "code 66B": "TTFT", "summaries 66B": "TPOT"}
"""What vLLM fails first in the paper."""
EXAMPLE = 1.56
"""Requests/s for each device, OPT-13B on TP 2 + TP 1, in the README of the published simulator."""
TOKENS = {
    (OPT_13B, 1, 1): 66144,
    (OPT_13B, 2, 1): 163008,
    (OPT_13B, 4, 1): 356736,
    (OPT_66B, 2, 1): 11600,
    (OPT_66B, 2, 2): 78512,
    (OPT_66B, 4, 1): 78496,
    (OPT_66B, 8, 1): 212304,
    (OPT_175B, 3, 3): 76192,
    (OPT_175B, 4, 3): 126160,
}
"""What the authors' engine can hold, by model, TP and stages."""
RATES = (1, 2, 3, 4, 5)
SEEDS = 5
# Attainment in per cent at RATES for each device, stored with the published simulator of April 2024 (its Figure 11).
STORED = {
    "vLLM, TP 1": (92.3, 84.3, 78.1, 70.8, 58.1),
    "vLLM, TP 2": (98.4, 96.1, 88.8, 84.6, 63.4),
    "vLLM, TP 4": (100.0, 99.1, 98.6, 96.9, 93.7),
    "DistServe, TP 1 + TP 1": (91.1, 79.7, 64.1, 27.4, 9.9),
    "DistServe, TP 2 + TP 1": (98.5, 91.8, 31.6, 17.5, 7.9),
    "DistServe, TP 4 + TP 4": (99.8, 99.6, 80.1, 45.2, 5.6),
}


def table(title: str, columns: Sequence[str]) -> Table:
    made = Table(title=title, box=box.MARKDOWN, title_justify="left")
    for column in columns:
        made.add_column(column, no_wrap=True)
    return made


def rate_text(value: Rate) -> str:
    return NONE if value is None else number(value)


def over(one: Rate, other: Rate) -> str:
    return f"{one / other:.2f}" if one and other else NONE


def memory_table() -> Table:
    made = table("KV memory of a replica, tokens", ("model", "TP", "stages", "published", "ours", "difference"))
    for (name, tp, pp), told in TOKENS.items():
        ours = BLOCK * kv_blocks(model(name), device(DEVICE), tp, MEMORY, BLOCK, pp=pp)
        made.add_row(name, str(tp), str(pp), f"{told:,}", f"{ours:,}", f"{ours / told - 1:+.1%}")
    return made


Row = tuple[Application, Found, Found, str, Found]  # DistServe, vLLM, the better Sarathi-Serve by name


def rows(bench: Bench) -> list[Row]:
    arms, data = [], []
    for app in APPLICATIONS:
        arms += [placed(app), colocated(app, VLLM), *(colocated(app, batcher) for batcher in SARATHI.values())]
        data += [app.data] * (2 + len(SARATHI))
    found = bench.search(arms, data)
    made: list[Row] = []
    for i, app in enumerate(APPLICATIONS):
        apart, vllm, *others = found[i * (2 + len(SARATHI)) : (i + 1) * (2 + len(SARATHI))]
        name, best = max(zip(SARATHI, others, strict=True), key=lambda pair: pair[1].joint or 0.0)
        made.append((app, apart, vllm, name, best))
    return made


def capacity_table(found: Sequence[Row]) -> Table:
    names = ("application", "lengths", "TTFT, TPOT, s", "distserve", "vllm-v0", "over vLLM", "published (final)")
    more = ("vLLM fails first", "published", "sarathi (budget)", "over Sarathi-Serve")
    made = table("Goodput, requests/s for each device, 90 % within both objectives", (*names, *more))
    for app, apart, vllm, name, best in found:
        first, final = PUBLISHED[app.name]
        slo = f"{app.slo.ttft_s:g}, {app.slo.tpot_s:g}"
        rates = (rate_text(apart.joint), rate_text(vllm.joint), over(apart.joint, vllm.joint))
        sarathi = f"{rate_text(best.joint)} ({name.rsplit(' ', 1)[-1]})"
        fails = (vllm.fails, FAILS[app.name])
        made.add_row(
            app.name, app.data, slo, *rates, f"{first} ({final})", *fails, sarathi, over(apart.joint, best.joint)
        )
    return made


def apart_table(found: Sequence[Row]) -> Table:
    names = ("application", "lengths", "distserve", "vllm-v0", "over vLLM", "sarathi", "over Sarathi-Serve")
    made = table("The same, P90 of TTFT and P90 of TPOT each by itself", names)
    for app, apart, vllm, _, best in found:
        rates = (rate_text(apart.apart), rate_text(vllm.apart), over(apart.apart, vllm.apart), rate_text(best.apart))
        made.add_row(app.name, app.data, *rates, over(apart.apart, best.apart))
    return made


def lengths_table() -> Table:
    made = table("Mean lengths after the cut, tokens", ("lengths", "prompt", "answer"))
    for data in dict.fromkeys(app.data for app in APPLICATIONS):
        prompt, answer = mean_lengths(data)
        made.add_row(data, f"{prompt:,.0f}", f"{answer:,.0f}")
    return made


def simulator_table(bench: Bench) -> Table:
    title = "OPT-13B, chat: per cent within 0.2 s and 0.1 s, at requests/s for each device, published / ours / ours on"
    made = table(f"{title} that version's steps with memory to spare", ("arm", *map(str, RATES)))
    arms = {f"vLLM, TP {tp}": colocated(SIMULATED, VLLM, tp) for tp in (1, 2, 4)}
    arms |= {f"DistServe, TP {a} + TP {b}": pair(a, b) for a, b in ((1, 1), (2, 1), (4, 4))}
    jobs = {}
    for name, arm in arms.items():
        jobs[name] = [bench.workers.submit(attainments, arm, RATES)]
        if "TP 4" not in name:
            jobs[name].append(bench.workers.submit(attainments, roomy(earlier(arm)), RATES))
    for name, futures in jobs.items():
        ours = [future.result() for future in futures]
        cells = zip(STORED[name], *ours, strict=True)
        made.add_row(name, *(" / ".join([f"{c[0]:.0f}", *(f"{100 * x:.0f}" for x in c[1:])]) for c in cells))
    return made


def example_table(bench: Bench) -> Table:
    arm = pair(2, 1)
    capped = roomy(pair(2, 1, decode_tokens=50_000))
    arms = (arm, capped, roomy(arm), roomy(earlier(arm)))
    there, neither = "decodes bound by 50,000 tokens and not by memory, as there", "bound by neither"
    labels = ("ours", there, neither, f"{neither}, steps of April 2024")
    title = "OPT-13B on TP 2 + TP 1, 0.2 s and 0.1 s: requests/s for each device"
    made = table(title, ("what", "each percentile by itself", "both objectives"))
    made.add_row("README of the published simulator", f"{EXAMPLE}", NONE)
    for label, found in zip(labels, bench.search(arms, ["chat"] * len(arms)), strict=True):
        made.add_row(label, rate_text(found.apart), rate_text(found.joint))
    few = [bench._replace(requests=300, seed=seed).search([capped], ["chat"])[0] for seed in range(SEEDS)]
    means = (
        sum(rate or 0.0 for rate in rates) / SEEDS for rates in zip(*((f.apart, f.joint) for f in few), strict=True)
    )
    made.add_row(f"{there}, 300 requests, mean of {SEEDS} seeds", *map(rate_text, means))
    return made


def transfers_table(requests: int) -> Table:
    names = ("model", "link", "requests/s", "P95, ms", "within 30 ms", "of all latency", "waiting for a seat")
    made = table("What the keys and values take on their way", names)
    small, large = APPLICATIONS[0], APPLICATIONS[2]
    runs = (
        ("OPT-13B", "NVLink", placed(small), 3.0),
        ("OPT-66B", "NVLink", placed(large), 2.0),
        ("OPT-175B, roofline", "NVLink", placed_175b(), 3.0),
        ("OPT-13B", "25 Gbit/s", placed(small, ETHERNET), 3.0),
        ("OPT-66B", "25 Gbit/s", placed(large, ETHERNET), 1.0),
    )
    for name, link, arm, rate in runs:
        found = moved(arm, "chat", requests, rate)
        shares = (f"{found.within:.1%}", f"{found.share:.3%}", f"{found.waiting:.2%}")
        made.add_row(name, link, f"{rate:g}", f"{found.p95_s * 1e3:.1f}", *shares)
    return made


def why_arms(app: Application) -> dict[str, tuple[Resolved, Resolved]]:
    """What else could have been: DistServe's fleet and vLLM's replica."""
    apart, vllm, small = placed(app), colocated(app, VLLM), app.model == OPT_13B
    arms = {"as above": (apart, vllm), "memory to spare": (roomy(apart), roomy(vllm))}
    arms |= {f"vLLM's steps {ms} ms longer": (apart, slower(vllm, ms)) for ms in (10, 20, 30, 40)}
    for tp in (2, 4) if small else (8,):
        arms[f"vLLM on TP {tp}"] = (apart, colocated(app, VLLM, tp))
    if small:
        arms["DistServe on TP 1 + TP 1"] = (pair(1, 1, app.slo), vllm)
        arms["DistServe on TP 2 + TP 2"] = (pair(2, 2, app.slo), vllm)
    else:
        arms["DistServe's answers on TP 4, one stage"] = (placed(app, answers=(4, 1)), vllm)
    arms["keys and values at 25 Gbit/s"] = (placed(app, ETHERNET), vllm)
    for scale in (0.9, 0.8, 0.7):
        tight = app.scaled(scale)
        arms[f"objectives {scale:g} times as long"] = (placed(tight), colocated(tight, VLLM))
    return arms


def why_table(bench: Bench) -> Table:
    names = ("what", "application", "distserve", "vllm-v0", "over vLLM")
    made = table("Goodput, requests/s for each device, 90 % within both objectives", names)
    for app in (APPLICATIONS[0], APPLICATIONS[2]):
        say(f"why: {app.name}")
        arms = why_arms(app)
        pairs = list(arms.values())
        unlike = {id(arm): arm for pair in pairs for arm in pair}
        found = dict(zip(unlike, bench.search(list(unlike.values()), [app.data] * len(unlike)), strict=True))
        for what, (apart, vllm) in arms.items():
            one, other = found[id(apart)].joint, found[id(vllm)].joint
            made.add_row(what, app.name, rate_text(one), rate_text(other), over(one, other))
        for what, one, other in short(bench, app):
            made.add_row(what, app.name, rate_text(one), rate_text(other), over(one, other))
    return made


def short(bench: Bench, app: Application) -> list[tuple[str, Rate, Rate]]:
    """Another seed; and as few requests as the artifact sends at each rate, the mean of several seeds."""
    arms = (placed(app), colocated(app, VLLM))
    one, other = bench._replace(seed=1).search(arms, [app.data] * 2)
    few: list[list[float]] = [[], []]
    for seed in range(SEEDS):
        for i, arm in enumerate(arms):
            smaller = bench._replace(requests=app.sent * devices(arm), seed=seed)
            few[i].append(smaller.search([arm], [app.data])[0].joint or 0.0)
    means = [sum(found) / SEEDS for found in few]
    return [("another seed", one.joint, other.joint), ("as few requests as in the artifact", means[0], means[1])]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--requests", type=int, default=6_000, help="of a probe (default: 6,000)")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes (default: one a core)")
    return parser.parse_args()


def main() -> None:
    """Run the parts that are asked for, and print their tables."""
    given = arguments()
    chosen = [part for part in PARTS if getattr(given, part)] or PARTS
    out, began = Console(width=240, highlight=False), time.perf_counter()
    with Workers(given.jobs) as workers:
        bench = Bench(workers, given.requests)
        if "memory" in chosen:
            out.print(memory_table())
        if "capacity" in chosen:
            say("capacity")
            out.print(lengths_table())
            found = rows(bench)
            out.print(capacity_table(found))
            out.print(apart_table(found))
        if "simulator" in chosen:
            say("simulator")
            out.print(simulator_table(bench))
            out.print(example_table(bench))
        if "transfers" in chosen:
            say("transfers")
            out.print(transfers_table(given.requests))
        if "why" in chosen:
            out.print(why_table(bench))
    say(f"{time.perf_counter() - began:.0f} s with {given.jobs} processes")


if __name__ == "__main__":
    main()
