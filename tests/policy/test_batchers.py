"""What the batchers promise, read off the iterations of small simulations, and that `plan` changes nothing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoded import Step, requests, steps
from phasewise.core.action import Interrupt, Outcome
from phasewise.core.resident import Resident
from phasewise.core.step import Chunk, StepPlan
from phasewise.core.view import InstanceState
from phasewise.policy.catalog import find
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from worlds import ARMS, ConstantLatency, Row, ToyLatency, mixed, random_gone, random_rows, toy_resolved, workload


def toy(name: str, rows: list[Row], gone: dict[int, int] | None = None, **world: Any) -> RunLog:
    return simulate(toy_resolved(name, **world), workload(rows, gone), physics=lambda i: ToyLatency())


@st.composite
def runs(draw: st.DrawFn, name: str) -> tuple[RunLog, dict[str, int]]:
    """A small run under memory pressure, with people hanging up."""
    rows = draw(random_rows(most=10, prompt=60, output=25))
    gone = draw(st.one_of(st.just({}), random_gone(rows)))
    seats = draw(st.integers(1, 6))
    params = {"max_seqs": seats}
    if name != "static":
        params["token_budget"] = seats + draw(st.integers(0, 30))
    size = draw(st.sampled_from([1, 4, 16]))
    blocks = draw(st.integers(100, 160)) // size
    return toy(name, rows, gone, params=params, blocks=blocks, block_tokens=size), params


def emitted(step: Step) -> set[int]:
    return set(step.decodes) | {chunk.request for chunk in step.chunks if chunk.joins is not None}


def gaps(run: RunLog, request: int) -> list[float]:
    times = requests(run)[request].token_ns
    return [b - a for a, b in itertools.pairwise(times)]


# Static -----------------------------------------------------------------------------------------------------------------


@given(runs("static"))
@settings(max_examples=40, deadline=None)
def test_static_admits_only_when_nothing_runs(found: tuple[RunLog, dict[str, int]]) -> None:
    run, params = found
    for step in steps(run):
        assert not step.preempt
        assert not (step.chunks and step.decodes), "a prompt beside decodes"
        assert len(step.chunks) <= params["max_seqs"]
        assert all(chunk.start == 0 and chunk.joins is not None for chunk in step.chunks)


def test_static_does_not_refill_a_hole() -> None:
    """Three seats; two of the first three end early, and the fourth still waits for the third."""
    rows = [(0, 5, 1), (0, 8, 2), (0, 8, 3), (0, 8, 30), (0, 8, 2)]
    run = toy("static", rows, params={"max_seqs": 3}, blocks=64, max_context=64)
    told = requests(run)
    assert all(told[r].first_chunk_ns == 0 for r in (0, 1, 2))
    assert told[3].first_chunk_ns == told[4].first_chunk_ns == max(told[r].token_ns[-1] for r in (0, 1, 2))


def test_static_reserves_the_longest_context() -> None:
    """Room for two and a half contexts: batches of two, however short the prompts are."""
    run = toy("static", [(i, 3, 4) for i in range(5)], blocks=10, block_tokens=8, max_context=32)
    assert [len(step.chunks) for step in steps(run) if step.chunks] == [1, 2, 2]
    holds = {chunk.hold for step in steps(run) for chunk in step.chunks}
    assert holds == {32}


# Sarathi and vLLM v1 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sarathi", "vllm-v1"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_decode_in_every_iteration_and_none_above_the_budget(name: str, data: st.DataObject) -> None:
    run, params = data.draw(runs(name))
    ends = {r: told.token_ns[-1] for r, told in requests(run).items() if told.token_ns}
    finished = {r for r, told in requests(run).items() if told.outcome is Outcome.FINISHED}
    decoding: set[int] = set()
    for step in steps(run):
        decoding -= set(step.preempt)
        # Cancelled ones drop out at a boundary that the steps do not show; all others must be there.
        assert set(step.decodes) <= decoding
        assert decoding & finished <= set(step.decodes)
        if len(step.decodes) <= params["token_budget"]:
            assert step.tokens <= params["token_budget"]
        else:
            assert not step.chunks
        assert len(step.schedule) <= max(params["max_seqs"], len(step.decodes))
        decoding = {r for r in emitted(step) if ends[r] > step.end_ns or r not in finished}
    assert all(len(told.token_ns) == told.tokens for told in requests(run).values())


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_vllm_v1_preempts_the_last_running_and_then_admits_nothing(data: st.DataObject) -> None:
    run, _ = data.draw(runs("vllm-v1"))
    order: list[int] = []
    alive = requests(run)
    for step in steps(run):
        for victim in step.preempt:
            later = order[order.index(victim) + 1 :]
            assert all(alive[r].outcome is Outcome.CANCELLED for r in later), "not the last running one"
            del order[order.index(victim) :]
        new = [chunk.request for chunk in step.chunks if chunk.start == 0]
        if step.preempt:
            assert not new, "admitted in a step that preempted"
        order += new
        order = [r for r in order if alive[r].outcome is Outcome.CANCELLED or alive[r].token_ns[-1] > step.end_ns]


def test_vllm_v1_victims_head_the_queue() -> None:
    """Victims come back before one that has waited longer, the last victim first; their tokens are recomputed."""
    rows = [(0, 10, 25), (1, 10, 25), (2, 10, 25), (3, 10, 5)]
    run = toy("vllm-v1", rows, params={"token_budget": 64, "max_seqs": 3}, blocks=50, block_tokens=1)
    found = steps(run)
    evicted = [(i, victim) for i, step in enumerate(found) for victim in step.preempt]
    assert [victim for _, victim in evicted[:2]] == [2, 1]
    late = [chunk for step in found[evicted[0][0] :] for chunk in step.chunks]
    assert list(dict.fromkeys(chunk.request for chunk in late)) == [1, 2, 3]
    for i, victim in evicted[:2]:
        generated = sum(victim in emitted(step) for step in found[:i])
        again = next(chunk for chunk in late if chunk.request == victim and chunk.joins is not None)
        assert again.start + again.tokens == 10 + generated > 10


def test_vllm_v1_allocates_as_it_goes_and_sarathi_at_once() -> None:
    rows = [(0, 100, 2)]
    holds = {}
    for name in ("vllm-v1", "sarathi"):
        run = toy(name, rows, params={"token_budget": 40, "max_seqs": 4})
        holds[name] = [chunk.hold for step in steps(run) for chunk in step.chunks]
    assert holds == {"vllm-v1": [40, 80, 100], "sarathi": [100, 100, 100]}


def test_sarathi_admits_above_the_watermark_only() -> None:
    """20 blocks, 4 kept free: a prompt of 9 fits beside one of 7, one of 10 does not, though 13 blocks are free."""
    world: dict[str, Any] = {"params": {"watermark": 0.2, "token_budget": 100}, "blocks": 20, "block_tokens": 1}
    for second, together in ((9, True), (10, False)):
        told = requests(toy("sarathi", [(0, 8, 1), (1, 7, 4), (2, second, 4)], **world))
        assert (told[1].first_chunk_ns == told[2].first_chunk_ns) is together


def test_sarathi_keeps_its_order_when_the_first_in_line_does_not_fit() -> None:
    world: dict[str, Any] = {"params": {"watermark": 0.0}, "blocks": 20, "block_tokens": 1}
    told = requests(toy("sarathi", [(0, 12, 3), (1, 15, 2), (2, 2, 2)], **world))
    firsts = [told[r].first_chunk_ns or 0.0 for r in range(3)]
    assert firsts[0] < firsts[1] <= firsts[2]


def interrupts(run: RunLog) -> int:
    return sum(isinstance(action, Interrupt) for _, _, actions in run.records(1) for action in actions)


@pytest.mark.parametrize("name", ["sarathi", "vllm-v1"])
def test_an_arrival_that_can_change_nothing_interrupts_nothing(name: str) -> None:
    """Two long decodes; four who come later interrupt them only where there is a seat, a token and a place in the queue."""
    rows: list[Row] = [(0, 10, 200), (0, 10, 200), *((300_000 + i * 100_000, 10, 5) for i in range(4))]
    free = toy(name, rows, params={"max_seqs": 8, "token_budget": 64}, blocks=64)
    seats = toy(name, rows, params={"max_seqs": 2, "token_budget": 64}, blocks=64)
    assert (interrupts(free), interrupts(seats)) == (4, 0)
    if name == "sarathi":
        assert interrupts(toy(name, rows, params={"max_seqs": 8, "token_budget": 2}, blocks=64)) == 0
    # The first of the four does not fit, and the others are behind it.
    rows[2] = (300_000, 600, 5)
    blocked = toy(
        name, rows, params={"max_seqs": 8, "token_budget": 700, **WATERMARK[name]}, blocks=640, block_tokens=1
    )
    assert interrupts(blocked) == 1


WATERMARK: dict[str, dict[str, float]] = {"sarathi": {"watermark": 0.0}, "vllm-v1": {}}

# The stall test -----------------------------------------------------------------------------------------------------------

PAIR: list[Row] = [(0, 16, 400), (0, 16, 500)]
LONG: Row = (500_000, 4096, 10)


def test_static_does_not_stall_and_the_newcomer_waits_for_both() -> None:
    run = toy("static", [*PAIR, LONG], params={"max_seqs": 8}, blocks=2000)
    alone = toy("static", PAIR, params={"max_seqs": 8}, blocks=2000)
    assert [gaps(run, r) for r in (0, 1)] == [gaps(alone, r) for r in (0, 1)]
    told = requests(run)
    residual = max(told[r].token_ns[-1] for r in (0, 1)) - LONG[0]
    assert residual > 0
    assert told[2].token_ns[0] - LONG[0] > residual
    assert told[2].first_chunk_ns == max(told[r].token_ns[-1] for r in (0, 1))


@pytest.mark.parametrize("name", ["sarathi", "vllm-v1"])
@pytest.mark.parametrize("budget", [64, 512])
def test_a_chunked_prompt_stalls_nobody_longer_than_a_full_iteration(name: str, budget: int) -> None:
    params = {"token_budget": budget, "max_seqs": 8}
    run = toy(name, [*PAIR, LONG], params=params, blocks=2000)
    context = sum(tokens_in + tokens_out for _, tokens_in, tokens_out in PAIR)
    full = (Chunk(2, LONG[1] - budget, budget, LONG[1]),)
    bound = ToyLatency().pieces(full, 2, context, 1)[0][0]
    told = requests(run)
    newcomer = told[2].token_ns[0]
    assert told[0].token_ns[-1] > newcomer, "the pair must still be decoding"
    assert max(gaps(run, 0)) <= bound
    assert max(gaps(run, 1)) <= bound
    # And it does cost something: gaps while the prompt is chunked are the longest of all.
    assert max(gaps(run, 0)) > 2 * gaps(run, 0)[0]
    whole = ToyLatency().pieces((Chunk(2, 0, LONG[1], LONG[1]),), 2, context, 1)[0][0]
    assert max(gaps(run, 0)) < whole / 2


# Plans change nothing -----------------------------------------------------------------------------------------------------


def slots(thing: Any) -> list[str]:
    """The attributes of an object; a compiled class says them in its own way."""
    return sorted(getattr(thing, "__slots__", None) or thing.__mypyc_attrs__)


def face(resident: Resident) -> tuple[Any, ...]:
    cohort = resident.cohort
    return tuple((cohort and cohort.name) if slot == "cohort" else getattr(resident, slot) for slot in slots(resident))


def snapshot(state: InstanceState) -> Any:
    ledger = state.ledger
    return (
        [face(r) for r in state.waiting],
        [face(r) for r in state.running.values()],
        list(state.prefilling),
        {n: [getattr(c, s) for s in slots(c) if s != "_edges"] + list(c._edges) for n, c in state.cohorts.items()},
        [getattr(ledger, slot) for slot in slots(ledger)],
        (state.free_lanes, state.max_context, state.last, state.arrived_ns),
    )


@pytest.mark.parametrize("arm", ARMS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_plan_changes_nothing_and_says_the_same_twice(arm: str, data: st.DataObject) -> None:
    """And, but for a longest wait, whatever the time is."""
    name, params = ARMS[arm]
    cls = find("batcher", name)
    plain = cls.plan
    later_ns = 0 if "max_wait_s" in params else 12_345
    asked = 0

    def watched(self: Any, state: InstanceState, now_ns: int) -> tuple[StepPlan, ...]:
        nonlocal asked
        asked += 1
        before = snapshot(state)
        found = plain(self, state, now_ns)
        assert snapshot(state) == before
        assert plain(self, state, now_ns + later_ns) == found, (
            "a plan that depends on the clock, or on having been asked"
        )
        assert all(len(set(p.preempt)) == len(p.preempt) for p in found if isinstance(p, StepPlan))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "plan", watched)
        rows = data.draw(random_rows(most=10, prompt=40, output=25))
        gone = data.draw(st.one_of(st.just({}), random_gone(rows)))
        resolved = toy_resolved(name, params, data.draw(st.integers(7, 20)), 8, max_context=56)
        simulate(resolved, mixed(rows, gone), physics=lambda i: ToyLatency())
    assert asked or gone


@pytest.mark.parametrize("name", ["sarathi", "vllm-v1"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_leap_decides_what_single_steps_decide(name: str, data: st.DataObject) -> None:
    """With every repeat clamped to one the iterations are the same; a tight ledger makes the difference show."""
    rows = data.draw(random_rows(most=8, prompt=40, output=25, gap_ns=30_000))
    seats = data.draw(st.integers(1, 5))
    resolved = toy_resolved(
        name,
        {"max_seqs": seats, "token_budget": seats + data.draw(st.integers(0, 20))},
        blocks=data.draw(st.integers(70, 90)),
        block_tokens=1,
    )
    leaps = simulate(resolved, workload(rows), physics=lambda i: ConstantLatency())
    cls = find("batcher", name)
    plain = cls.plan

    def single(self: Any, state: InstanceState, now_ns: int) -> tuple[StepPlan, ...]:
        return tuple(StepPlan(p.chunks, p.cohorts, p.preempt, 1, p.closed, p.lane) for p in plain(self, state, now_ns))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "plan", single)
        one_by_one = simulate(resolved, workload(rows), physics=lambda i: ConstantLatency())
    assert steps(leaps) == steps(one_by_one)
