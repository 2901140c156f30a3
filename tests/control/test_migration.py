"""A running answer moves: copied while it is decoded, taken out of its batch, the rest fetched; and what goes wrong then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decoded import requests
from fleets import tight_fleet
from hands import Greedy, Hand
from laws.test_fleet import assert_nothing_is_lost, run
from phasewise.control.replay import replay
from phasewise.core.action import Drop, Enter, Forget, Outcome, Pull
from phasewise.core.event import HOST, Began, Pulled, PullFailed
from phasewise.core.fault import Cuts, Dies, Drains, Mangles, Scenario, Starts
from phasewise.core.message import (
    Adopt,
    Adopted,
    Cancel,
    Cancelled,
    Declined,
    Evict,
    Evicted,
    PromptDone,
    Release,
    Released,
    Reserve,
    Reserved,
    Submit,
)
from phasewise.core.request import Request
from phasewise.core.spec import Deployment, LinkSpec, PolicySpec, ReplicaSpec
from phasewise.record.columns import WHAT
from phasewise.record.held import held
from phasewise.record.metrics import Scored
from phasewise.record.runlog import RunLog
from phasewise.record.stages import life
from phasewise.sim.simulate import simulate
from phasewise.workload import source
from worlds import ConstantLatency, Row, workload

US = 1_000
STEP = ConstantLatency(10 * US)
LINK = LinkSpec("free", gb_s=0.256, transfer="serialised")
"""A token of the toy model has 256 bytes of keys and values: one takes a microsecond."""


def moved(
    rows: list[Row],
    *faults: Any,
    gone: dict[int, int] | None = None,
    roles: tuple[str, ...] = ("mixed", "mixed"),
    **more: Any,
) -> RunLog:
    """A run under faults in which nothing is lost, blocks are recounted after every event, and which replays."""
    resolved = tight_fleet(roles, wire_s=1e-6, link=LINK, **more)
    world, log = run(resolved, workload(rows, gone), Scenario(faults), STEP)
    assert_nothing_is_lost(world, log, rows, gone or {})
    replay(log, lambda i: STEP)
    return log


def heard(log: RunLog, room: int, *kinds: type) -> list[tuple[int, Any]]:
    """What events of some kinds a room took, and when, in microseconds."""
    return [(at_ns // US, event) for at_ns, event, _ in log.records(room) if type(event) in kinds]


def said(log: RunLog, room: int, *kinds: type) -> list[tuple[int, Any]]:
    return [(at_ns // US, a) for at_ns, _, actions in log.records(room) for a in actions if type(a) in kinds]


def outcomes(log: RunLog) -> list[Outcome]:
    return [Outcome(outcome) for outcome in log.tables.requests["outcome"]]


def spans_of(log: RunLog, request: int) -> Any:
    spans = np.concatenate(log.tables.spans)
    return spans[spans["request"] == request]


def stopped_ns(log: RunLog, replica: int) -> int:
    rows = log.tables.changes
    [at_ns] = rows["at_ns"][(rows["replica"] == replica) & (rows["what"] == WHAT.index("stopped"))]
    return int(at_ns)


def test_one_move_by_hand() -> None:
    """Steps of 10 us, messages of 1 us, keys and values of a token in 1 us; the drain at 25 us, in the step until 31 us."""
    log = moved([(0, 8, 30)], Drains(25 * US, 0, True))
    request = Request(0, 0, 8)
    assert heard(log, 1, Evict) == [(26, Evict(0, 0, 0)), (45, Evict(0, 0, 0, True))]
    # Of three tokens out the last is not computed: ten tokens are copied, until 43 us, while two more come.
    assert said(log, 1, Evicted) == [(31, Evicted(0, 0, 0, 3, False)), (51, Evicted(0, 0, 0, 5, True))]
    assert heard(log, 2, Reserve, Adopt) == [(33, Reserve(1, request, 0, 2, 0, True)), (53, Adopt(1, 0, 0, 5))]
    assert said(log, 2, Pull) == [(33, Pull(0, 0, 0, 10, 0, False)), (53, Pull(0, 0, 0, 2, 10, False))]
    assert [at for at, _ in heard(log, 2, Pulled)] == [43, 55]
    assert said(log, 2, Reserved) == [(33, Reserved(1, 0, 0, False)), (43, Reserved(1, 0, 0))]
    assert said(log, 2, Adopted) == [(55, Adopted(1, 0, 0))]
    assert said(log, 2, Enter) == [(55, Enter(0, 12, "all", 5))]
    assert heard(log, 1, Release) == [(57, Release(0, 0, 0))]
    # The pause: two messages, two tokens' keys and values, and the step.
    times = [round(t) // US for t in requests(log)[0].token_ns]
    assert times == [11, 21, 31, 41, 51, *range(65, 310, 10)]
    scored = Scored(log.tables)
    assert scored.gaps_ns.total == 29
    assert scored.gaps_ns.quantiles([28 / 29, 1.0]) == [10 * US, 14 * US]
    stages = [(s.kind, s.replica, s.begin_ns // US, s.end_ns // US) for s in life(log.tables, 0)]
    assert stages == [
        ("queue", -1, 0, 1),
        ("prefill", 0, 1, 11),
        ("decode", 0, 11, 51),
        ("hand-over", 0, 51, 53),
        ("transfer", 1, 53, 55),
        ("decode", 1, 55, 305),
    ]
    assert stopped_ns(log, 0) == 56 * US
    fleet = log.summary["fleet"]
    assert [fleet["handed_over"], *(group["sent"] for group in fleet["groups"])] == [1, 1, 0]
    assert fleet["transfer_s"]["mean"] == pytest.approx(6e-6)
    assert log.tables.requests["attempts"].tolist() == [0]


def test_both_replicas_hold_a_request_that_moves() -> None:
    log = moved([(0, 8, 30)], Drains(25 * US, 0, True))
    here, there = held(log.tables, US)
    at = np.array([50, 52, 54, 56, 58, 60]) * US
    # Until the release comes the source has twelve tokens; with each step the target has one more, from its beginning on.
    assert np.round(here.parked.at(at)).tolist() == [0, 12, 12, 12, 0, 0]
    assert np.round(there.arriving.at(at)).tolist() == [12, 12, 12, 0, 0, 0]
    assert round(float(there.at(np.array([65 * US]))[0])) == 14


def test_more_blocks_are_taken_at_the_next_step_boundary() -> None:
    """The target is in a step of its own until 62 us when the rest crosses into another block."""
    log = moved([(0, 14, 30), (2 * US, 4, 30)], Drains(25 * US, 0, True))
    assert said(log, 2, Pull)[0] == (43, Pull(0, 0, 0, 16, 0, False))
    [(adopted, adopt)] = heard(log, 2, Adopt)
    (began, rest) = said(log, 2, Pull)[1]
    assert rest.start == 16
    assert rest.tokens == adopt.tokens + 13 - 16 > 0
    boundaries = [int(end) // US for end in log.tables.steps[1]["end_ns"]]
    assert began == min(at for at in boundaries if at >= adopted) > adopted
    assert outcomes(log) == [Outcome.FINISHED] * 2


def test_whoever_waits_begins_anew_elsewhere() -> None:
    """One seat: the second request has not begun when its replica drains, and begins at once on the other."""
    rows = [(0, 8, 20), (0, 8, 20), (0, 8, 20)]
    log = moved(rows, Drains(25 * US, 0, True), params={"max_seqs": 1, "token_budget": 16})
    assert said(log, 1, Cancelled) == [(26, Cancelled(2, 0, 0, 0))]
    assert log.tables.requests["attempts"].tolist() == [0, 0, 1]
    assert outcomes(log) == [Outcome.FINISHED] * 3


def test_a_prompt_in_progress_is_handed_over_when_it_is_done() -> None:
    log = moved([(0, 40, 6)], Drains(15 * US, 0, True))
    assert said(log, 1, Evicted) == []
    assert said(log, 1, PromptDone) == [(31, PromptDone(0, 0, 0, 1))]
    assert [pull.start for _, pull in said(log, 2, Pull)] == [0]
    assert log.tables.spans[1]["tokens"].tolist() == [5]


def test_a_last_chunk_in_flight_is_followed_by_a_move() -> None:
    """The order comes in the very step that ends the prompt: it was planned to stay, so it decodes, and then moves."""
    log = moved([(0, 8, 30)], Drains(5 * US, 0, True))
    assert said(log, 1, Evicted)[0] == (11, Evicted(0, 0, 0, 1, False))
    assert [span["tokens"] for span in np.concatenate(log.tables.spans)] == [3, 27]


@pytest.mark.parametrize("moves", [False, True], ids=["waits", "moves"])
def test_a_drained_replica_stops_sooner_if_it_moves(moves: bool) -> None:
    """Four replicas of Llama-3.1-8B, one of which drains in the middle of 400 chat requests."""
    deployment = Deployment(
        "Llama-3.1-8B",
        (ReplicaSpec("h100", 4),),
        PolicySpec("sarathi"),
        PolicySpec("round-robin"),
        link=LinkSpec("infiniband-ndr"),
    )
    load = source.load("azure-conv", rate=33, requests=400, seed=1)
    middle_ns = int(load.arrival_ns[200])
    log = simulate(deployment, load, scenario=Scenario((Drains(middle_ns, 1, moves),)))
    assert log.summary["completed"] == 400
    assert log.summary["failed"] == log.summary["rejected"] == 0
    assert log.summary["tokens_out"] == int(load.truth.column().sum())
    replay(log)
    took_s = (stopped_ns(log, 1) - middle_ns) / 1e9
    parked = [word for _, word in said(log, 2, Evicted) if word.parked]
    if moves:
        assert len(parked) > 10
        assert took_s < 0.1
        rests = [pull.tokens for room in (1, 3, 4) for _, pull in said(log, room, Pull) if pull.start]
        assert len(rests) == len(parked)
        assert max(rests) < 16
    else:
        assert not parked
        assert took_s > 2


# What goes wrong ------------------------------------------------------------------------------------------------------------


def test_without_anybody_else_it_ends_where_it_is() -> None:
    log = moved([(0, 8, 10)], Drains(25 * US, 0, True), roles=("mixed",))
    assert outcomes(log) == [Outcome.FINISHED]
    assert len(log.tables.spans[0]) == 1


def test_it_moves_once_somebody_comes() -> None:
    log = moved([(0, 8, 30)], Drains(25 * US, 0, True), Starts(100 * US, 1))
    assert heard(log, 2, Reserve)[0][0] > 120
    assert outcomes(log) == [Outcome.FINISHED]
    assert (np.concatenate(log.tables.spans)["tokens"] > 0).all()
    assert len(log.tables.spans[1]) == 1


def test_a_link_that_is_lost_leaves_it_at_its_source() -> None:
    """The first copy fails; it decodes on without a pause."""
    log = moved([(0, 8, 30)], Drains(25 * US, 0, True), Cuts(35 * US, None, None, None))
    [(at, declined)] = heard(log, 0, Declined)
    assert at == 36
    assert "lost" in declined.reason
    times = [round(t) // US for t in requests(log)[0].token_ns]
    assert times == list(range(11, 311, 10))


def test_a_source_takes_back_what_it_had_parked() -> None:
    """The link is lost when only the rest is to come: nobody else is there, so it goes on where it was, and stays."""
    faults = Drains(25 * US, 0, True), Cuts(54 * US, None, None, None), Drains(100 * US, 0, True)
    log = moved([(0, 8, 30)], *faults)
    assert [at for at, _ in heard(log, 0, Declined)] == [55]
    assert heard(log, 1, Adopt) == [(56, Adopt(0, 0, 0, 5, True))]
    assert said(log, 1, Enter) == [(56, Enter(0, 12, "all", 5))]
    times = [round(t) // US for t in requests(log)[0].token_ns]
    assert times == [11, 21, 31, 41, 51, *range(66, 310, 10)]
    assert len(heard(log, 1, Evict)) == 2, "it is not asked to leave again"


def test_a_target_that_dies_during_the_rest() -> None:
    log = moved([(0, 8, 30)], Drains(25 * US, 0, True), Dies(54 * US, 1))
    assert heard(log, 1, Adopt) == [(56, Adopt(0, 0, 0, 5, True))]
    assert outcomes(log) == [Outcome.FINISHED]
    assert log.tables.requests["attempts"].tolist() == [0]


@pytest.mark.parametrize("at_us", [28, 35, 44, 50, 52, 54])
def test_a_source_that_dies_on_the_way(at_us: int) -> None:
    """Whatever the client has is prompt of the next attempt; of the rest nothing is there."""
    log = moved([(0, 8, 30)], Drains(25 * US, 0, True), Dies(at_us * US, 0))
    assert outcomes(log) == [Outcome.FINISHED]
    assert log.tables.requests["attempts"].tolist() == [1]
    assert [int(s["tokens"].sum()) for s in log.tables.spans] == [(at_us - 1) // 10, 30 - (at_us - 1) // 10]


def test_a_source_that_has_come_back_has_nothing_to_fetch() -> None:
    """It dies after the last word, and another process is there when the target asks for the rest."""
    death = Dies(51 * US + 500, 0, 51 * US + 600)
    log = moved([(0, 8, 30)], Drains(25 * US, 0, True), death, cold_start_s=0.0)
    assert [pull.start for _, pull in said(log, 2, Pull)] == [0, 10]
    [(_, declined)] = said(log, 2, Declined)
    assert declined.reason == "replica 0, its source, does not have it"
    assert log.tables.requests["attempts"].tolist() == [1]


@pytest.mark.parametrize("at_us", [27, 35, 44, 50, 52, 54, 56, 60])
def test_a_client_that_leaves_on_the_way(at_us: int) -> None:
    log = moved([(0, 8, 30)], Drains(25 * US, 0, True), gone={0: at_us * US})
    assert outcomes(log) == [Outcome.CANCELLED]


@pytest.mark.parametrize("output", range(3, 8))
def test_an_answer_that_ends_on_the_way(output: int) -> None:
    log = moved([(0, 8, output)], Drains(25 * US, 0, True))
    assert outcomes(log) == [Outcome.FINISHED]
    assert log.tables.requests["tokens"].tolist() == [output]


@pytest.mark.parametrize("replicas", [2, 3])
def test_it_does_not_come_back_to_where_it_has_been(replicas: int) -> None:
    """The first replica is there again, empty, when the second drains: late word of the stay there could be taken for new."""
    faults = Drains(25 * US, 0, True), Dies(70 * US, 0, 75 * US), Drains(150 * US, 1, True)
    log = moved([(0, 8, 30)], *faults, roles=("mixed",) * replicas)
    assert [int(spans["tokens"].sum()) for spans in log.tables.spans] == ([5, 25] if replicas == 2 else [5, 13, 12])
    assert outcomes(log) == [Outcome.FINISHED]


def test_a_replica_that_is_started_again_before_it_has_stopped_is_the_same_process() -> None:
    """Empty but for what it keeps until a late release comes: a replay must not take it for a new one."""
    late = Mangles("release", 1.0, 89 * US, 0, 200 * US)
    log = moved(
        [(30 * US, 8, 30)],
        Starts(US, 0),
        Drains(55 * US, 0, True),
        late,
        Starts(120 * US, 0),
        patience_s=200e-6,
    )
    assert [type(event) for _, event in heard(log, 1, Began, Release)] == [Began, Began, Release]
    assert outcomes(log) == [Outcome.FINISHED]


def test_what_is_swapped_out_moves_when_it_is_back() -> None:
    """Two decodes outgrow the memory: one is in the host's when it could be parked. The other finds no room for its rest."""
    rows = [(0, 14, 30), (0, 14, 30), (0, 14, 30)]
    log = moved(
        rows,
        Drains(70 * US, 0, True),
        batcher="distserve",
        params={},
        blocks=7,
        host_blocks=9,
    )
    assert [pull.source for _, pull in said(log, 1, Pull)] == [HOST]
    assert [at for at, pulled in heard(log, 1, Pulled) if pulled.request == 2] == [121]
    assert (121, Evicted(0, 2, 0, 11, True)) in said(log, 1, Evicted)
    [(_, declined)] = said(log, 2, Declined)
    assert (declined.request, declined.reason) == (0, "no block is free for the tokens since it was copied")
    assert {i: int(spans_of(log, i)["tokens"].sum()) for i in (0, 2)} == {0: 12 + 18, 2: 11 + 19}
    assert outcomes(log) == [Outcome.FINISHED] * 3


