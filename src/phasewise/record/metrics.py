"""The scores of a run: pure functions of its columns. They cannot tell a simulation from a live run.

Definitions, once. A percentile is the smallest sample that at least that share of the samples does not exceed. `delay` is
arrival to first scheduled chunk; TTFT arrival to first token; TPOT a request's mean gap between tokens; TBT a single gap,
pooled over all tokens; E2E arrival to last token. Latencies are of requests that finished. Throughput is output tokens over
(last token - first arrival).

The published systems score themselves differently; each scorer below is one of them, and they never share a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasewise.core.action import Outcome
from phasewise.core.spec import RequestClass, Slo
from phasewise.core.units import NS_PER_S
from phasewise.record.bubbles import bubbles
from phasewise.record.columns import HANDED, LOST, PREEMPTED
from phasewise.record.gaps import Mixture, by_cohort, first_tokens, latest_tokens, resumptions, token_gaps
from phasewise.record.header import Header, Tables

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Classes = Sequence[RequestClass]
SHARES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}


class Scored:
    """What every scorer reads, worked out once: each request's instants, and the pooled gaps.

    `requests` are the rows of the requests that finished; `delay_s, ttft_s, e2e_s, tpot_s` are theirs (TPOT: nan for an
    answer of one token), `tbt_s` the distribution of all gaps between tokens. Seconds. `gaps_ns` holds the gaps themselves.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.parts = [by_cohort(steps, spans) for steps, spans in zip(tables.steps, tables.spans, strict=True)]
        self.spans = _merge(tables.spans)
        replica = np.repeat(np.arange(len(tables.spans)), [len(s) for s in tables.spans])
        start = [_starts(*pair) for pair in zip(tables.steps, tables.spans, strict=True)]
        start_ns = np.concatenate(start) if start else np.empty(0, np.int64)
        request = self.spans["request"]
        order = np.argsort(request, kind="stable") if len(start) == 1 else np.lexsort((start_ns, request))
        self._order, self._replica = order, replica
        everyone = tables.requests
        size = int(everyone["request"].max()) + 1 if len(everyone) else 0
        self._first_chunk = np.full(size, -1, np.int64)
        self._first_token = np.full(size, -1, np.int64)
        self._last_token = np.full(size, -1, np.int64)
        self._place()
        self.finished = everyone["outcome"] == Outcome.FINISHED
        self.requests = done = everyone[self.finished]
        ids = done["request"]
        self.delay_s = (self._first_chunk[ids] - done["arrival_ns"]) / NS_PER_S
        self.ttft_s = (self._first_token[ids] - done["arrival_ns"]) / NS_PER_S
        self.e2e_s = (self._last_token[ids] - done["arrival_ns"]) / NS_PER_S
        gaps = done["tokens"] - 1
        self.tpot_s = np.full(len(done), np.nan)
        np.divide((self._last_token - self._first_token)[ids] / NS_PER_S, gaps, out=self.tpot_s, where=gaps > 0)
        gaps = [gap for replica in range(len(tables.spans)) for gap in self._gaps(replica)]
        self.gaps_ns = gaps_ns = Mixture.pooled([*gaps, *self._resumed()])
        tbt_ns = {"mean": gaps_ns.mean, **dict(zip(SHARES, gaps_ns.quantiles(list(SHARES.values())), strict=True))}
        self.tbt_s = {name: _number(value / NS_PER_S) for name, value in tbt_ns.items()}
        self.last_token_ns = int(self._last_token.max(initial=-1))

    def _gaps(self, replica: int) -> list[Mixture]:
        """The gaps between tokens within the stays on one replica, nanoseconds."""
        spans = self.tables.spans[replica]
        return [token_gaps(it, spans[mine]) for it, mine in self.parts[replica]]

    def _resumed(self) -> list[Mixture]:
        """The gaps between stays, of all replicas, nanoseconds; nothing where no request has two."""
        if not np.isin(self.spans["left"], (PREEMPTED, HANDED, LOST)).any():
            return []
        first, last = [], []
        for parts, steps, spans in zip(self.parts, self.tables.steps, self.tables.spans, strict=True):
            out = np.full(len(spans), np.nan)
            for it, mine in parts:
                out[mine] = first_tokens(it, spans[mine])
            first.append(out)
            last.append(steps["end_ns"][spans["last"]].astype(np.float64) if len(steps) else out)
        order = self._order
        return [resumptions(self.spans[order], np.concatenate(first)[order], np.concatenate(last)[order])]

    def _place(self) -> None:
        """The instants of each request, from its spans in order: the first chunk and token of all, the last token of all."""
        starts, ends, lasts = [], [], []
        for steps, spans in zip(self.tables.steps, self.tables.spans, strict=True):
            starts.append(_starts(steps, spans))
            some = spans["tokens"] > 0
            fresh = some & (spans["first_token"] >= 0)
            end, last = (np.full(len(spans), -1, np.int64) for _ in range(2))
            end[fresh] = steps["end_ns"][spans["first_token"][fresh]]
            last[some] = steps["end_ns"][spans["last"][some]]
            ends.append(end)
            lasts.append(last)
        start, end, last = (np.concatenate(x)[self._order] for x in (starts, ends, lasts))
        request = self.spans["request"][self._order]
        # Written in reverse, the first span of a request has the final word; forwards, the last one has.
        self._first_chunk[request[::-1]] = start[::-1]
        token = end >= 0
        self._first_token[request[token][::-1]] = end[token][::-1]
        token = last >= 0
        self._last_token[request[token]] = last[token]

    def latest_ns(self, tpot_ns: float) -> Floats:
        """For each finished request, the largest `t_i - i * tpot_ns` over its tokens."""
        delivered = self._delivered()
        out = np.full(len(self._first_token), -np.inf)
        for i, (parts, spans) in enumerate(zip(self.parts, self.tables.spans, strict=True)):
            before = delivered[self._replica == i]
            for it, mine in parts:
                np.maximum.at(out, spans["request"][mine], latest_tokens(it, spans[mine], before[mine], tpot_ns))
        latest: Floats = out[self.requests["request"]]
        return latest

    def _delivered(self) -> NDArray[np.int64]:
        """Tokens that each span's request had been given before it, in the order of `spans`."""
        tokens = self.spans["tokens"][self._order].astype(np.int64)
        request = self.spans["request"][self._order]
        before = np.cumsum(tokens) - tokens
        head = np.ones(len(request), bool)
        head[1:] = request[1:] != request[:-1]
        before -= np.maximum.accumulate(np.where(head, before, 0))
        out = np.empty(len(tokens), np.int64)
        out[self._order] = before
        return out


