"""The built-in model's own tokenizer and template, against transformers; a schema and an answer in its tokens."""

import json

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from phasewise.core.errors import InputError
from phasewise.core.stream import Sampling, Work
from phasewise.engine.answer import Answer
from phasewise.engine.grammar import Grammars
from phasewise.engine.sampling import Chooser, choose
from phasewise.engine.text import Tokenizer

builtin = pytest.importorskip("phasewise.engine.builtin")
torch.set_num_threads(1)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Was ist 2 + 2?\n\n狐狸 😀 "},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": ""},
]


@pytest.fixture(scope="module")
def pair():
    """Our tokenizer, and transformers'."""
    try:
        folder = builtin.builtin_folder()
    except InputError as error:
        pytest.skip(str(error))
    return Tokenizer(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("messages", [TALK, TALK[1:], TALK[1:2], TALK[:2]], ids=range(4))
@pytest.mark.parametrize("prompt", [True, False])
def test_conversations(pair, messages, prompt):
    ours, theirs = pair
    text = ours.chat(messages, add_generation_prompt=prompt)
    assert text == theirs.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
    ids = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
    assert ours.encode(text, special=False) == ids


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=30))
@example("def f(x):\n    return  x*12345 # 😀 狐狸")
def test_texts(pair, text):
    ours, theirs = pair
    tokens = ours.encode(text)
    assert tokens == theirs.encode(text)
    assert ours.decode(tokens) == theirs.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 49_151), max_size=20))
def test_any_tokens(pair, tokens):
    ours, theirs = pair
    text = theirs.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert ours.decode(tokens) == text
    end = ours.token_id("<|im_end|>")
    answer = Answer(ours, Work(0, 0, (1,), 100), [end])
    tokens = [token for token in tokens if token != end]
    assert "".join(answer.take(token) for token in [*tokens, end]) == ours.decode(tokens)


def test_a_schema_is_followed_at_full_size(pair):
    ours, _ = pair
    end = ours.token_id("<|im_end|>")
    work = Work(0, 0, (1,), 200, sampling=Sampling(0.8, seed=1), schema='{"enum": ["yes", "no", "狐狸 😀"]}')
    grammar = Grammars(ours.folder, 49_152, [end]).compile(work.schema)
    chooser, answer, text = Chooser(work, [end], grammar), Answer(ours, work, [end]), ""
    for i in range(200):
        token = choose(torch.randn(1, 49_152, generator=torch.Generator().manual_seed(i)), [chooser])[0].token
        chooser.advance(token)
        text += answer.take(token)
        if answer.end:
            break
    assert answer.end == "stop"
    assert json.loads(text) in ("yes", "no", "狐狸 😀")