# The rooms, message by message ----------------------------------------------------------------------------------------------


def decoding() -> Hand:
    """A room in which one request decodes in a leap."""
    hand = Hand(Greedy())
    hand.submit(0, 8)
    hand.done()
    return hand


def test_an_order_may_be_repeated() -> None:
    hand = decoding()
    hand.take(Evict(0, 0, 0))
    assert hand.done(steps=3)[0] == Evicted(0, 0, 0, 4, False)
    hand.take(Evict(0, 0, 0, True))
    hand.take(Evict(0, 0, 0))
    assert hand.done(steps=2) == [Evicted(0, 0, 0, 6, True), Forget(0)]
    assert hand.take(Evict(0, 0, 0, True)) == [PromptDone(0, 0, 0, 6)]
    assert hand.ledger.blocks - hand.ledger.free == hand.ledger.need(13)
    assert hand.take(Release(0, 0, 0))[0] == Released(0, 0, 0)
    assert hand.ledger.free == hand.ledger.blocks
    assert hand.take(Evict(0, 0, 0)) == []


def test_one_that_is_told_to_leave_can_be_cancelled() -> None:
    hand = decoding()
    hand.take(Evict(0, 0, 0, True))
    hand.cancel(0)
    assert hand.done(steps=2) == [Forget(0), Cancelled(0, 0, 3, 0)]
    assert hand.ledger.free == hand.ledger.blocks


