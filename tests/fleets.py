"""Small fleets for tests: roles, links, and what may go wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from phasewise.core.fault import MESSAGES, Cuts, Dies, Drains, Fault, Mangles, Scenario, Slows, Starts, Switches
from phasewise.core.spec import LinkSpec, PolicySpec, ReplicaSpec, Resolved, ResolvedReplica
from phasewise.policy import catalog
from worlds import TOY_DEVICE, toy_resolved

ROLES = ("prefill", "decode", "mixed")
US = 1_000

BATCHERS: dict[str, dict[str, Any]] = {
    "sarathi": {"max_seqs": 4, "token_budget": 16},
    "vllm-v0": {"max_seqs": 4, "token_budget": 24},
    "vllm-v1": {"max_seqs": 4, "token_budget": 16},
    "distserve": {"max_seqs": 4, "saturation_tokens": 24, "prefill_tokens": 60, "accept_share": 0.4},
    "splitwise": {"max_seqs": 4, "token_budget": 24, "max_preemptions": 2},
}
"""Batchers that may serve a part of a fleet, small enough for seats, budgets and blocks to run short."""


def toy_fleet(
    roles: Sequence[str],
    batcher: str = "sarathi",
    params: dict[str, Any] | None = None,
    blocks: int = 24,
    block_tokens: int = 8,
    max_context: int = 48,
    wire_s: float = 0.0,
    link: LinkSpec | None = None,
    patience_s: float | None = None,
    router: str = "round-robin",
    cold_start_s: float = 20e-6,
    report_s: float = 5e-6,
    stages: Sequence[int] = (),
    host_blocks: int = 0,
) -> Resolved:
    """A resolved deployment with one replica for each role; `stages` is how many each has, if any has more than one."""
    base = toy_resolved(
        batcher,
        BATCHERS.get(batcher, {}) if params is None else params,
        blocks,
        block_tokens,
        max_context,
        wire_s=wire_s,
    )
    pp = list(stages) or [1] * len(roles)
    deployment = msgspec.structs.replace(
        base.deployment,
        replicas=tuple(ReplicaSpec("toy", role=role, pp=n) for role, n in zip(roles, pp, strict=True)),
        router=catalog.resolved("router", PolicySpec(router)),
        link=link or LinkSpec("free"),
        patience_s=patience_s,
        cold_start_s=cold_start_s,
        report_s=report_s,
    )
    (one,) = base.replicas
    replicas = tuple(
        ResolvedReplica(TOY_DEVICE, 1, blocks, one.max_context, None, pp[i], role, i, host_blocks)
        for i, role in enumerate(roles)
    )
    return msgspec.structs.replace(base, deployment=deployment, replicas=replicas)


LINKS = (
    LinkSpec("free"),
    LinkSpec("free", gb_s=0.05, latency_us=1.0, transfer="serialised"),
    LinkSpec("free", gb_s=0.05, transfer="layer-wise"),
    LinkSpec("free", gb_s=0.2, latency_us=2.0, transfer="by-size", layer_wise_from=10),
)


@st.composite
def random_roles(draw: st.DrawFn, most: int = 4) -> list[str]:
    """Roles of a fleet in which somebody serves each phase."""
    roles = draw(st.lists(st.sampled_from(ROLES), min_size=1, max_size=most))
    if not any(role != "decode" for role in roles):
        roles.append(draw(st.sampled_from(("prefill", "mixed"))))
    if not any(role != "prefill" for role in roles):
        roles.append(draw(st.sampled_from(("decode", "mixed"))))
    return roles


@st.composite
def random_faults(draw: st.DrawFn, replicas: int, *, lossy: bool, until_ns: int = 600_000, tick: int = 1) -> Scenario:
    """Up to four things that go wrong; `lossy`: messages may be late or lost, for a while."""

    def at(low: int = 0) -> int:
        return draw(st.integers(low // tick, until_ns // tick)) * tick

    who = st.integers(0, replicas - 1)
    faults: list[Fault] = []
    kinds = ["dies", "slows", "cuts", "drains", "starts", "switches"] + ["mangles"] * 2 * lossy
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4)):
        at_ns = at()
        later = draw(st.one_of(st.none(), st.integers(1, 200_000 // tick)))
        until = None if later is None else at_ns + later * tick
        if kind == "dies":
            faults.append(Dies(at_ns, draw(who), until))
        elif kind == "slows":
            faults.append(Slows(at_ns, draw(who), draw(st.sampled_from([0.5, 2.0, 3.0])), until))
        elif kind == "cuts":
            end = st.one_of(st.none(), who)
            factor = draw(st.sampled_from([None, 2.0, 10.0]))
            faults.append(Cuts(at_ns, draw(end), draw(end), factor, until or at_ns + 100_000))
        elif kind == "drains":
            faults.append(Drains(at_ns, draw(who), draw(st.booleans())))
        elif kind == "starts":
            faults.append(Starts(at_ns, draw(who)))
        elif kind == "switches":
            faults.append(Switches(at_ns, draw(who), draw(st.sampled_from(ROLES))))
        else:
            delay = draw(st.one_of(st.none(), st.integers(1, 50)))
            name = draw(st.one_of(st.none(), st.sampled_from(MESSAGES)))
            share = draw(st.sampled_from([0.1, 0.5, 1.0]))
            late = None if delay is None else delay * US
            faults.append(Mangles(name, share, late, at_ns, until or at_ns + 100_000))
    return Scenario(tuple(faults), draw(st.integers(0, 9)))


@st.composite
def random_moves(draw: st.DrawFn, replicas: int, *, lossy: bool, until_ns: int = 600_000, tick: int = 1) -> Scenario:
    """Drains that move, early in the run, among other things that go wrong; `lossy`: orders of moves may be late or lost."""

    def at(until: int) -> int:
        return draw(st.integers(1, until // tick)) * tick

    others = draw(st.one_of(st.just(Scenario()), random_faults(replicas, lossy=lossy, until_ns=until_ns, tick=tick)))
    faults = [*others.faults]
    for _ in range(draw(st.integers(1, 3))):
        faults.append(Drains(at(until_ns // 3), draw(st.integers(0, replicas - 1)), True))
    for _ in range(draw(st.integers(1, 3)) if lossy else 0):
        late = draw(st.one_of(st.none(), st.integers(1, 90)))
        at_ns = at(until_ns // 4)
        share, name = draw(st.sampled_from([0.2, 0.5, 1.0])), draw(st.sampled_from([None, *MOVES]))
        faults.append(Mangles(name, share, None if late is None else late * US, at_ns, at_ns + 100 * US))
    return Scenario(tuple(faults), others.seed)


MOVES = (
    "evict",
    "evicted",
    "reserve",
    "reserved",
    "adopt",
    "adopted",
    "release",
    "released",
    "declined",
    "submit",
    "cancelled",
)
"""Messages on which a move hangs, as `Mangles` names them."""
