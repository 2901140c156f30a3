"""Closed loops: one after the other for one user, Little's law, the machine-repair queue, saturation, replay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoded import requests
from phasewise.control.replay import replay
from phasewise.core.action import Outcome
from phasewise.core.event import Arrived
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, RequestClass
from phasewise.core.step import Chunk, Piece
from phasewise.record.columns import ClusterColumns
from phasewise.record.runlog import RunLog
from phasewise.sim.simulate import simulate
from phasewise.workload.closed import Closed, ExponentialThink, FixedThink
from phasewise.workload.lengths import LogNormal
from phasewise.workload.synth import Synthetic, generate
from phasewise.workload.truth import Truth
from phasewise.workload.workload import ClosedLoop, Workload
from worlds import ConstantLatency, ToyLatency, toy_resolved, workload

H100 = Deployment("meta-llama/Llama-3.1-8B", (ReplicaSpec("h100"),), PolicySpec("sarathi"))


def loop(users: int, think_ns: Sequence[int], prompts: Sequence[int], outputs: Sequence[int]) -> Workload:
    n = len(prompts)
    closed = ClosedLoop(users, np.array(think_ns, np.int64))
    columns = (np.array(column, np.int64) for column in (prompts, outputs))
    prompt, output = columns
    return Workload("loop", np.zeros(n, np.int64), prompt, Truth(output), closed=closed)


def inside(log: RunLog) -> int:
    """The most requests that were ever inside at once."""
    rows = log.tables.requests
    changes = sorted([(at, 1) for at in rows["arrival_ns"].tolist()] + [(at, -1) for at in rows["end_ns"].tolist()])
    return int(np.max(np.cumsum([change for _, change in changes])))


@pytest.mark.parametrize("wire_s", [0.0, 2e-6])
def test_one_user_sends_one_after_the_other(wire_s: float) -> None:
    think = [0, 500, 12_345, 0, 7]
    log = simulate(
        toy_resolved(wire_s=wire_s), loop(1, think, [5] * 5, [1, 3, 2, 9, 4]), physics=lambda i: ConstantLatency(1_000)
    )
    rows = log.tables.requests
    wire = round(2 * wire_s * 1e9)
    service = [1_000 * n + wire for n in (1, 3, 2, 9, 4)]
    assert (rows["end_ns"] - rows["arrival_ns"]).tolist() == service
    assert rows["arrival_ns"][0] == 0
    assert (rows["arrival_ns"][1:] - rows["end_ns"][:-1]).tolist() == think[:-1]
    assert log.header.workload["users"] == 1


def test_all_users_at_once_are_the_offline_run() -> None:
    """With a user for each request nobody sends twice: everything arrives at time 0."""
    prompts, outputs = [5 + i % 17 for i in range(60)], [1 + i % 23 for i in range(60)]
    resolved = toy_resolved("sarathi", {"max_seqs": 8, "token_budget": 32}, blocks=80)
    closed = simulate(resolved, loop(60, [0] * 60, prompts, outputs), physics=lambda i: ToyLatency())
    offline = simulate(
        resolved, workload([(0, p, o) for p, o in zip(prompts, outputs, strict=True)]), physics=lambda i: ToyLatency()
    )
    assert closed.tables.requests.tolist() == offline.tables.requests.tolist()
    assert list(closed.segments()) == list(offline.segments())


def test_many_users_reach_offline_throughput() -> None:
    lengths = LogNormal(median=300, sigma=0.6), LogNormal(median=100, sigma=0.5)
    offline = simulate(H100, generate(Synthetic("w", Closed(4_000), *lengths), 4_000))
    throughput = []
    for users in (1, 16, 256, 1_024):
        think = FixedThink(0.5)
        w = generate(Synthetic("w", Closed(users, think), *lengths), 4_000)
        throughput.append(simulate(H100, w).summary["throughput_tokens_per_s"])
    assert throughput == sorted(throughput)
    assert throughput[-1] == pytest.approx(offline.summary["throughput_tokens_per_s"], rel=0.03)


@pytest.mark.parametrize(("users", "think_s"), [(8, 2.0), (64, 5.0), (200, 1.0)])
def test_littles_law(users: int, think_s: float) -> None:
    """N = X (R + Z), over the stretch in which all users are in the loop."""
    lengths = LogNormal(median=300, sigma=0.6), LogNormal(median=100, sigma=0.5)
    w = generate(Synthetic("w", Closed(users, ExponentialThink(think_s)), *lengths), 20_000, seed=2)
    rows = simulate(H100, w).tables.requests
    # After this end no user who ends has another request to send.
    last = np.sort(rows["end_ns"])[len(rows) - users - 1]
    seen = rows["end_ns"] <= last
    rate = seen.sum() / (last / 1e9)
    response = (rows["end_ns"] - rows["arrival_ns"])[seen].mean() / 1e9
    assert rate * (response + w.closed.think_ns[seen].mean() / 1e9) == pytest.approx(users, rel=0.015)
    assert (np.diff(rows["arrival_ns"]) >= 0).all()


class PerToken:
    """A prompt takes a microsecond a token, and nothing else takes any time: a server with the service times of its prompts."""

    basis = "per token"

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        return ((1_000.0 * sum(chunk.tokens for chunk in chunks), 0.0, steps),)


@pytest.mark.parametrize(("users", "ratio"), [(1, 3.0), (4, 5.0), (12, 8.0)])
def test_the_machine_repair_queue(users: int, ratio: float) -> None:
    """One exponential server, N users who think exponentially for `ratio` services (M/M/1//N): X = (1 - p0) / S, where
    1/p0 = sum over k of N! / (N - k)! ratio^-k."""
    rng = np.random.default_rng(users)
    n, service_ns = 30_000, 200_000
    prompts = np.maximum(1, np.rint(rng.exponential(service_ns / 1_000, n))).astype(int)
    think = np.rint(rng.exponential(service_ns * ratio, n)).astype(int)
    resolved = toy_resolved("static", {"max_seqs": 1}, blocks=400, max_context=6_000)
    log = simulate(resolved, loop(users, think, prompts, [1] * n), physics=lambda i: PerToken())
    rate = n / (log.summary["simulated_s"] * 1e9)
    idle = 1 / sum(math.perm(users, k) * ratio**-k for k in range(users + 1))
    assert rate * service_ns == pytest.approx(1 - idle, rel=0.02)
    assert inside(log) <= users


BATCHERS = {
    "static": {"max_seqs": 3},
    "vllm-v1": {"max_seqs": 4, "token_budget": 16},
    "sarathi": {"max_seqs": 4, "token_budget": 16},
}


@pytest.mark.parametrize("batcher", BATCHERS)
@given(data=st.data())
def test_random_loops_replay_and_keep_their_population(batcher: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 14))
    users = data.draw(st.integers(1, 16))
    ints = lambda low, high: data.draw(st.lists(st.integers(low, high), min_size=n, max_size=n))  # noqa: E731
    prompts, outputs, think = ints(1, 70), ints(1, 30), ints(0, 90_000)
    prompts[0] = min(prompts[0], 4)  # one at least fits
    blocks = data.draw(st.tuples(st.integers(8, 30), st.integers(8, 30)))
    wire_s = data.draw(st.sampled_from([0.0, 3e-6]))
    resolved = toy_resolved(batcher, BATCHERS[batcher], blocks, 8, max_context=60, replicas=2, wire_s=wire_s)
    run = loop(users, think, prompts, outputs)
    log = simulate(resolved, run, physics=lambda i: ToyLatency(whole=False))
    assert replay(log) == log.summary["events"]
    columns = ClusterColumns()
    columns.fold(log.records(0))
    assert columns.table().tobytes() == log.tables.requests.tobytes()
    told = requests(log)
    assert len(told) == n  # rejected or served, a request lets its user go on
    assert all(r.outcome in (Outcome.FINISHED, Outcome.REJECTED) for r in told.values())
    arrived = [(at_ns, e.request.id) for at_ns, e, _ in log.records(0) if type(e) is Arrived]
    assert arrived == sorted(arrived)
    # Every arrival but the first ones is a thinking time after an end that let it come, each end used once.
    rows = log.tables.requests
    due = sorted((rows["end_ns"] + np.array(think)).tolist())[: max(0, n - users)]
    later = sorted(rows["arrival_ns"].tolist())[min(users, n) :]
    assert all(at <= came for at, came in zip(due, later, strict=True))
    assert inside(log) <= users


def test_the_ith_request_is_the_same_under_every_policy() -> None:
    lengths = LogNormal(median=40, sigma=0.4, max=200), LogNormal(median=20, sigma=0.4, max=200)
    w = generate(Synthetic("w", Closed(6, ExponentialThink(1e-4)), *lengths), 200, seed=5)
    runs = [
        simulate(toy_resolved(name, BATCHERS[name], blocks=200), w, physics=lambda i: ToyLatency()).tables.requests
        for name in BATCHERS
    ]
    for rows in runs:
        assert rows["prompt"].tolist() == w.prompt_tokens.tolist()
        assert rows["tokens"].tolist() == w.truth.column().tolist()
    assert len({rows["arrival_ns"].tobytes() for rows in runs}) > 1


def test_progress_and_classes_in_a_loop() -> None:
    n = 2_100
    w = loop(3, [10] * n, [5] * n, [2] * n).labelled(RequestClass("only"))
    seen: list[int] = []
    log = simulate(toy_resolved(), w, physics=lambda i: ConstantLatency(), progress=seen.append)
    assert seen == [0, 1024, 2048]
    assert set(log.tables.requests["kind"].tolist()) == {1}
    assert log.summary["classes"]["only"]["completed"] == n