def test_a_new_attempt_does_not_inherit_the_order_to_leave() -> None:
    hand = Hand(Greedy())
    hand.submit(0, 8)
    hand.take(Evict(0, 0, 0))
    hand.cancel(0)
    hand.done()
    hand.submit(0, 8, epoch=1)
    assert not any(isinstance(action, Evicted) for action in hand.done())


def test_a_guest_that_cannot_grow_is_declined() -> None:
    """Twelve tokens fill three blocks; the rest needs a fourth, and there is none."""
    hand = Hand(Greedy(), blocks=3)
    request = Request(0, 0, 8)
    order = Reserve(0, request, 0, 4, 1, True)
    assert hand.take(order) == [Reserved(0, 0, 0, False), Pull(0, 0, 1, 12, 0, False)]
    assert hand.take(order) == [Reserved(0, 0, 0, False)]
    assert hand.take(Pulled(0, 0, 1, 0, 12)) == [Reserved(0, 0, 0)]
    assert hand.take(order) == [Reserved(0, 0, 0)]
    [declined] = hand.take(Adopt(0, 0, 0, 6))
    assert isinstance(declined, Declined)
    assert hand.ledger.free == 3


def test_a_guest_whose_rest_does_not_come_is_declined() -> None:
    hand = Hand(Greedy(), blocks=8)
    hand.take(Reserve(0, Request(0, 0, 8), 0, 4, 1, True))
    hand.take(Pulled(0, 0, 1, 0, 12))
    assert hand.take(Adopt(0, 0, 0, 6)) == [Pull(0, 0, 1, 1, 12, False)]
    assert hand.take(Adopt(0, 0, 0, 6)) == []
    assert isinstance(hand.take(PullFailed(0, 0, "the link is lost"))[0], Declined)
    assert hand.ledger.free == 8


