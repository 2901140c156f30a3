"""DistServe's pull: what a full decode replica does to the prefill replica behind it, and whom it accepts ahead of seats."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pytest

from fleets import Lines, fleet, split
from phasewise.core.action import Enter, Outcome, Pull, Run
from phasewise.core.event import Pulled
from phasewise.core.message import PromptDone, Release
from phasewise.core.spec import LinkSpec
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from worlds import workload

BLOCK = 16
LINES = Lines(0.1, 10.0, 0.1)
PROMPT, OUTPUT = 3 * BLOCK + 1, 15
"""Four blocks from the prompt to the last token: nobody grows, so nobody is preempted."""
SLOW = LinkSpec("ethernet-25g", gb_s=1.2e-4)
"""A prompt's keys and values take 0.1 s, ten times as long as a decode step."""
CLUSTER, PREFILLING, DECODING = range(3)
"""Rooms of a log."""


def run(
    requests: int,
    kept: int,
    taken: int,
    outputs: list[int] | None = None,
    share: float = 1.0,
    link: LinkSpec = LinkSpec("free"),
) -> RunLog:
    """Prompts of four blocks, all at once, on a prefill replica of `kept` blocks before a decode replica of `taken`."""
    params = {"saturation_tokens": PROMPT, "accept_share": share}
    both = fleet(split(1, 1), "distserve", params, lines=LINES, link=link, blocks=[kept, taken], block_tokens=BLOCK)
    return simulate(both, workload([(0, PROMPT, tokens) for tokens in outputs or [OUTPUT] * requests]))


class Prompt(NamedTuple):
    """When a prompt began, was done, and had left the prefill replica."""

    began_ns: int
    done_ns: int
    gone_ns: int


def prompts(log: RunLog) -> list[Prompt]:
    """Of each request, in order of their ids."""
    began, done, gone = {}, {}, {}
    for at_ns, event, actions in log.records(PREFILLING):
        if isinstance(event, Release):
            gone[event.request] = at_ns
        for action in actions:
            if isinstance(action, PromptDone):
                done[action.request] = at_ns
            elif isinstance(action, Run):
                began |= {chunk.request: at_ns for chunk in action.plan.chunks}
    return [Prompt(began[i], done[i], gone[i]) for i in sorted(began)]


def test_a_full_decode_replica_stops_the_prefill_replica_through_its_memory() -> None:
    """Room for eight prompts; decodes hold four. The ninth prompt begins when the first has left, and so on."""
    log = run(30, kept=32, taken=16)
    found = prompts(log)
    assert len(found) == 30
    for first, later in zip(found, found[8:], strict=False):
        assert later.began_ns >= first.gone_ns
    parked = [sum(p.done_ns <= q.began_ns < p.gone_ns for p in found) for q in found]
    assert max(parked) == 7  # and the one that it begins is the eighth
    busy_ns = sum(p.done_ns - p.began_ns for p in found)
    assert found[-1].done_ns - found[0].began_ns > 5 * busy_ns, "it is the decodes that set the pace"


def test_nothing_is_lost_behind_a_full_decode_replica() -> None:
    outputs = [2 + 7 * i % 90 for i in range(40)]
    log = run(40, kept=24, taken=16, outputs=outputs)
    table = log.tables.requests
    assert (table["outcome"] == Outcome.FINISHED).all()
    assert table[np.argsort(table["request"])]["tokens"].tolist() == outputs
    assert len(log.tables.transfers[1]) == 40
    assert log.summary["completed"] == 40


def test_it_flows_again_when_decodes_end() -> None:
    """Whoever waits is pulled at the very step at which the blocks of those before come free, and the next prompt begins."""
    log = run(30, kept=32, taken=16)
    freed = {at_ns for at_ns, event, actions in log.records(DECODING) if getattr(event, "ended", ())}
    pulled = [at_ns for at_ns, event, actions in log.records(DECODING) for a in actions if isinstance(a, Pull)]
    found = prompts(log)
    late = [at_ns for at_ns in pulled if at_ns > found[7].done_ns]
    assert late
    assert set(late) <= freed
    assert {p.began_ns for p in found[12:]} <= {p.gone_ns for p in found} | {p.done_ns for p in found}


def test_with_memory_to_spare_the_prefill_replica_never_waits() -> None:
    found = prompts(run(30, kept=32, taken=2_000))
    assert all(b.began_ns == a.done_ns for a, b in itertools.pairwise(found))


def ahead(log: RunLog) -> list[tuple[int, int]]:
    """At each acceptance: the blocks of those accepted before and not seated, and with this one."""
    waiting: dict[int, int] = {}
    found = []
    for _, _, actions in log.records(DECODING):
        for action in actions:
            if isinstance(action, Pull):
                before = sum(waiting.values())
                waiting[action.request] = -(-action.tokens // BLOCK)
                found.append((before, sum(waiting.values())))
            elif isinstance(action, Enter):
                del waiting[action.request]
    assert not waiting
    return found


@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
def test_acceptance_is_bound_by_the_blocks_of_those_accepted_and_not_seated(share: float) -> None:
    """A slow link and quick prompts: only the rule holds the decode replica back, and what it lets in overshoots by one."""
    log = run(60, kept=1_000, taken=400, share=share, link=SLOW)
    found = ahead(log)
    assert len(found) == 60
    assert max(before for before, _ in found) < share * 400
    assert max(after for _, after in found) <= -(-share * 400 // 4) * 4
    if share < 1.0:
        assert max(after for _, after in found) >= share * 400, "the rule never bound"


def test_the_rule_holds_pulls_back_and_loses_none() -> None:
    tight, loose = (run(60, kept=1_000, taken=400, share=s, link=SLOW) for s in (0.05, 1.0))
    under_way = []
    for log in (tight, loose):
        spans = [(e.began_ns, at) for at, e, _ in log.records(DECODING) if isinstance(e, Pulled)]
        under_way.append(max(sum(b <= began < end for b, end in spans) for began, _ in spans))
        assert log.summary["completed"] == 60
    assert under_way[0] <= 5 < under_way[1]
