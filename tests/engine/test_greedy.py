"""The built-in model, served by the rooms, says what `transformers` says, token for token, however its steps are cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from house import House
from phasewise.core.stream import Sampling, Work
from phasewise.engine.builtin import builtin_folder
from phasewise.engine.decoder import Decoder
from phasewise.engine.executor import TorchExecutor
from phasewise.engine.grammar import Grammars
from phasewise.engine.text import Tokenizer
from phasewise.engine.voice import Voices
from phasewise.engine.weights import load

TOKENS = 16
UNIT = 16
QUESTIONS = [
    "What is the capital of France?",
    "Count from one to ten.",
    "Name three colours of the rainbow, and say in one sentence each where one sees them in nature.",
    "Why is the sky blue?",
    "Translate 'good morning' into Spanish.",
]


class Reference:
    """The model in `transformers`, in float32."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM

        folder = builtin_folder()
        self.tokenizer = Tokenizer(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.prompts = [self.prompt(question) for question in QUESTIONS]
        self.answers = [self.greedy(prompt) for prompt in self.prompts]

    def prompt(self, question: str) -> list[int]:
        return self.tokenizer.encode(self.tokenizer.chat([{"role": "user", "content": question}]), special=False)

    def greedy(self, prompt: Sequence[int]) -> list[int]:
        with torch.inference_mode():
            found = self.model.generate(torch.tensor([list(prompt)]), max_new_tokens=TOKENS, do_sample=False)
        return list(map(int, found[0][len(prompt) :]))

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """Of every position of a text [tokens, vocabulary]."""
        with torch.inference_mode():
            return self.model(torch.tensor([list(tokens)])).logits[0]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="module")
def model() -> Decoder:
    shape, tensors = load(builtin_folder(), torch.float32)
    return Decoder(shape, tensors, torch.float32, UNIT, 128)


def house(model: Decoder, reference: Reference, batcher: str, params: Any, **world: Any) -> House:
    voices = Voices(reference.tokenizer, model.shape.end_ids, Grammars)  # type: ignore[arg-type]
    world = {"blocks": 128, "block_tokens": UNIT, "max_context": 1024} | world
    return House(lambda place: TorchExecutor(model, voices, place), batcher, params, **world)


def ask(there: House, number: int, prompt: Sequence[int], shared: bool = False) -> None:
    ids = [hash(tuple(prompt[: end + UNIT])) for end in range(0, len(prompt) - UNIT + 1, UNIT)] if shared else []
    there.submit(Work(number, 0, tuple(prompt), TOKENS, sampling=Sampling(0.0)), "", ids, UNIT if shared else 0)


def test_alone(model: Decoder, reference: Reference) -> None:
    there = house(model, reference, "vllm-v1", {})
    for number, (prompt, answer) in enumerate(zip(reference.prompts, reference.answers, strict=True)):
        ask(there, number, prompt)
        there.finish()
        assert there.tokens(number) == answer
    there.close()


@pytest.mark.parametrize("budget", [7, 50, 512])
def test_together_in_chunks_of_many_sizes(model: Decoder, reference: Reference, budget: int) -> None:
    there = house(model, reference, "sarathi", {"token_budget": budget})
    for number, prompt in enumerate(reference.prompts):
        ask(there, number, prompt)
        for _ in range(2 * number):
            there.step()
    there.finish()
    for number, answer in enumerate(reference.answers):
        assert there.tokens(number) == answer
    there.close()


def test_preempted_and_computed_again(model: Decoder, reference: Reference) -> None:
    there = house(model, reference, "vllm-v0", {}, blocks=13, max_context=120)
    for number, prompt in enumerate(reference.prompts):
        ask(there, number, prompt)
    there.finish()
    assert any(run.plan.preempt for run in there.runs)
    for number, answer in enumerate(reference.answers):
        assert there.tokens(number) == answer
    there.close()


def test_after_what_is_in_memory(model: Decoder, reference: Reference) -> None:
    there = house(model, reference, "vllm-v1", {"token_budget": 64, "max_seqs": 8}, prefix_cache=True)
    for round_ in range(2):
        for number, prompt in enumerate(reference.prompts):
            ask(there, 10 * round_ + number, prompt, shared=True)
        there.finish()
    begun = [chunk.start for run in there.runs for chunk in run.plan.chunks if chunk.request >= 10]
    assert min(begun) >= UNIT
    for number, answer in enumerate(reference.answers):
        assert there.tokens(number) == there.tokens(10 + number) == answer
    there.close()


def test_in_bf16_it_differs_only_where_two_tokens_are_nearly_as_likely(
    reference: Reference, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every first difference lies where the float32 reference's first two logits are closer than bf16 can tell."""
    shape, tensors = load(builtin_folder(), torch.bfloat16)
    there = house(Decoder(shape, tensors, torch.bfloat16, UNIT, 128), reference, "sarathi", {"token_budget": 64})
    for number, prompt in enumerate(reference.prompts):
        ask(there, number, prompt)
    there.finish()
    differ, gaps = 0, []
    for number, (prompt, answer) in enumerate(zip(reference.prompts, reference.answers, strict=True)):
        said = there.tokens(number)
        first = next((i for i, (a, b) in enumerate(zip(said, answer, strict=False)) if a != b), None)
        if first is None:
            continue
        differ += 1
        row = reference.logits([*prompt, *answer])[len(prompt) - 1 + first]
        best = row.topk(2).values
        gaps.append(float(best[0] - best[1]))
        # bf16 has eight bits: near such logits two neighbours lie so far apart, and a few roundings add up.
        assert gaps[-1] < 4 * float(best[0].abs()) * 2.0**-8
    with capsys.disabled():
        print(
            f"\nbf16: {differ} of {len(QUESTIONS)} answers differ at some token; gaps {np.round(sorted(gaps), 3).tolist()}"
        )
    there.close()
