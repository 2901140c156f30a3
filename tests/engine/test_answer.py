"""An answer's text and end, against a look at the whole text."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import small_tokenizer as small
from phasewise.core.stream import Emitted, Work
from phasewise.engine.answer import Answer
from phasewise.engine.text import Tokenizer

END = 99
PIECES = [
    b"a",
    b"b",
    b"ab",
    b"aab",
    b"ba",
    b"",
    "é".encode(),
    "é".encode()[:1],
    "é".encode()[1:],
    b"\xf0\x9f",
    b"\x98\x80",
    b"\xff",
    b"c",
]


class Fake:
    """A tokenizer of few, nasty pieces."""

    def piece(self, token):
        return b"" if token == END else PIECES[token]

    def token_text(self, token):
        return "<end>" if token == END else PIECES[token].decode("utf-8", "backslashreplace")


def work(prompt=(1, 2), from_token=0, epoch=0, max_tokens=100, **wishes):
    return Work(3, epoch, tuple(prompt), max_tokens, from_token, **wishes)


def run(answer, tokens):
    """The texts shown, token by token, until the end."""
    shown = []
    for token in tokens:
        if answer.end is None:
            shown.append(answer.take(token))
    return shown


def by_the_whole(pieces, stops, limit, least):
    """Text, end and number of tokens, by looking at the whole text letter by letter after each token."""
    whole = b"".join(pieces[:limit] if END not in pieces[:limit] else pieces[: pieces.index(END)])
    for count in range(1, limit + 1):
        if count > len(pieces):
            return None
        closed = pieces[count - 1] == END
        data = b"".join(pieces[: count - closed])
        end = "stop" if closed else "length" if count == limit else None
        if end:
            assert data == whole
            text = data.decode("utf-8", "replace")
        else:
            text = solid(data)
        if count >= least:
            before = "" if count == 1 else solid(b"".join(pieces[: count - 1]))
            for stop_end in range(len(before) + 1, len(text) + 1):
                cuts = [stop_end - len(stop) for stop in stops if text[:stop_end].endswith(stop)]
                if cuts:
                    return text[: min(cuts)], "stop", count
        if end:
            return text, end, count
    raise AssertionError


def solid(data):
    """The text of bytes, without a half character at their end: one that some bytes would make whole."""
    for cut in range(1, min(3, len(data)) + 1):
        for more in (bytes([first]) + b"\x80" * k for first in (0x80, 0x90, 0xA0) for k in range(3)):
            try:
                whole = (data[-cut:] + more).decode()
            except UnicodeDecodeError:
                continue
            if len(whole) == 1:
                return data[:-cut].decode("utf-8", "replace")
    return data.decode("utf-8", "replace")


tokens_ = st.lists(st.one_of(st.integers(0, 3), st.integers(0, len(PIECES) - 1)), min_size=1, max_size=14)
stops_ = st.lists(st.text("abcé😀�", min_size=1, max_size=4), max_size=3).map(tuple)


@settings(max_examples=1500)
@given(tokens_, stops_, st.booleans(), st.integers(1, 14), st.integers(0, 6))
def test_an_answer_is_its_whole_text(tokens, stops, closes, limit, least):
    tokens = [*tokens, END] if closes else tokens
    answer = Answer(Fake(), work(max_tokens=limit, stop=stops, min_tokens=least), [END])
    shown = run(answer, tokens)
    expected = by_the_whole([END if t == END else PIECES[t] for t in tokens], stops, limit, least)
    if expected is None:
        assert answer.end is None
        # nothing more is withheld than what a stop goes on from, and half a character
        text = solid(b"".join(PIECES[t] for t in tokens))
        held = max((k for stop in stops for k in range(1, len(stop)) if text.endswith(stop[:k])), default=0)
        assert "".join(shown) == text[: len(text) - held]
    else:
        assert ("".join(shown), answer.end, len(shown)) == expected


@settings(max_examples=500)
@given(tokens_, stops_, st.integers(0, 14), st.integers(1, 20), st.integers(0, 6))
def test_a_retry_shows_and_withholds_the_same(tokens, stops, cut, limit, least):
    wishes = {"max_tokens": limit, "stop": stops, "min_tokens": least}
    first = Answer(Fake(), work(**wishes), [END])
    shown = run(first, tokens)
    cut = min(cut, len(shown) - 1)
    again = Answer(Fake(), work((1, 2, *tokens[:cut]), cut, 1, **wishes), [END])
    assert again.end is None
    assert (run(again, tokens[cut:]), again.end, again.count) == (shown[cut:], first.end, first.count)


@settings(max_examples=300)
@given(st.data(), stops_)
def test_where_tokens_are_cut_does_not_matter(data, stops):
    """Of one text, in other tokens, the same is shown in the end."""
    assume(stops)
    text = data.draw(st.text("abcé", min_size=1, max_size=12))

    class Cut:
        pieces: tuple = ()

        def piece(self, token):
            return self.pieces[token]

    ends = []
    for _ in range(2):
        raw = text.encode()
        cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
        fake = Cut()
        fake.pieces = (*(raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)), b"")
        answer = Answer(fake, work(stop=stops, stop_ids=(len(fake.pieces) - 1,)), [END])
        ends.append(("".join(run(answer, range(len(fake.pieces)))), answer.end))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("tokens", "wishes", "shown", "end"),
    [
        ([0, 12, 0], {"stop": ("ac",)}, ["", ""], "stop"),  # across a token border
        ([12, 3, 0], {"stop": ("a",)}, ["c", ""], "stop"),  # inside one token
        ([3], {"stop": ("b", "ab", "zb")}, ["a"], "stop"),  # of two complete at once, the longest
        ([0, 1, 12], {"stop": ("abd",)}, ["", "", "abc"], None),  # what was withheld comes when it is no stop
        ([0, 1, END], {"stop": ("abd",)}, ["", "", "ab"], "stop"),  # and at the end
        ([0, 1], {"stop": ("abd",), "max_tokens": 2}, ["", "ab"], "length"),
        ([9, 10], {}, ["", "😀"], None),
        ([9, END], {}, ["", "�"], "stop"),
        ([9, 0], {}, ["", "�a"], None),
        ([0, 12], {"stop_ids": (12,)}, ["a", ""], "stop"),
        ([0, END, 12], {"ignore_end": True}, ["a", "", "c"], None),
        ([0, END], {"ignore_end": True, "schema": "{}"}, ["a", ""], "stop"),
        ([0, 1], {"max_tokens": 1}, ["a"], "length"),
        ([END], {"max_tokens": 1}, [""], "stop"),
        ([12], {"max_tokens": 1, "stop": ("c",)}, [""], "stop"),
        ([1, 1, 1], {"stop": ("b",), "min_tokens": 2}, ["b", ""], "stop"),
        ([0, 1, 12], {"stop": ("ab",), "min_tokens": 3}, ["", "ab", "c"], None),
        ([0, 1], {"stop": ("",)}, ["a", "b"], None),
    ],
)  # fmt: skip
def test_ends(tokens, wishes, shown, end):
    answer = Answer(Fake(), work(**wishes), [END])
    assert (run(answer, tokens), answer.end) == (shown, end)


def test_what_the_client_is_told():
    answer = Answer(Fake(), work((1, 2, 9), 1, 4, max_tokens=3), [END])
    assert answer.emit(10, [(10, -0.5), (9, -1.0)]) == Emitted(
        3, 4, 1, 10, "😀", ((10, -0.5, "\\x98\\x80"), (9, -1.0, "\\xf0\\x9f"))
    )
    assert answer.emit(0) == Emitted(3, 4, 2, 0, "a", (), "length")


@pytest.fixture(scope="module", params=[small.letters, small.marks])
def tokenizer(request, tmp_path_factory):
    return Tokenizer(small.folder(tmp_path_factory.mktemp("model"), request.param()))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_piece_by_piece_is_whole_decoding(tokenizer, data):
    if data.draw(st.booleans()):
        text = data.draw(st.text(st.sampled_from("the fox 狐狸😀👩‍👧é€\n"), max_size=20))
        tokens = tokenizer.encode(text, special=False)
    else:
        tokens = data.draw(st.lists(st.integers(0, tokenizer.vocab - 1), max_size=30))
    tokens = [*(t for t in tokens if t != small.END), small.END]
    answer = Answer(tokenizer, work(), [small.END])
    shown = run(answer, tokens)
    assert answer.end == "stop"
    # an answer continues a text: it keeps the blank that a text of its own would lose
    assert "".join(shown).removeprefix(" " if tokenizer._strips else "") == tokenizer.decode(tokens)


def test_the_answer_continues_the_prompt(tokenizer):
    text = "the fox 😀 the 狐狸 fox"
    tokens = tokenizer.encode(text, special=False)
    for cut in range(1, len(tokens)):
        if "�" not in (before := tokenizer.decode(tokens[:cut])):
            answer = Answer(tokenizer, work(tokens[:cut]), [small.END])
            assert before + "".join(run(answer, tokens[cut:])) == text
