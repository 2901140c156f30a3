"""A run in words and figures: rows of text that a table or a title is made of. It does not know how they are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec

from phasewise.core.spec import MIXED, Deployment, PolicySpec, Resolved, ResolvedReplica, Slo
from phasewise.record.bubbles import busy_ns
from phasewise.record.header import Header
from phasewise.record.runlog import RunLog

NONE = "–"
LATENCIES = {
    "ttft_s": ("TTFT", "time to first token"),
    "tbt_s": ("TBT", "time between tokens"),
    "tpot_s": ("TPOT", "time per output token"),
    "e2e_s": ("E2E", "whole request"),
    "delay_s": ("delay", "until first scheduled"),
}
STATISTICS = ("mean", "p50", "p90", "p99")


class Row(msgspec.Struct, frozen=True):
    """One row of a table: its name, what it means, the unit of its cells, the cells."""

    name: str
    note: str
    unit: str
    cells: tuple[str, ...]


def facts(header: Header, requests: int) -> list[tuple[str, str]]:
    """What ran, as (name, text): model, replicas, batcher, router (if it has a choice), workload, basis of the times."""
    resolved = header.resolved
    model = resolved.model
    rows = [
        ("model", f"{model.name} · {model.dtype} · {model.parameters / 1e9:.2f} billion parameters"),
        ("replicas", "; ".join(_groups(header))),
        ("batcher", _batchers(resolved)),
    ]
    if len(resolved.replicas) > 1:
        rows.append(("router", policy_text(resolved.deployment.router)))
    if any(replica.role != MIXED for replica in resolved.replicas):
        rows.append(("link", resolved.deployment.link.name))
    rows += predictions([resolved.deployment])
    rows.append(("workload", f"{workload_text(header)} · {requests:,} requests · seed {header.seed}"))
    rows.append(("times rest on", resolved.basis))
    if "prefix_block_tokens" in header.workload:
        rows.append(("prefix cache", "on" if resolved.deployment.prefix_cache else "none"))
    return rows


def counts(log: RunLog) -> list[tuple[str, str]]:
    """What came of it, as (name, text): requests, tokens, the time simulated, how busy the replicas were."""
    s = log.summary
    ends = [
        f"{s[name]:,} {name}"
        for name in ("completed", "rejected", "cancelled", "failed")
        if s[name] or name == "completed"
    ]
    inside = s["requests"] - sum(s[name] for name in ("completed", "rejected", "cancelled", "failed"))
    ends += [f"{inside:,} still inside"] if inside else []
    forced = f" · {s['forced']:,} forced" if s["forced"] else ""
    throughput = number(s["throughput_tokens_per_s"])
    busy, batch = _load(log)
    rows = [
        ("requests", f"{s['requests']:,} arrived · {' · '.join(ends)}"),
        ("tokens", f"{s['tokens_in']:,} in · {s['tokens_out']:,} out{_found(s)}"),
        ("throughput", f"{throughput} output tokens/s"),
        (
            "simulated",
            f"{duration(s['simulated_s'])} · {s['iterations']:,} iterations · {s['preemptions']:,} preemptions{forced}",
        ),
        ("replicas busy", f"{share(busy)} of the time · {number(batch)} requests decoding together on average"),
    ]
    if "bubbles" in s:
        rows.append(("bubbles", _bubbles(s["bubbles"])))
    joint = s["scores"]["joint_attainment"]["joint"]
    goals = objectives(log.header)
    if any(c.slo != Slo() for c in log.header.classes):
        goals = f"{goals}, or its class's" if goals else "those of the classes"
    if goals and joint is not None:
        rows.append(("objectives", f"{goals}: met by {share(joint)} of the requests"))
    return rows


def latency_rows(summary: dict[str, Any]) -> list[Row]:
    """TTFT, TBT, TPOT, E2E and delay: mean and percentiles, each row in one unit."""
    return [_timed(*names, [summary[key][s] for s in STATISTICS]) for key, names in LATENCIES.items()]


def class_rows(summary: dict[str, Any]) -> list[Row]:
    """One row a class of requests: how many were completed, medians of TTFT, TPOT and E2E, the share within objectives."""
    rows = []
    for name, s in summary.get("classes", {}).items():
        medians = (f"{duration(s[key]['p50'])}" for key in ("ttft_s", "tpot_s", "e2e_s"))
        done = f"{s['completed']:,} of {s['requests']:,}"
        rows.append(Row(name, "", "", (done, *medians, share(s["attainment"]["joint"]))))
    return rows


def side_by_side(runs: Sequence[tuple[str, RunLog]]) -> list[Row]:
    """Several runs beside one another, one cell a run in the order given, each row in one unit."""
    all_s = [log.summary for _, log in runs]
    rows = [
        _timed(f"{LATENCIES[key][0]} {stat}", LATENCIES[key][1], [s[key][stat] for s in all_s])
        for key, stat in (
            ("ttft_s", "p50"),
            ("ttft_s", "p99"),
            ("tbt_s", "p50"),
            ("tbt_s", "p99"),
            ("delay_s", "p50"),
            ("e2e_s", "p50"),
        )
    ]
    rows.append(_counted("throughput", "output tokens", "tokens/s", [s["throughput_tokens_per_s"] for s in all_s]))
    rows.append(_counted("preemptions", "requests computed again", "", [s["preemptions"] for s in all_s]))
    rows.append(_counted("completed", "requests served to their end", "", [s["completed"] for s in all_s]))
    if any(s["rejected"] for s in all_s):
        rows.append(_counted("rejected", "prompts longer than the context", "", [s["rejected"] for s in all_s]))
    if any(log.header.scenario is not None for _, log in runs):
        rows.append(_counted("failed", "no replica was left", "", [s["failed"] for s in all_s]))
        retries = [int(log.tables.requests["attempts"].sum()) for _, log in runs]
        rows.append(_counted("retries", "attempts after the first", "", retries))
    goals = [objectives(log.header) for _, log in runs]
    if all(goals) and len(set(goals)) == 1:
        met = tuple(share(s["scores"]["joint_attainment"]["joint"]) for s in all_s)
        rows.append(Row("in time", goals[0], "", met))
    return rows


def policy_text(spec: PolicySpec) -> str:
    """A policy's name with its parameters: "sarathi (token_budget 512, max_seqs 128)"."""
    params = ", ".join(f"{key} {value}" for key, value in spec.params.items())
    return f"{spec.name} ({params})" if params else spec.name