def test_one_that_is_not_seated_yet_goes_on() -> None:
    """It has come, and no seat is free: it can leave at once, with what it has brought."""
    hand = decoding()
    hand.take(Reserve(0, Request(1, 0, 8), 0, 0, 1))
    hand.done(steps=1)
    hand.take(Pulled(1, 0, 1, 0, 8))
    hand.take(Adopt(0, 1, 0))
    assert hand.take(Evict(0, 1, 0))[:2] == [Evicted(0, 1, 0, 1, True), Forget(1)]
    assert list(hand.state.parked) == [1]
    assert hand.take(Cancel(0, 1, 0))[0] == Cancelled(1, 0, 1, 0)


# Orders that come late, where messages get lost -----------------------------------------------------------------------------


def parked() -> Hand:
    """A room that remembers, with a request whose prompt is done and that waits to be adopted elsewhere."""
    hand = Hand(Greedy(), forgetful=False)
    hand.take(Submit(0, Request(0, 0, 8), 0, 0, False))
    assert hand.done() == [PromptDone(0, 0, 0, 1)]
    return hand


def test_an_order_that_comes_after_the_release_changes_nothing() -> None:
    hand = parked()
    hand.take(Release(0, 0, 0))
    for late in (Submit(0, Request(0, 0, 8), 0, 0, False), Evict(0, 0, 0, True), Cancel(0, 0, 0)):
        assert hand.take(late) == [Released(0, 0, 0)]
    assert hand.ledger.free == hand.ledger.blocks


