"""Answers that follow a schema: whatever the logits, they parse, and are what the schema asks for."""

import json

import jsonschema
import numpy as np
import pytest
import torch

import small_tokenizer as small
from phasewise.core.errors import InputError
from phasewise.core.stream import Sampling, Work
from phasewise.engine.answer import Answer
from phasewise.engine.grammar import Grammars, check
from phasewise.engine.sampling import Chooser, choose
from phasewise.engine.text import Tokenizer
from phasewise.engine.voice import Voices

torch.set_num_threads(1)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "pets": {"type": "array", "items": {"enum": ["fox", "狐狸", None]}, "maxItems": 3},
        "at": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/place"}]},
    },
    "required": ["name", "age", "pets", "at"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["zip"],
            "additionalProperties": False,
        }
    },
}
SCHEMAS = [
    PERSON,
    {"type": "boolean"},
    {"const": {"a": [1, "é", None]}},
    {"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 5}, "minItems": 2, "maxItems": 4},
    {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": False},
]
PADDED = 7  # logits that stand for no token


@pytest.fixture(scope="module", params=[small.letters, small.marks])
def model(request, tmp_path_factory):
    folder = small.folder(tmp_path_factory.mktemp("model"), request.param())
    tokenizer = Tokenizer(folder)
    vocab = tokenizer.vocab + PADDED
    return tokenizer, vocab, Grammars(folder, vocab, [small.END])


def go_on(model, work, logits, cut=None):
    """The tokens of the answer, up to `cut`, its text and its end."""
    tokenizer, _, grammars = model
    grammar = grammars.compile(work.schema)
    chooser, answer = Chooser(work, [small.END], grammar), Answer(tokenizer, work, [small.END])
    tokens, text = [], ""
    while answer.end is None and (cut is None or len(tokens) < cut):
        token = choose(logits[chooser.index].unsqueeze(0), [chooser])[0].token
        assert grammar.may_end or token != small.END
        chooser.advance(token)
        text += answer.take(token)
        tokens.append(token)
    assert grammar.fault is None
    return tokens, text, answer.end


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_whatever_the_logits_the_schema_is_followed(model, schema, temperature):
    _, vocab, _ = model
    seen = set()
    for seed in range(8):
        logits = torch.randn(1500, vocab, generator=torch.Generator().manual_seed(seed)) * 2
        logits[:, small.END] += 2
        wish = Sampling(temperature, seed=seed, top_p=0.99)
        work = Work(0, 0, (5,), 1500, sampling=wish, schema=json.dumps(schema), ignore_end=bool(seed % 2))
        tokens, text, end = go_on(model, work, logits)
        assert end == "stop"
        jsonschema.validate(json.loads(text), schema)
        seen.add(text)
        # a retry in the middle follows on
        cut = len(tokens) // 2
        again = Work(0, 1, (5, *tokens[:cut]), 1500, cut, wish, schema=work.schema, ignore_end=work.ignore_end)
        assert go_on(model, again, logits)[0] == tokens[cut:]
    assert len(seen) > 1


def test_answers_do_not_share_their_state(model):
    _, vocab, grammars = model
    one, two = (grammars.compile('{"enum": ["a", "b"]}') for _ in range(2))
    before = two.mask(vocab)
    one.advance(np.flatnonzero(one.mask(vocab))[0])
    assert (two.mask(vocab) == before).all()
    assert not (one.mask(vocab) == before).all()


def test_after_the_end_there_is_only_the_end(model):
    tokenizer, vocab, grammars = model
    grammar = grammars.compile('{"const": 1}')
    assert not grammar.mask(vocab)[-PADDED:].any()
    grammar.advance(tokenizer.encode("1", special=False)[-1])
    assert grammar.may_end
    assert np.flatnonzero(grammar.mask(vocab)).tolist() == [small.END]
    for _ in range(2):
        grammar.advance(small.END)
        assert np.flatnonzero(grammar.mask(vocab)).tolist() == [small.END]
    assert grammar.fault is None


def test_a_token_off_the_path_ends_one_answer_only(model):
    tokenizer, vocab, grammars = model
    grammar = grammars.compile('{"const": 1}')
    grammar.advance(tokenizer.encode("x", special=False)[-1])
    assert grammar.fault
    assert not grammar.may_end
    assert np.flatnonzero(grammar.mask(vocab)).tolist() == [small.END]


def test_an_answer_that_could_not_follow_its_schema_says_so(model):
    """Not that it has ended well, though the end is all that it could say."""
    tokenizer, vocab, grammars = model
    voices = Voices(tokenizer, [small.END], grammars.compile)
    works = [Work(i, 0, (1,), 9, sampling=Sampling(0.0), schema='{"const": 1}') for i in range(2)]
    good, bad = map(voices.of, works)
    bad.chooser.advance(tokenizer.encode("x", special=False)[-1])
    ends = {0: None, 1: None}
    while None in ends.values():
        going = [voice for i, voice in enumerate((good, bad)) if ends[i] is None]
        for one in voices.speak(torch.zeros(len(going), vocab), going):
            ends[one.request] = one.end
    assert ends == {0: "stop", 1: "fault"}


def test_blanks_come_to_an_end(model):
    """A model that likes nothing better than blanks still gets through the document."""
    tokenizer, vocab, _ = model
    logits = torch.zeros(400, vocab)
    for token in range(tokenizer.vocab):
        if (piece := tokenizer.token_bytes(token)) and not piece.strip():
            logits[:, token] = 50.0
    schema = (
        '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false}'
    )
    _, text, end = go_on(model, Work(0, 0, (5,), 400, sampling=Sampling(0.0), schema=schema), logits)
    assert end == "stop"
    assert json.loads(text) in ({"a": True}, {"a": False})


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("nonsense", "cannot be followed"),
        ("[]", "object"),
        ('{"type": "strin"}', "strin"),
        ('{"$ref": "#/nowhere"}', "nowhere"),
        ('{"not": {"type": "string"}}', "not"),
        ('{"type": "string", "pattern": "("}', "unclosed"),
        ("[" * 100_000, "cannot be followed"),
        ('{"a":' * 100_000, "cannot be followed"),
    ],
    ids=range(8),
)
def test_bad_schemas_are_refused(model, schema, words):
    for refuse in (check, model[2].compile):
        with pytest.raises(InputError, match=f"response_format: .*{words}") as error:
            refuse(schema)
        assert "\n" not in str(error.value)
    check('{"type": "object"}')


def test_a_schema_is_compiled_once(model, monkeypatch):
    compiled = []
    matcher = Grammars._compile
    monkeypatch.setattr(Grammars, "_compile", lambda self, schema: compiled.append(schema) or matcher(self, schema))
    grammars = Grammars(model[0].folder, model[1], [small.END])
    for _ in range(3):
        grammars.compile('{"type": "null"}')
    assert compiled == ['{"type": "null"}']