def distribution(values: Floats) -> dict[str, float | None]:
    """Mean and percentiles, nan left out of both; None where there is nothing to tell."""
    values = np.sort(values[~np.isnan(values)])
    if not len(values):
        return {"mean": None, **dict.fromkeys(SHARES)}
    return {"mean": float(values.mean()), **{name: float(values[rank(q, len(values))]) for name, q in SHARES.items()}}


def rank(share: float, samples: int) -> int:
    """The place, from 0, among so many sorted samples of the smallest that at least `share` of them do not exceed."""
    return max(0, int(np.ceil(share * samples - 1e-9)) - 1)


def pooled_tbt(scored: Scored) -> dict[str, float | None]:
    """Sarathi-Serve (OSDI'24, section 5): TBT over all token gaps of all requests, and the median scheduling delay."""
    return {"tbt_p99_s": scored.tbt_s["p99"], "delay_p50_s": distribution(scored.delay_s)["p50"]}


def joint_attainment(scored: Scored, slo: Slo, classes: Classes = ()) -> dict[str, float | None]:
    """DistServe (OSDI'24, section 2): the share of requests whose TTFT and mean TPOT are both within the objectives.

    Of all requests that were not cancelled; one that was rejected or failed attains nothing. A one-token answer has no TPOT.
    A request is held to the objectives of its class, where that has them, and to `slo` in the rest.
    """
    everyone = scored.tables.requests
    return _attained(
        scored, slo, classes, everyone["outcome"] != Outcome.CANCELLED, np.ones(len(scored.requests), bool)
    )


