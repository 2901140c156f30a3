"""The budget chosen by step times: the largest that keeps within the objective, for every latency model."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.control.resolve import resolve
from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec
from phasewise.core.step import Chunk, Piece
from phasewise.perf.physics import latency_model
from phasewise.policy.batching.sarathi import Sarathi
from phasewise.policy.batching.tuning import MOST, iteration_s, token_budget
from worlds import ToyLatency

YI = Deployment("01-ai/Yi-34B", (ReplicaSpec("a100", tp=2),), PolicySpec("sarathi", {"tbt_s": 0.2}))


class PerToken:
    """A millisecond for the step and so many nanoseconds a token."""

    basis = "toy"

    def __init__(self, token_ns: float) -> None:
        self._token_ns = token_ns

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        tokens = decodes + sum(chunk.tokens for chunk in chunks)
        return ((1e6 + self._token_ns * tokens, 0.0, steps),)


@given(st.floats(1e3, 1e5), st.floats(0.01, 1.0))
def test_the_closed_form_of_a_line(token_ns: float, tbt_s: float) -> None:
    fits = int((tbt_s * 1e9 - 1e6) / token_ns)
    if fits < 64:
        with pytest.raises(InputError, match="give more"):
            token_budget(PerToken(token_ns), tbt_s)
    else:
        assert abs(token_budget(PerToken(token_ns), tbt_s) - min(MOST, fits // 32 * 32)) <= 32


@given(st.floats(0.002, 0.05))
def test_the_budget_is_within_and_the_next_is_not(tbt_s: float) -> None:
    latency = ToyLatency(base=100_000, per_token=1_000, per_context=1, per_pair=1)
    found = token_budget(latency, tbt_s)
    assert iteration_s(latency, found) <= tbt_s
    assert found == MOST or iteration_s(latency, found + 32) > tbt_s


def test_a_deployment_is_resolved_to_a_number_that_holds() -> None:
    resolved = resolve(YI)
    batcher = resolved.deployment.batcher
    latency = latency_model(resolved.deployment, resolved.model, resolved.replicas[0])
    assert batcher.params["token_budget"] == token_budget(latency, 0.2)
    assert YI.batcher.params == {"tbt_s": 0.2}
    # What is printed can be resolved again, to the same.
    again = msgspec.structs.replace(YI, batcher=batcher)
    assert resolve(again).deployment.batcher == batcher


def test_the_slowest_replica_decides() -> None:
    fast, slow = PerToken(1e4), PerToken(1e5)
    assert Sarathi(tbt_s=0.1).tuned([fast, slow]).token_budget == token_budget(slow, 0.1)
    assert Sarathi().tuned([slow]) == Sarathi()


def test_an_objective_that_no_budget_meets_is_said_with_the_place() -> None:
    tight = msgspec.structs.replace(YI, batcher=PolicySpec("sarathi", {"tbt_s": 0.001}))
    with pytest.raises(InputError, match=r"^here: batcher sarathi: tbt_s 0.001 is less than an iteration of 64 tokens"):
        resolve(tight, "here")
