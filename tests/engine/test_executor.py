"""What a room plans reaches the model as it should: every row reads the context that is its own, whatever was chunked,
preempted, shared, interrupted or cancelled on the way.

The model here keeps tokens in pages in place of keys and values, and looks at every one of them in each row; what it says next
is a function of all that it read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from house import House
from phasewise.core.action import Enter
from phasewise.core.errors import PlanError
from phasewise.core.step import ALL
from phasewise.core.stream import Emitted, Work
from phasewise.engine.batch import Rows
from phasewise.engine.executor import TorchExecutor
from worlds import ARMS

UNIT = 4
SAID = 1000  # from here on tokens are said, below they are asked


def reply(context: Sequence[int]) -> int:
    """The next token: it hangs on every token before it and on their order."""
    state = 7
    for token in context:
        state = (state * 1_000_003 + token) % 2_147_483_647
    return SAID + state % 500


class Scribe:
    """Pages with a token in each place; a row is read back whole."""

    def __init__(self, block_tokens: int) -> None:
        self.size = block_tokens
        self.places: dict[tuple[int, int], tuple[int, int]] = {}
        self.rows = 0

    def step(self, rows: Sequence[Rows]) -> list[list[int]]:
        for row in rows:
            for i, token in enumerate(row.tokens, start=row.start):
                self.places[row.pages[i // self.size], i % self.size] = (i, token)
        said = []
        for row in rows:
            self.rows += 1
            context = []
            for i in range(row.start + len(row.tokens)):
                position, token = self.places[row.pages[i // self.size], i % self.size]
                assert position == i
                context.append(token)
            if row.emits:
                said.append(context)
        return said


class Voice:
    """What is left to say of an answer."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.index = work.from_token

    def say(self, token: int) -> Emitted:
        self.index += 1
        end = "length" if self.index == self.work.max_tokens else None
        return Emitted(self.work.request, self.work.epoch, self.index - 1, token, f"{token} ", (), end)


class Plain:
    """A voice says the reply, and ends at the length that was asked for."""

    def of(self, work: Work) -> Voice:
        return Voice(work)

    def speak(self, logits: list[list[int]], voices: Sequence[Voice]) -> list[Emitted]:
        return [voice.say(reply(context)) for context, voice in zip(logits, voices, strict=True)]


def house(arm: str, **world: Any) -> House:
    name, params = ARMS[arm]
    size = world.setdefault("block_tokens", UNIT)
    return House(
        lambda place: TorchExecutor(Scribe(size), Plain(), place),
        name,
        params,
        **world,
    )


def expected(prompt: Sequence[int], tokens: int, from_token: int = 0) -> list[int]:
    text = list(prompt)
    for _ in range(tokens - from_token):
        text.append(reply(text))
    return text[len(prompt) :]


def ids(prompt: Sequence[int]) -> list[int]:
    """A name for each whole unit, which stands for all before it."""
    return [hash(tuple(prompt[: end + UNIT])) for end in range(0, len(prompt) - UNIT + 1, UNIT)]


@pytest.mark.parametrize("arm", [a for a in ARMS if "wait" not in a or "late" in a])
@settings(max_examples=25)
@given(data=st.data())
def test_every_row_reads_its_own_context(arm: str, data: st.DataObject) -> None:
    name, params = ARMS[arm]
    cached = name in ("vllm-v1", "sarathi") and data.draw(st.booleans())
    there = house(arm, blocks=data.draw(st.integers(12, 24)), max_context=40, prefix_cache=cached)
    wanted: dict[int, list[int]] = {}
    gone: set[int] = set()
    epochs: dict[int, int] = {}
    for number in range(data.draw(st.integers(1, 8))):
        family = data.draw(st.integers(0, 2))
        prompt = [family * 50 + i for i in range(data.draw(st.integers(0, 16)))]
        prompt += [number * 7 + i for i in range(data.draw(st.integers(1, 6)))]
        tokens = data.draw(st.integers(1, 16))
        resumed = data.draw(st.integers(0, tokens - 1)) if data.draw(st.integers(0, 3)) == 0 else 0
        first = expected(prompt, resumed)
        epochs[number] = resumed
        wanted[number] = expected([*prompt, *first], tokens, resumed)
        work = Work(number, resumed, (*prompt, *first), tokens, from_token=resumed)
        kind = data.draw(st.sampled_from(sorted(kinds))) if (kinds := params.get("types")) else ""
        there.submit(work, kind, ids(prompt) if cached else (), UNIT if cached else 0)
        for _ in range(data.draw(st.integers(0, 5))):
            there.step()
        if data.draw(st.integers(0, 9)) == 0:
            one = data.draw(st.integers(0, number))
            there.cancel(one, epochs[one])
            gone.add(one)
    there.finish()
    for number, tokens in wanted.items():
        if number in gone:
            assert there.tokens(number) == tokens[: len(there.tokens(number))]
        else:
            assert there.tokens(number) == tokens
    there.close()


def test_nobody_is_handed_over() -> None:
    with pytest.raises(PlanError, match="request 3 is handed over"):
        house("sarathi", blocks=12, max_context=40).engine.enter(Enter(3, 8, ALL))