def _attained(scored: Scored, slo: Slo, classes: Classes, counted: Flags, finished: Flags) -> dict[str, float | None]:
    """`joint_attainment` among the rows `counted` of all requests, of which `finished` marks those of `scored.requests`."""
    total = int(counted.sum())
    if not total:
        return {"ttft": None, "tpot": None, "joint": None}
    goals = _goals(slo, classes)[scored.requests["kind"]]
    ttft = (scored.ttft_s <= goals[:, 0]) & finished
    tpot = ~(scored.tpot_s > goals[:, 1]) & finished
    return {name: int(ok.sum()) / total for name, ok in (("ttft", ttft), ("tpot", tpot), ("joint", ttft & tpot))}


def _goals(slo: Slo, classes: Classes) -> Floats:
    """Rows of (TTFT, TPOT) objectives in seconds by `kind`: infinite where there is none."""
    slos = [Slo(), *(c.slo for c in classes)]
    own = [(s.ttft_s, s.tpot_s) for s in slos]
    rest = [np.inf if goal is None else goal for goal in (slo.ttft_s, slo.tpot_s)]
    return np.array([[r if g is None else g for g, r in zip(goals, rest, strict=True)] for goals in own])


def slowdown(scored: Scored, header: Header) -> dict[str, dict[str, float | None]]:
    """Splitwise (ISCA'24, section 6): TTFT, TBT and E2E over those of the same request alone on an idle replica.

    TBT is the request's mean, as there. The reference is `header.reference_*`: the whole prompt in one step, then lone
    decodes over the growing context; E2E of the reference is TTFT + TBT x (tokens - 1).
    """
    return {name: distribution(values) for name, values in slowdowns(scored, header).items()}


def slowdowns(scored: Scored, header: Header) -> dict[str, Floats]:
    """`slowdown`, request by request (one row each of `scored.requests`); nothing where there is no reference."""
    grid = np.array(header.reference_ttft, dtype=np.float64).reshape(-1, 2)
    if not len(grid):
        return {}
    prompt, tokens = scored.requests["prompt"], scored.requests["tokens"]
    base, per_token = header.reference_decode
    ttft = np.interp(prompt, grid[:, 0], grid[:, 1]) / NS_PER_S
    tbt = (base + per_token * (prompt + (tokens - 2) / 2)) / NS_PER_S
    e2e = ttft + tbt * (tokens - 1)
    pairs = (("ttft", scored.ttft_s, ttft), ("tbt", scored.tpot_s, tbt), ("e2e", scored.e2e_s, e2e))
    return {name: seen / alone for name, seen, alone in pairs}


def token_deadlines(scored: Scored, slo: Slo, classes: Classes = ()) -> dict[str, float | None]:
    """PolyServe (section on DSLO): the share of requests all of whose tokens i are out by arrival + TTFT + i x TPOT.

    Cumulative: a slow step may be repaid by fast ones. Counted over those requests of `joint_attainment` for which both
    objectives are set, by their class or by `slo`. None if there are none.
    """
    everyone = scored.tables.requests
    goals = _goals(slo, classes)
    both: Flags = np.isfinite(goals[:, 0]) & np.isfinite(goals[:, 1])
    total = int(((everyone["outcome"] != Outcome.CANCELLED) & both[everyone["kind"]]).sum())
    if not total:
        return {"attained": None}
    kind, arrival = scored.requests["kind"], scored.requests["arrival_ns"]
    attained = 0
    # One look at the tokens for each objective on their gaps, however many classes share it.
    for tpot_s in np.unique(goals[both, 1]):
        held = both[kind] & (goals[kind, 1] == tpot_s)
        due = arrival[held] + goals[kind[held], 0] * NS_PER_S
        attained += int((scored.latest_ns(tpot_s * NS_PER_S)[held] <= due).sum())
    return {"attained": attained / total}


