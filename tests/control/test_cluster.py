"""The cluster room: epochs, retries after a refusal, clients that leave; and the loop that drives a room."""

from __future__ import annotations

from typing import Any

import pytest

from phasewise.control.cluster import ClusterControl
from phasewise.control.loop import Loop
from phasewise.core.action import Ended, Outcome
from phasewise.core.event import Arrived, Gone
from phasewise.core.message import Cancel, Cancelled, Finished, Refused, Submit
from phasewise.core.request import Request
from phasewise.core.spec import MIXED
from phasewise.policy.routing.round_robin import RoundRobin
from phasewise.sim.simulate import simulate
from worlds import ToyLatency, toy_resolved, workload


class Fleet:
    """The cluster room with levers."""

    def __init__(self, replicas: int = 1) -> None:
        self.room = ClusterControl(RoundRobin(), [MIXED] * replicas)
        self.now_ns = 0

    def take(self, event: Any) -> list[Any]:
        self.now_ns += 1
        return list(self.room.handlers[type(event)](event, self.now_ns))


def request(i: int) -> Request:
    return Request(i, 0, 10)


def test_a_life() -> None:
    fleet = Fleet(2)
    assert fleet.take(Arrived(request(0))) == [Submit(0, request(0), 0)]
    assert fleet.take(Arrived(request(1))) == [Submit(1, request(1), 0)]
    assert fleet.take(Finished(0, 0, 7)) == [Ended(0, Outcome.FINISHED, 7)]
    assert fleet.take(Finished(0, 0, 7)) == []
    assert fleet.take(Gone(0)) == []
    assert fleet.take(Gone(1)) == [Cancel(1, 1, 0)]
    assert fleet.take(Cancelled(1, 0, 3)) == [Ended(1, Outcome.CANCELLED, 3)]


def test_gone_before_it_came_is_nobody() -> None:
    assert Fleet().take(Gone(5)) == []


def test_it_may_finish_although_its_client_has_gone() -> None:
    fleet = Fleet()
    fleet.take(Arrived(request(0)))
    fleet.take(Gone(0))
    assert fleet.take(Finished(0, 0, 2)) == [Ended(0, Outcome.FINISHED, 2)]
    assert fleet.take(Cancelled(0, 0, 2)) == []


def test_a_refusal_goes_to_the_next_replica_in_a_new_epoch() -> None:
    fleet = Fleet(3)
    fleet.take(Arrived(request(0)))
    tried = {0}
    for epoch in (0, 1):
        [again] = fleet.take(Refused(0, epoch, "too long"))
        assert again.epoch == epoch + 1
        assert again.replica not in tried
        tried.add(again.replica)
    assert fleet.take(Refused(0, 2, "too long")) == [Ended(0, Outcome.REJECTED, 0, "too long")]
    assert fleet.take(Refused(0, 2, "too long")) == []


@pytest.mark.parametrize("word", [Finished(0, 0, 4), Cancelled(0, 0, 4), Refused(0, 0, "again")])
def test_word_of_an_older_epoch_is_dropped(word: Any) -> None:
    fleet = Fleet(2)
    fleet.take(Arrived(request(0)))
    fleet.take(Refused(0, 0, "too long"))
    assert fleet.take(word) == []
    assert fleet.take(Finished(0, 1, 9)) == [Ended(0, Outcome.FINISHED, 9)]


def test_a_client_that_left_is_not_served_by_the_next_replica() -> None:
    """The cancellation crosses the refusal on the wire: it finds nobody, so the retry must not be made."""
    fleet = Fleet(2)
    fleet.take(Arrived(request(0)))
    assert fleet.take(Gone(0)) == [Cancel(0, 0, 0)]
    assert fleet.take(Refused(0, 0, "too long")) == [Ended(0, Outcome.CANCELLED, 0)]


def test_a_client_that_left_during_a_refusal_in_a_simulation() -> None:
    """A small and a large replica, a wire of 10 us: the client leaves while the small one's refusal is on its way."""
    resolved = toy_resolved(blocks=[4, 64], replicas=2, wire_s=1e-5)
    run = simulate(resolved, workload([(0, 100, 500)], {0: 15_000}), physics=lambda i: ToyLatency())
    assert run.summary["cancelled"] == 1
    assert run.summary["tokens_out"] < 50


# The loop -------------------------------------------------------------------------------------------------------------------


class Echo:
    """A room that answers each event with the actions that it was told."""

    def __init__(self, answers: dict[type, list[Any]]) -> None:
        self.handlers = {kind: (lambda event, now_ns, out=out: out) for kind, out in answers.items()}


class Notes:
    """A journal that keeps its lines, and when it was flushed."""

    def __init__(self, full: int) -> None:
        self.batch: list[Any] = []
        self.full = full
        self.pages: list[list[Any]] = []

    def flush(self) -> None:
        self.pages.append(list(self.batch))
        self.batch.clear()


class Watch:
    now_ns = 0


def test_the_loop_writes_down_before_it_acts_and_sends_each_action_to_its_port() -> None:
    notes, watch, sent = Notes(2), Watch(), []

    def port(action: Any) -> None:
        assert notes.pages or notes.batch, "acted before it was written down"
        sent.append((watch.now_ns, action))

    out = [Submit(0, request(1), 0), Ended(0, Outcome.FINISHED, 1), Submit(1, request(2), 0)]
    loop = Loop(Echo({Arrived: out, Gone: []}), watch, notes, {Submit: port, Ended: port})
    watch.now_ns = 5
    loop.take(Arrived(request(1)))
    assert notes.batch == [(5, Arrived(request(1)), out)]
    assert sent == [(5, action) for action in out]
    watch.now_ns = 9
    loop.take(Gone(1))
    assert notes.batch == []
    assert notes.pages == [[(5, Arrived(request(1)), out), (9, Gone(1), [])]]


def test_the_loop_keeps_the_order_of_events_that_its_own_actions_cause() -> None:
    """A port that answers at once: the caused event comes after its cause in the journal."""
    notes = Notes(100)
    loop: Loop
    room = Echo({Arrived: [Submit(0, request(1), 0)], Finished: []})
    loop = Loop(room, Watch(), notes, {Submit: lambda action: loop.take(Finished(1, 0, 1))})
    loop.take(Arrived(request(1)))
    assert [type(event) for _, event, _ in notes.batch] == [Arrived, Finished]


def test_an_action_without_a_port_or_an_event_without_a_handler_is_loud() -> None:
    loop = Loop(Echo({Arrived: [Cancel(0, 0, 0)]}), Watch(), Notes(9), {})
    with pytest.raises(KeyError):
        loop.take(Arrived(request(0)))
    with pytest.raises(KeyError):
        loop.take(Gone(0))