def test_the_order_by_which_it_came_does_not_wake_it_where_it_was_parked() -> None:
    """An `Adopt` that is repeated late: only one that says so gives the request back to its source."""
    hand = parked()
    assert hand.take(Adopt(0, 0, 0)) == [PromptDone(0, 0, 0, 1)]
    assert list(hand.state.parked) == [0]
    assert hand.take(Adopt(0, 0, 0, back=True))[0] == Adopted(0, 0, 0)
    assert not hand.state.parked


def test_a_new_attempt_ends_what_the_old_one_left() -> None:
    """The release was lost, and the next attempt comes to the same replica; the order of the old one comes again after it."""
    hand = parked()
    hand.submit(0, 12, epoch=1)
    assert not hand.state.parked
    assert hand.ledger.blocks - hand.ledger.free == hand.ledger.need(12)
    assert hand.take(Submit(0, Request(0, 0, 8), 0, 0, False)) == []
    hand.done()
    hand.done(0, steps=3)
    assert hand.ledger.free == hand.ledger.blocks


def test_a_new_reservation_ends_the_old_one() -> None:
    hand = Hand(Greedy(), forgetful=False)
    hand.take(Reserve(0, Request(0, 0, 8), 0, 0, 1))
    assert hand.take(Reserve(0, Request(0, 0, 12), 1, 0, 1)) == [Drop(0, 0), Reserved(0, 0, 1), Pull(0, 1, 1, 12)]
    assert hand.ledger.blocks - hand.ledger.free == hand.ledger.need(12)
    assert hand.take(Reserve(0, Request(0, 0, 8), 0, 0, 1)) == []


def test_a_reservation_that_was_cancelled_can_be_made_again() -> None:
    """A late answer to the first was countered with a cancel; the request came this way once more, in the same attempt."""
    hand = Hand(Greedy(), forgetful=False)
    order = Reserve(0, Request(0, 0, 8), 0, 0, 1)
    hand.take(order)
    hand.cancel(0)
    assert isinstance(hand.take(Adopt(0, 0, 0))[0], Declined)
    assert hand.take(order)[0] == Reserved(0, 0, 0)