def by_class(scored: Scored, slo: Slo, classes: Classes) -> dict[str, dict[str, Any]]:
    """Each class by itself: how many requests, their latencies, and DistServe's score over its own objectives."""
    everyone, done = scored.tables.requests, scored.requests
    found: dict[str, dict[str, Any]] = {}
    for kind, label in enumerate(classes, start=1):
        mine, ended = everyone["kind"] == kind, done["kind"] == kind
        counted = mine & (everyone["outcome"] != Outcome.CANCELLED)
        found[label.name] = {
            "requests": int(mine.sum()),
            "completed": int(ended.sum()),
            "ttft_s": distribution(scored.ttft_s[ended]),
            "tpot_s": distribution(scored.tpot_s[ended]),
            "e2e_s": distribution(scored.e2e_s[ended]),
            "attainment": _attained(scored, slo, classes, counted, ended),
        }
    return found


def summary(header: Header, tables: Tables, events: int) -> dict[str, Any]:
    """Everything that a run is summed up to, but for how long the machine took; see `docs/guide/summary.md`."""
    scored = Scored(tables)
    requests = tables.requests
    counts = np.bincount(requests["outcome"], minlength=len(Outcome))
    steps = _merge(tables.steps)
    spans = scored.spans
    first = int(requests["arrival_ns"].min()) if len(requests) else 0
    last = max((int(s["end_ns"].max()) for s in tables.steps if len(s)), default=first)
    tokens_out = int(spans["tokens"].sum())
    busy_s = (scored.last_token_ns - first) / NS_PER_S
    slo, classes = header.resolved.deployment.slo, header.classes
    found: dict[str, Any] = {
        "requests": len(requests),
        "completed": int(counts[Outcome.FINISHED]),
        "rejected": int(counts[Outcome.REJECTED]),
        "cancelled": int(counts[Outcome.CANCELLED]),
        "failed": int(counts[Outcome.FAILED]),
        "simulated_s": (last - first) / NS_PER_S,
        "events": events,
        "oracle": header.resolved.deployment.oracle,
        "iterations": int(steps["steps"].sum()),
        "tokens_cached": _cached(spans),
        "tokens_in": int(requests["prompt"][scored.finished].sum()),
        "tokens_out": tokens_out,
        "throughput_tokens_per_s": tokens_out / busy_s if busy_s > 0 else None,
        "preemptions": int((spans["left"] == PREEMPTED).sum()),
        "forced": int((steps["forced"] * steps["steps"]).sum()),
        "ttft_s": distribution(scored.ttft_s),
        "tbt_s": scored.tbt_s,
        "tpot_s": distribution(scored.tpot_s),
        "e2e_s": distribution(scored.e2e_s),
        "delay_s": distribution(scored.delay_s),
        "scores": {
            "pooled_tbt": pooled_tbt(scored),
            "joint_attainment": joint_attainment(scored, slo, classes),
            "slowdown": slowdown(scored, header),
            "token_deadlines": token_deadlines(scored, slo, classes),
        },
    }
    if classes:
        found["classes"] = by_class(scored, slo, classes)
    if (idle := bubbles(header, tables)) is not None:
        found["bubbles"] = idle
    return found


def _cached(spans: NDArray[Any]) -> int:
    """Prompt tokens that were in memory when their requests were first admitted."""
    if not spans["cached"].any():
        return 0
    return int(spans["cached"][np.unique(spans["request"], return_index=True)[1]].sum())


def _starts(steps: NDArray[Any], spans: NDArray[Any]) -> NDArray[np.int64]:
    """When each span's first row began; one that has none yet counts as last."""
    row = spans["first_chunk"]
    start = np.full(len(spans), np.iinfo(np.int64).max)
    some = row < len(steps)
    start[some] = steps["start_ns"][row[some]]
    return start


def _merge(tables: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return tables[0] if len(tables) == 1 else np.concatenate(tables)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
