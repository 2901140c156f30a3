"""The books of what a router has sent: against a naive recount, and all zero when nothing is inside."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleets import fleet
from phasewise.control.bookings import Bookings
from phasewise.control.life import NOWHERE
from phasewise.core.event import Arrived
from phasewise.core.fault import Dies, Drains, Scenario, Switches
from phasewise.core.message import Prefilled, Report
from phasewise.core.spec import MIXED, ROLES
from phasewise.policy.fleet import Booked
from phasewise.sim.simulate import simulate
from pools import ROLES_22, books_after, columns, pooled
from worlds import ToyLatency, random_gone, random_rows, workload

REPLICAS = 3
ORDERS = st.lists(
    st.tuples(
        st.sampled_from(["place", "computed", "rehome", "moved", "over"]),
        st.integers(0, 5),
        st.integers(0, REPLICAS - 1),
        st.integers(NOWHERE, REPLICAS - 1),
        st.integers(1, 100),
        st.one_of(st.none(), st.integers(0, 100)),
    ),
    max_size=60,
)


class Naive:
    """One request: where its prompt and its answer are booked, recounted from scratch."""

    def __init__(self, prefill: int, decode: int, prompt: int, answer: int) -> None:
        self.prefill, self.decode, self.prompt, self.answer = prefill, decode, prompt, answer
        self.waits = True

    def on(self, replica: int) -> dict[str, int]:
        prompt, answer = replica == self.prefill, replica == self.decode
        waits = prompt and self.waits
        return {
            "pending": waits * self.prompt + answer,
            "memory": (prompt or answer) * (self.prompt + 1) + answer * self.answer,
            "prompts": int(waits),
            "answers": int(answer),
        }


@given(ORDERS)
def test_random_orders_against_a_recount(orders: list[tuple[Any, ...]]) -> None:
    booked = Booked([1000] * REPLICAS)
    books = Bookings(booked)
    naive: dict[int, Naive] = {}
    for verb, request, prefill, decode, prompt, answer in orders:
        mine = naive.get(request)
        if verb == "place":
            books.place(request, prefill, decode, prompt, answer)
            naive[request] = Naive(prefill, decode, prompt, answer or 0)
        elif verb == "rehome":
            books.rehome(request, decode)
            if mine:
                mine.decode = decode
        else:
            getattr(books, verb)(request)
            if mine and verb == "over":
                del naive[request]
            elif mine:
                mine.waits = False
                mine.prefill = NOWHERE if verb == "moved" else mine.prefill
        for name, column in columns(booked).items():
            assert column == [sum(one.on(i)[name] for one in naive.values()) for i in range(REPLICAS)]
    for request in list(naive):
        books.over(request)
    assert all(not any(column) for column in columns(booked).values())


@given(data=st.data())
@settings(max_examples=settings.default.max_examples)
def test_nothing_is_booked_when_nothing_is_inside(data: st.DataObject) -> None:
    """Clients that leave, refusals, replicas that die, return, drain and change their roles."""
    rows = data.draw(random_rows(most=14, prompt=60, output=30, gap_ns=20_000))
    gone = data.draw(random_gone(rows))
    blocks = data.draw(st.lists(st.integers(8, 30), min_size=4, max_size=4))
    resolved = pooled(
        data.draw(st.permutations(ROLES_22)) if data.draw(st.booleans()) else (MIXED,) * 4,
        params={"token_budget": 40, "max_seqs": 4},
        predictor=data.draw(st.sampled_from(["oracle", "none", "mean"])),
        long_queue=data.draw(st.sampled_from([20, 100])),
        blocks=blocks,
        block_tokens=8,
        wire_s=data.draw(st.sampled_from([0.0, 3e-6])),
    )
    instants = st.integers(1, 300_000)
    faults: list[Any] = []
    if data.draw(st.booleans()):
        at_ns = data.draw(instants)
        faults.append(Dies(at_ns, data.draw(st.integers(0, 3)), data.draw(st.sampled_from([None, at_ns + 50_000]))))
    if data.draw(st.booleans()):
        faults.append(Switches(data.draw(instants), data.draw(st.integers(0, 3)), data.draw(st.sampled_from(ROLES))))
    if data.draw(st.booleans()):
        faults.append(Drains(data.draw(instants), data.draw(st.integers(0, 3)), data.draw(st.booleans())))
    scenario = Scenario(tuple(faults), 0, "random") if faults else None
    log = simulate(resolved, workload(rows, gone), physics=lambda i: ToyLatency(), scenario=scenario)
    s = log.summary
    if s["requests"] == s["completed"] + s["rejected"] + s["cancelled"] + s["failed"]:
        assert all(not any(column) for column in columns(books_after(log)).values())


def test_the_prediction_is_booked_where_the_answer_goes() -> None:
    """Midway: the prompt's home has the prompt, the answer's home both; what is pending is the prompt, and one."""
    log = simulate(pooled(), workload([(0, 50, 30)]), physics=lambda i: ToyLatency())
    whole = list(log.records(0))
    event = whole[0][1]
    assert event == Arrived(event.request, 30)
    log.records = lambda room: iter(whole[:1])  # type: ignore[method-assign, assignment, return-value]
    now = columns(books_after(log))
    assert now == {"pending": [50, 0, 1, 0], "memory": [51, 0, 81, 0], "prompts": [1, 0, 0, 0], "answers": [0, 0, 1, 0]}


@pytest.mark.parametrize("router", ["round-robin", "splitwise"])
def test_only_a_router_that_books_is_told_of_prompts(router: str) -> None:
    """Nobody else pays for it."""
    resolved = fleet([MIXED, MIXED], "splitwise", router=router, predictor="oracle")
    log = simulate(resolved, workload([(0, 50, 30), (10, 20, 5)]), physics=lambda i: ToyLatency())
    kinds = [type(event) for _, event, _ in log.records(0)]
    assert kinds.count(Prefilled) == (2 if router == "splitwise" else 0)
    assert Report not in kinds