def predictions(deployments: Sequence[Deployment]) -> list[tuple[str, str]]:
    """Who says how long answers will be, as one (name, text), and whether it is an oracle; nothing where nobody does."""
    found = dict.fromkeys(
        policy_text(d.predictor) + ", which reads the true lengths" * d.oracle
        for d in deployments
        if d.predictor.name != "none"
    )
    return [("lengths by", " · ".join(found))] if found else []


def workload_text(header: Header) -> str:
    """The workload's name and rate: "azure-conv at 5.00 requests/s", or "chat, 8 users who think 5 s" (on average)."""
    users = header.workload.get("users")
    if users is not None:
        think = duration(header.workload["think_s"])
        return f"{header.workload['name']}, {users:,} user{'s' * (users > 1)} who think{'s' * (users == 1)} {think}"
    rate = header.workload["mean_rate_rps"]
    return f"{header.workload['name']} {'all at once' if rate is None else f'at {number(rate)} requests/s'}"


def devices_text(resolved: Resolved) -> str:
    """All replicas: "2 × h100, tp 4 + 1 × a100-80gb"."""
    groups: dict[str, int] = {}
    for replica in resolved.replicas:
        name = f"{replica.device.name}{degrees(replica)}"
        groups[name] = groups.get(name, 0) + 1
    return " + ".join(f"{count} × {name}" for name, count in groups.items())


def degrees(replica: ResolvedReplica) -> str:
    """How many devices share a replica, and how: ", tp 4, pp 2"; nothing for one."""
    return "".join(f", {name} {n}" for name, n in (("tp", replica.tp), ("pp", replica.pp)) if n > 1)


