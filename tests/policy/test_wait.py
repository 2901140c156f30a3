"""WAIT against a naive twin, its bound on the memory, and its rules by hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoded import requests, steps
from hands import Hand
from phasewise.core.action import WakeAt
from phasewise.core.errors import InputError
from phasewise.core.spec import PolicySpec
from phasewise.core.view import InstanceState
from phasewise.policy.batching.wait import Kind, StepModel, Wait, cohort_tokens, fluid_thresholds
from phasewise.policy.catalog import PAPERS, build, resolved
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from worlds import ConstantLatency, Row, classed, random_rows, toy_resolved, workload

STEP_NS = 1_000
Iteration = tuple[int, list[int], list[int], bool]
"""Start, prompts, decodes, forced."""


def twin(
    rows: list[Row], kinds: list[str], n: dict[str, int], share: dict[str, int] | None, wait_ns: int | None
) -> list[Iteration]:
    """WAIT list by list, with memory and seats for all and a constant step: the paper's rule, or with shares the code's."""
    out: list[Iteration] = []
    waiting: list[int] = []
    emitted: dict[int, int] = {}
    arrived, now = 0, 0

    def come(limit_ns: int) -> None:
        nonlocal arrived
        while arrived < len(rows) and rows[arrived][0] <= limit_ns:
            waiting.append(arrived)
            arrived += 1

    while True:
        queued = {k: [r for r in waiting if kinds[r] == k] for k in n}
        wanted = dict(n)
        if share:
            held = Counter(kinds[r] for r in emitted)
            wanted = {k: max(0, min(n[k], share[k] - held[k])) for k in n}
        ready = [k for k in n if len(queued[k]) >= wanted[k]]
        due_ns = None
        if wait_ns is not None and (waiting or emitted):
            due_ns = rows[waiting[0] if waiting else arrived - 1][0] + wait_ns
        forced = due_ns is not None and now >= due_ns and (kinds[waiting[0]] not in ready if waiting else not ready)
        if not ready and not forced:
            instants = [due_ns] if due_ns is not None else []
            instants += [rows[arrived][0]] if arrived < len(rows) else []
            if not instants:
                return out
            now = max(now, min(instants))
            come(now)
            continue
        start = list(n) if forced else ready
        prompts = [r for k in start for r in queued[k][: wanted[k]]]
        decodes = [r for r in emitted if share or forced or kinds[r] in ready]
        if not prompts and not decodes:
            # A share of one's own is full of nobody only before anybody has come.
            return out
        out.append((now, sorted(prompts), sorted(decodes), forced))
        waiting = [r for r in waiting if r not in prompts]
        now += STEP_NS
        come(now - 1)
        for r in [*decodes, *prompts]:
            emitted[r] = emitted.get(r, 0) + 1
            if emitted[r] == rows[r][2]:
                del emitted[r]


def iterations(run: RunLog) -> list[Iteration]:
    found = steps(run)
    return [(round(s.start_ns), sorted(c.request for c in s.chunks), sorted(s.decodes), s.forced) for s in found]


THRESHOLDS = st.fixed_dictionaries({"chat": st.integers(1, 4), "code": st.integers(1, 3)})


@pytest.mark.parametrize("rule", ["cohort", "booking"])
@given(rows=random_rows(most=14, output=8, gap_ns=4 * STEP_NS), n=THRESHOLDS, data=st.data())
@settings(max_examples=120, deadline=None)
def test_wait_schedules_as_published(rule: str, rows: list[Row], n: dict[str, int], data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(list(n)), min_size=len(rows), max_size=len(rows)))
    wait_ns = data.draw(st.none() | st.integers(0, 30).map(lambda k: 1 + k * 700))
    types = {"chat": Kind(20, 7, 2.0, n["chat"]), "code": Kind(20, 3, 1.0, n["code"])}
    limit = data.draw(st.integers(3, 20))
    share = None
    if rule == "booking":
        # Weights 2 x 8 and 1 x 4.
        share = {"chat": max(1, limit * 16 // 20), "code": max(1, limit * 4 // 20)}
    params: dict[str, Any] = {"types": types, "rule": rule, "total_limit": limit}
    params["max_wait_s"] = None if wait_ns is None else wait_ns / 1e9
    world = toy_resolved("wait", params, blocks=4_000, block_tokens=1)
    run = simulate(world, classed(rows, kinds), physics=lambda i: ConstantLatency(STEP_NS))
    wanted = twin(rows, kinds, n, share, wait_ns)
    assert iterations(run) == wanted
    assert run.summary["forced"] == sum(forced for *_, forced in wanted)
    if wait_ns is not None:
        assert run.summary["completed"] == len(rows)
    if share:
        for _, prompts, decodes, _ in wanted:
            held = Counter(kinds[r] for r in [*prompts, *decodes])
            assert all(held[k] <= share[k] for k in share)


@given(rows=random_rows(most=7, output=8, gap_ns=20 * STEP_NS), wait_ns=st.integers(500, 40_000))
@settings(max_examples=60, deadline=None)
def test_nobody_waits_longer_than_the_longest_wait_and_a_step(rows: list[Row], wait_ns: int) -> None:
    """Too few ever come for the threshold, so that every plan is forced."""
    world = toy_resolved("wait", {"threshold": 8, "max_wait_s": wait_ns / 1e9}, blocks=4_000, block_tokens=1)
    run = simulate(world, workload(rows), physics=lambda i: ConstantLatency(STEP_NS))
    assert run.summary["completed"] == len(rows)
    assert run.summary["forced"] == run.summary["iterations"]
    for told in requests(run).values():
        assert told.first_chunk_ns is not None
        assert told.first_chunk_ns - told.arrival_ns <= wait_ns + STEP_NS


# Memory -------------------------------------------------------------------------------------------------------------------


class Watched(Wait, frozen=True):
    """A WAIT that looks, whenever it is asked, at how many residents each stage has and how much memory they hold."""

    def plan(self, state: InstanceState, now_ns: int) -> Any:
        seen: Counter[tuple[str, int]] = Counter()
        for resident in state.running.values():
            assert resident.cohort is not None
            seen[resident.cohort.name, resident.cohort.generated(resident)] += 1
        for (name, _), count in seen.items():
            assert count <= (self.types[name].threshold or 0)
        tokens = cohort_tokens((kind, kind.threshold or 0) for kind in self.types.values())
        assert state.ledger.blocks - state.ledger.free <= tokens
        most[0] = max(most[0], (state.ledger.blocks - state.ledger.free) / tokens)
        return super().plan(state, now_ns)


most = [0.0]


@given(n=THRESHOLDS, seed=st.integers(0, 1 << 20), gap_ns=st.sampled_from([100, 1_000, 5_000]))
@settings(max_examples=25, deadline=None)
def test_thresholds_within_the_memory_never_preempt(n: dict[str, int], seed: int, gap_ns: int) -> None:
    """Blocks for just the M of the thresholds: no stage above its threshold, no token above M, nobody preempted."""
    rng = np.random.default_rng(seed)
    types = {"chat": Kind(20, 7, 2.0, n["chat"]), "code": Kind(12, 4, 1.0, n["code"])}
    tokens = math.floor(cohort_tokens((kind, n[name]) for name, kind in types.items()))
    kinds = [("chat", "code")[int(k)] for k in rng.integers(0, 2, 200)]
    at = np.cumsum(rng.exponential(gap_ns, 200)).astype(int).tolist()
    rows = [(t, types[k].prompt, types[k].output) for t, k in zip(at, kinds, strict=True)]
    world = toy_resolved("wait", {"types": types, "max_seqs": 10_000}, blocks=tokens, block_tokens=1)
    most[0] = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("phasewise.policy.catalog.PAPERS", {**PAPERS, ("batcher", "wait"): (Watched, "test")})
        run = simulate(world, classed(rows, kinds), physics=lambda i: ConstantLatency(STEP_NS))
    assert run.summary["preemptions"] == 0
    assert run.summary["completed"] > 100
    if gap_ns == 100:
        # Looked at between steps, when nobody is in the first stage or the last.
        assert most[0] > 0.6, "the bound was never put to the test"


# By hand ------------------------------------------------------------------------------------------------------------------

TYPES = {"chat": Kind(12, 9, 1.0, 2), "code": Kind(10, 9, 1.0, 1)}


def test_a_ready_type_without_room_waits_its_longest_and_then_all_move() -> None:
    """The blocks are held by residents of another type, who stand still for want of company."""
    hand = Hand(Wait(types=TYPES, max_wait_s=1e-6), blocks=8, block_tokens=4)
    assert hand.submit(0, 12, kind="chat") == [WakeAt(1_000)]
    [run] = hand.submit(1, 12, kind="chat")
    assert (run.decodes, len(run.plan.chunks), run.plan.forced) == (0, 2, False)
    assert hand.done() == [WakeAt(1_020)], "the last came at 20"
    assert hand.submit(2, 10, kind="code") == [WakeAt(1_030)], "ready, but three blocks are not free"
    [run] = hand.wake(1_030)
    assert (run.plan.cohorts, run.plan.chunks, run.plan.forced) == (("chat",), (), True)
    _, run = hand.done(0)
    assert (run.plan.cohorts, run.plan.chunks[0].request, run.plan.forced) == ((), 2, False)
    never = Hand(Wait(types=TYPES), blocks=8, block_tokens=4)
    never.submit(0, 12, kind="chat")
    never.submit(1, 12, kind="chat")
    assert never.done() == []
    assert never.submit(2, 10, kind="code") == []


def test_residents_who_stand_still_move_when_nothing_has_come_for_so_long() -> None:
    hand = Hand(Wait(threshold=2, max_wait_s=1e-6))
    hand.submit(0, 4)
    hand.submit(1, 4)
    assert hand.done() == [WakeAt(1_020)]
    [run] = hand.wake(1_020)
    assert (run.decodes, run.plan.forced) == (2, True)
    [_, again] = hand.done(0)
    assert (again.decodes, again.plan.forced) == (1, True)


def test_an_unknown_class_is_named_with_the_types() -> None:
    hand = Hand(Wait(types=TYPES))
    with pytest.raises(InputError, match="request 0 is of class 'chta'; batcher wait has types chat, code"):
        hand.submit(0, 4, kind="chta")
    with pytest.raises(InputError, match="request 0 names no class; batcher wait has types chat, code"):
        Hand(Wait(types=TYPES)).submit(0, 4)


def test_a_booked_leap_stops_where_somebody_may_become_late() -> None:
    """`code` has its share of one and goes on; the lone `chat` is late at 1,010 + 10 ns: no leap may pass over that."""
    types = {"chat": Kind(12, 9, 2.0, 3), "code": Kind(10, 9, 1.0, 1)}
    for max_wait_s, repeat in ((1e-6, 1), (None, None)):
        hand = Hand(Wait(types=types, rule="booking", total_limit=3, max_wait_s=max_wait_s), blocks=400)
        hand.submit(0, 10, kind="code")
        hand.submit(1, 12, kind="chat")
        [run] = hand.done()
        assert (run.decodes, run.plan.repeat) == (1, repeat)


@pytest.mark.parametrize("params", [{"rule": "booking"}, {"step_model": {"base_s": 1, "per_token_s": 1}}])
def test_rules_that_need_rates_say_so(params: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="types are missing"):
        build("batcher", PolicySpec("wait", params))


def test_there_are_as_many_types_as_cohorts_but_one() -> None:
    many = {f"t{i}": Kind(20, 9, 1.0) for i in range(64)}
    with pytest.raises(InputError, match="64 types; give at most 63"):
        build("batcher", PolicySpec("wait", {"types": many}))


def test_thresholds_come_from_the_type_the_model_or_the_default() -> None:
    plain = {"a": Kind(20, 9, 2.0), "b": Kind(20, 9, 2.0, 7)}
    assert {k: kind.threshold for k, kind in Wait(types=plain, threshold=3).types.items()} == {"a": 3, "b": 7}
    model = StepModel(1.0, 1e-6)
    found = Wait(types=plain, step_model=model).types
    assert (found["a"].threshold, found["b"].threshold) == (fluid_thresholds(plain, model)["a"], 7)
    # 64 in service, shared 2 : 2, over ten stages each: three in each stage.
    booked = Wait(types=plain, rule="booking", total_limit=64).types
    assert (booked["a"].threshold, booked["b"].threshold) == (3, 7)
    spec = resolved("batcher", PolicySpec("wait", {"types": plain, "threshold": 3}))
    assert spec.params["types"]["a"] == {"prompt": 20, "output": 9, "rate": 2.0, "threshold": 3}
    assert resolved("batcher", spec) == spec
