"""What a load must keep to be within its objectives: three published ways to say so, which never share a table.

`Percentiles`: one percentile of a metric each, as Sarathi-Serve's capacity has it (OSDI'24, section 5: P99 of all gaps between
tokens, median scheduling delay). `Attainment`: the share of requests that keep both objectives of the deployment, as DistServe
(OSDI'24, section 2). `TokenDeadlines`: the share of requests all of whose tokens are in time, as PolyServe. It does not know
how a search uses them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import numpy as np

from phasewise.core.errors import InputError, unknown
from phasewise.core.spec import Slo
from phasewise.core.units import NS_PER_S
from phasewise.record.header import Header
from phasewise.record.metrics import Scored, joint_attainment, rank, slowdowns, token_deadlines

METRICS = ("ttft", "tbt", "tpot", "e2e", "delay", "slowdown", "slowdown_ttft", "slowdown_tbt")
_SLOWDOWNS = {"slowdown": "e2e", "slowdown_ttft": "ttft", "slowdown_tbt": "tbt"}
UNITLESS = tuple(_SLOWDOWNS)
FORM = "write METRIC=SECONDS@pNN, such as tbt=0.1@p99"
_TARGET = re.compile(r"\s*([^=@]+)=([^=@]+)@p([0-9.]+)\s*")


class Target(msgspec.Struct, frozen=True):
    """At most `limit` (seconds; of slowdowns, times that of the same request alone) at this percentile of a metric."""

    metric: str
    limit: float
    percentile: float

    @property
    def name(self) -> str:
        """As a key of scores: "tbt@p99"."""
        return f"{self.metric}@p{self.percentile:g}"


class Percentiles(msgspec.Struct, frozen=True, tag="percentiles"):
    """Every target must be met."""

    targets: tuple[Target, ...]


class Attainment(msgspec.Struct, frozen=True, tag="attainment"):
    """At least this share (0 to 1) of the requests must meet both TTFT and TPOT of the deployment's `slo`."""

    share: float


class TokenDeadlines(msgspec.Struct, frozen=True, tag="token_deadlines"):
    """At least this share (0 to 1) of the requests must have every token in time by the deployment's `slo`."""

    share: float


Objective = Percentiles | Attainment | TokenDeadlines
Scores = dict[str, float]


_NINE = {"slowdown_ttft": (2.0, 3.0, 6.0), "slowdown_tbt": (1.25, 1.5, 5.0), "slowdown": (1.25, 1.5, 5.0)}
SETS = {
    "splitwise": tuple(
        Target(metric, limit, percentile)
        for metric, limits in _NINE.items()
        for limit, percentile in zip(limits, (50.0, 90.0, 99.0), strict=True)
    )
}
"""Targets that go by one name: the nine slowdowns of Splitwise (ISCA'24, Table 6)."""


def parse_target(text: str, where: str | None = None) -> Target:
    """ "tbt=0.1@p99" as a target. InputError, led by `where`, that shows the right form."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise InputError(f"not an objective; {FORM}", where)
    metric, limit_text, percentile_text = (part.strip() for part in found.groups())
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS, where)
    try:
        limit, percentile = float(limit_text), float(percentile_text)
    except ValueError:
        raise InputError(f"not an objective; {FORM}", where) from None
    if not 0 < limit < 1e9:
        unit = "a factor" if metric in UNITLESS else "seconds"
        raise InputError(f"limit {limit_text}; give {unit} above 0, as a plain number", where)
    if not 0 < percentile <= 100:
        raise InputError(f"percentile {percentile_text}; give one above 0, up to 100", where)
    return Target(metric, limit, percentile)


def percentiles(texts: Sequence[str]) -> Percentiles:
    """The objective that several texts such as "tbt=0.1@p99", or names of `SETS`, describe. InputError if one is malformed
    or stands twice."""
    targets: dict[str, Target] = {}
    for text in texts:
        where = f"--slo {text}"
        for target in SETS.get(text.strip()) or (parse_target(text, where),):
            if target.name in targets:
                raise InputError(f"{target.name} is limited twice; leave one of them out", where)
            targets[target.name] = target
    return Percentiles(tuple(targets.values()))


def as_objective(given: Objective | Sequence[str]) -> Objective:
    """An objective as it is, or from the texts that `--slo` takes."""
    return given if isinstance(given, Percentiles | Attainment | TokenDeadlines) else percentiles(given)


def check(objective: Objective, slo: Slo) -> None:
    """InputError if an objective is empty, out of range, or lacks the deployment's `slo` that it speaks of."""
    if isinstance(objective, Percentiles):
        if not objective.targets:
            raise InputError(f"no objective to keep; {FORM}")
        return
    flag = "--attainment" if isinstance(objective, Attainment) else "--token-deadlines"
    if not 0 < objective.share <= 1:
        raise InputError(f"{objective.share:g} is not a share; give one above 0, up to 1", flag)
    missing = [name for name in ("ttft_s", "tpot_s") if getattr(slo, name) is None]
    if len(missing) == 2 or (missing and isinstance(objective, TokenDeadlines)):
        remedy = " ".join(f"--set slo.{name}={value}" for name, value in (("ttft_s", 1), ("tpot_s", 0.05)))
        raise InputError(f"the deployment has no slo.{' and no slo.'.join(missing)}; give them, such as {remedy}", flag)