def objectives(header: Header) -> str:
    """The deployment's objectives in words: "TTFT ≤ 1 s, TPOT ≤ 50 ms"; nothing if it has none."""
    slo = header.resolved.deployment.slo
    named = (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s))
    return ", ".join(f"{name} ≤ {duration(value)}" for name, value in named if value is not None)


def duration(seconds: float | None) -> str:
    """A span of time with its unit, to about three digits: "8.3 ms", "1.24 s", "66 min 15 s", "3 h 02 min"."""
    if seconds is None:
        return NONE
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600):,} h {int(seconds % 3600 // 60):02d} min"


def number(value: float | None) -> str:
    """A number with three digits or all before its point: "0.0412", "53.2", "1,204"."""
    if value is None or math.isnan(value):
        return NONE
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(digits, 6)}f}"


def share(value: float | None) -> str:
    """A share of 1 as a percentage. Only all is "100.0 %", and only none "0.0 %"."""
    if value is None:
        return NONE
    shown = min(max(value, 0.001), 0.999) if 0 < value < 1 else value
    return f"{shown * 100:.1f} %"


def _timed(name: str, note: str, seconds: Sequence[float | None]) -> Row:
    """A row of times in milliseconds, or in seconds if one of them is long."""
    slow = max((s for s in seconds if s is not None), default=0.0) >= 10
    scale, unit = (1.0, "s") if slow else (1e3, "ms")
    return Row(name, note, unit, tuple(NONE if s is None else number(s * scale) for s in seconds))


def _counted(name: str, note: str, unit: str, values: Sequence[float | None]) -> Row:
    return Row(name, note, unit, tuple(number(v) if v is None or isinstance(v, float) else f"{v:,}" for v in values))


def _groups(header: Header) -> list[str]:
    """Equal replicas together: "2 × h100 (tp 1), context 131,072, KV memory 446,848 tokens"."""
    block = header.resolved.deployment.block_tokens
    out = []
    for replica, group in groupby(header.resolved.replicas):
        room = f"context up to {replica.max_context:,} tokens · KV memory for {replica.blocks * block:,}"
        role = f" for {replica.role}" if replica.role != MIXED else ""
        out.append(f"{len(list(group))} × {replica.device.name}{degrees(replica)}{role} · {room}")
    return out


def _batchers(resolved: Resolved) -> str:
    """The batcher of all; where groups have their own, each with the roles that it is for."""
    found: dict[str, dict[str, None]] = {}
    for i, replica in enumerate(resolved.replicas):
        found.setdefault(policy_text(resolved.batcher(i)), {})[replica.role] = None
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{' and '.join(roles)}: {text}" for text, roles in found.items())


def _found(s: dict[str, Any]) -> str:
    """How much of the prompts was in the prefix cache, if anything was."""
    return (
        f" · {share(s['tokens_cached'] / s['tokens_in'])} of in found in the prefix cache" if s["tokens_cached"] else ""
    )


def _bubbles(found: dict[str, Any]) -> str:
    """How long stages stood idle between micro-batches, by class; and how long for lack of any."""
    classes = " · ".join(f"{name.upper()} {duration(found[f'{name}_s'])}" for name in ("pb1", "pb2", "pb3"))
    return f"{share(found['share'])} of the stages' time · {classes} · too few micro-batches {duration(found['unfilled_s'])}"


def _load(log: RunLog) -> tuple[float, float | None]:
    """The share of the simulated time that a replica spent in steps, and requests in a decode step; means over all."""
    spent = decoded = in_decode = 0.0
    for steps in log.tables.steps:
        spent += float(busy_ns(steps))
        some = steps["decodes"] > 0
        decoded += float((steps["decodes"] * steps["steps"]).sum())
        in_decode += float(steps["steps"][some].sum())
    there = log.summary["simulated_s"] * 1e9 * len(log.tables.steps)
    return (spent / there if there else 0.0), (decoded / in_decode if in_decode else None)
