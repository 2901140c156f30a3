"""A fleet in words and figures: what each group of replicas did, as rows, and what went wrong, as a line."""

from __future__ import annotations

from typing import Any

from phasewise.core.spec import MIXED
from phasewise.record.runlog import RunLog
from phasewise.report.rows import NONE, Row, duration, number, share


def fleet_rows(summary: dict[str, Any]) -> tuple[list[Row], list[str]]:
    """The numbers of `summary.fleet`, a cell a group, and the names of the groups. What no group has is left out."""
    groups = summary["fleet"]["groups"]
    roles = ["" if g["role"] == MIXED else f" {g['role']}" for g in groups]
    names = [f"{g['replicas']} × {g['device']}{role}" for g, role in zip(groups, roles, strict=True)]
    rows = [
        _row("busy", "of their time in service", [share(g["busy_share"]) for g in groups]),
        _row("prompts", "alone in a step, of busy", [share(g["prefill_share"]) for g in groups]),
        _row("both", "in one step", [share(g["both_share"]) for g in groups]),
        _row("answers", "alone in a step", [share(g["decode_share"]) for g in groups]),
        _row("batch", "decoding together, mean", [number(g["mean_decodes"]) for g in groups]),
        _row("KV peak", "the fullest replica", [share(g["kv_peak"]) for g in groups]),
    ]
    for key, name, note in (("sent", "sent", "requests handed over"), ("received", "received", "requests taken over")):
        if any(g[key] for g in groups):
            rows.append(_row(name, note, [f"{g[key]:,}" if g[key] else NONE for g in groups]))
    if any(g["received"] for g in groups):
        for stat in ("mean", "p99"):
            rows.append(_row(f"transfer {stat}", "of those", [duration(g["transfer_s"][stat]) for g in groups]))
    for key, name, note in (
        ("replicas_lost", "died", "times that a replica did"),
        ("requests_lost", "lost", "requests with them"),
    ):
        if any(g[key] for g in groups):
            rows.append(_row(name, note, [f"{g[key]:,}" for g in groups]))
    return rows, names


def tells_more(summary: dict[str, Any]) -> bool:
    """Whether a table by groups says more than the totals do: of one group of equal replicas that were always there, no."""
    fleet = summary.get("fleet")
    return fleet is not None and (len(fleet["groups"]) > 1 or fleet["replicas_lost"] > 0)


def mishaps(log: RunLog) -> list[tuple[str, str]]:
    """What a scenario came to, as (name, text); nothing without one."""
    scenario, summary = log.header.scenario, log.summary
    if scenario is None:
        return []
    fleet = summary.get("fleet")
    parts = [f"{scenario.name or 'unnamed'}: {len(scenario.faults):,} in all"]
    if fleet is not None:
        parts.append(f"{fleet['replicas_lost']:,} deaths of a replica")
        parts.append(f"{fleet['retries']:,} retries")
    parts.append(f"{summary['failed']:,} requests failed")
    return [("faults", " · ".join(parts))]


def _row(name: str, note: str, cells: list[str]) -> Row:
    return Row(name, note, "", tuple(cells))
