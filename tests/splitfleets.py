"""Fleets of prefill, decode and mixed replicas built by hand: step times that are straight lines, links as one likes."""

from __future__ import annotations

from typing import NamedTuple

from phasewise.core.spec import (
    DECODE,
    MIXED,
    PREFILL,
    Deployment,
    LinkSpec,
    PolicySpec,
    ReplicaSpec,
    Resolved,
    ResolvedReplica,
    Slo,
)
from phasewise.core.steptimes import DecodeTimes, PrefillTimes, StepTimes
from phasewise.policy import catalog
from worlds import TOY_DEVICE, TOY_MODEL

BLOCK = 16


class Lines(NamedTuple):
    """A step of prompts takes 1 us and `token_ms` for each token, one of decodes `step_ms` and `sequence_ms` for each."""

    token_ms: float
    step_ms: float
    sequence_ms: float

    def times(self) -> StepTimes:
        decode = DecodeTimes(step_us=self.step_ms * 1e3, sequence_us=self.sequence_ms * 1e3)
        return StepTimes("linear", "made up", PrefillTimes(step_us=1.0, token_us=self.token_ms * 1e3), (decode,))


class Group(NamedTuple):
    """`count` replicas of a role, with so many blocks each."""

    role: str
    count: int
    blocks: int = 100_000


def fleet(
    groups: list[Group],
    lines: Lines,
    *,
    batcher: PolicySpec | None = None,
    router: str = "round-robin",
    link: LinkSpec | None = None,
    slo: Slo | None = None,
) -> Resolved:
    """A resolved deployment of one device a replica, under the batcher `distserve` unless another is named."""
    spec = catalog.resolved("batcher", batcher or PolicySpec("distserve"))
    deployment = Deployment(
        model="toy",
        replicas=tuple(ReplicaSpec("toy", group.count, role=group.role) for group in groups),
        batcher=spec,
        router=catalog.resolved("router", PolicySpec(router)),
        block_tokens=BLOCK,
        slo=slo or Slo(),
        prefix_cache=False,
        link=link or LinkSpec("free"),
    )
    replicas = tuple(
        ResolvedReplica(TOY_DEVICE, 1, group.blocks, group.blocks * BLOCK, lines.times(), 1, group.role, number)
        for number, group in enumerate(groups)
        for _ in range(group.count)
    )
    return Resolved(deployment, TOY_MODEL, replicas, "made up")


def split(prefills: int, decodes: int) -> list[Group]:
    return [Group(PREFILL, prefills), Group(DECODE, decodes)]


def together(count: int) -> list[Group]:
    return [Group(MIXED, count)]