def limits(objective: Objective) -> Scores:
    """What each score of an objective is held against: an upper limit of a percentile, a lower one of a share."""
    if isinstance(objective, Percentiles):
        return {target.name: target.limit for target in objective.targets}
    return {"attainment" if isinstance(objective, Attainment) else "token_deadlines": objective.share}


def judge(objective: Objective, scored: Scored, header: Header) -> tuple[Scores, tuple[str, ...]]:
    """The scores of a run, by name, and the names of those that miss.

    Percentiles are of the requests that finished (gaps: all of their gaps); shares are of all but the cancelled. InputError
    if a percentile has no samples although requests finished. A run in which none finished has no scores and misses all.
    """
    if not len(scored.requests):
        return {}, tuple(limits(objective))
    if isinstance(objective, Percentiles):
        scores = {target.name: _value(target, scored, header) for target in objective.targets}
        return scores, tuple(t.name for t in objective.targets if scores[t.name] > t.limit)
    slo = header.resolved.deployment.slo
    if isinstance(objective, Attainment):
        found = joint_attainment(scored, slo)
        name, value = "attainment", found["joint"]
        scores = {"attainment_ttft": found["ttft"] or 0.0, "attainment_tpot": found["tpot"] or 0.0}
    else:
        name, value, scores = "token_deadlines", token_deadlines(scored, slo)["attained"], {}
    scores = {name: value or 0.0, **scores}
    return scores, () if scores[name] >= objective.share else (name,)


def worst(objective: Objective, scores: Scores) -> tuple[str, float]:
    """The score that is nearest to its limit, or furthest beyond it, and the ratio of the two: above 1 it misses.

    Of a share, which must not be too low, the ratio is limit / share. A run without scores is infinitely far off.
    """
    held = limits(objective)
    if isinstance(objective, Percentiles):
        ratios = {name: scores[name] / limit if scores else np.inf for name, limit in held.items()}
    else:
        ratios = {name: limit / scores[name] if scores.get(name) else np.inf for name, limit in held.items()}
    return max(ratios.items(), key=lambda item: item[1])


def _value(target: Target, scored: Scored, header: Header) -> float:
    share = target.percentile / 100
    if target.metric == "tbt":
        value = scored.gaps_ns.quantiles([share])[0] / NS_PER_S
    else:
        if target.metric in _SLOWDOWNS:
            samples = slowdowns(scored, header).get(_SLOWDOWNS[target.metric], np.empty(0))
        else:
            samples = getattr(scored, f"{target.metric}_s")
        samples = np.sort(samples[~np.isnan(samples)])
        value = float(samples[rank(share, len(samples))]) if len(samples) else float("nan")
    if np.isnan(value):
        alone = target.metric in _SLOWDOWNS and not header.reference_ttft
        why = "no unloaded reference" if alone else "only answers of one token"
        raise InputError(f"there is no {target.metric} to limit: the run has {why}", f"--slo {target.name}")
    return value


def words(objective: Objective, slo: Slo | None = None) -> str:
    """The objective in words: "tbt p99 ≤ 0.1 s, delay p50 ≤ 2 s"."""
    if isinstance(objective, Percentiles):
        said = ((t, "x" if t.metric in UNITLESS else "s") for t in objective.targets)
        return ", ".join(f"{t.metric} p{t.percentile:g} ≤ {t.limit:g} {unit}" for t, unit in said)
    named = (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s)) if slo is not None else ()
    goals = ", ".join(f"{name} ≤ {value:g} s" for name, value in named if value is not None)
    what = "requests within" if isinstance(objective, Attainment) else "requests with every token in time by"
    return f"{objective.share:.4g} of the {what} {goals or 'their objectives'}"
