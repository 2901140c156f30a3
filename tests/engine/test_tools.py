"""Tool calls: whole and in pieces, and text that only looks like one."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from phasewise.engine.tools import Call, ToolReader, form_of

NAMES = ("weather", "add.two")


def read(form, *pieces):
    """The text of an answer, and its calls."""
    reader = ToolReader(form, NAMES)
    found = [item for piece in pieces for item in reader.feed(piece)] + reader.finish()
    assert all(found), "an empty piece of text"
    return "".join(item for item in found if isinstance(item, str)), [item for item in found if isinstance(item, Call)]


def hermes(name, arguments, **more):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments, **more})}\n</tool_call>"


CALLED = [
    ("hermes", hermes("weather", {"city": "Köln"}), "", [("weather", {"city": "Köln"})]),
    ("hermes", "Well.\n\n" + hermes("weather", {}), "Well.\n\n", [("weather", {})]),
    ("hermes", "\n" + hermes("weather", {}) + "\n" + hermes("add.two", {"a": [1, {"b": "}"}]}) + "\n", "",
     [("weather", {}), ("add.two", {"a": [1, {"b": "}"}]})]),
    ("hermes", hermes("weather", {}) + " That is all.", " That is all.", [("weather", {})]),
    ("hermes", hermes("weather", {"a": '</tool_call>"\\'}), "", [("weather", {"a": '</tool_call>"\\'})]),
    ("hermes", hermes("weather", {"a": 1}).removesuffix("</tool_call>"), "", [("weather", {"a": 1})]),
    ("hermes", hermes("weather", {"a": 1}).removesuffix("call>"), "", [("weather", {"a": 1})]),
    ("hermes", '<tool_call>{"name": "add.two"}</tool_call>', "", [("add.two", {})]),
    ("hermes", "<tool_call> or so: " + hermes("weather", {}), "<tool_call> or so: ", [("weather", {})]),
    ("hermes", "<tool_call>{" + hermes("weather", {}), "<tool_call>{", [("weather", {})]),
    ("mistral", '[TOOL_CALLS] [{"name": "weather", "arguments": {"x": "]"}}, {"name": "add.two", "arguments": {}}]', "",
     [("weather", {"x": "]"}), ("add.two", {})]),
    ("mistral", 'So: [TOOL_CALLS]weather[ARGS]{"x": 1}[TOOL_CALLS]add.two{"y": 2}', "So: ",
     [("weather", {"x": 1}), ("add.two", {"y": 2})]),
    ("llama", '{"name": "weather", "parameters": {"x": null}}', "", [("weather", {"x": None})]),
    ("llama", '\n<|python_tag|>{"name": "weather", "parameters": {}}; {"name": "add.two", "parameters": {"a": 1}}', "",
     [("weather", {}), ("add.two", {"a": 1})]),
]  # fmt: skip
TEXT = [
    ("hermes", ""),
    ("hermes", " \n"),
    ("hermes", "No <tool_cal"),
    ("hermes", "a < b, <tool_call>"),
    ("hermes", "<tool_call>\nnot json\n</tool_call>"),
    ("hermes", "<tool_call>{'name': 'weather'}</tool_call>"),
    ("hermes", hermes("unheard_of", {})),
    ("hermes", hermes("weather", "text")),
    ("hermes", hermes("weather", {}).removesuffix("</tool_call>") + "and more"),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"a": 1}'),
    ("hermes", '<tool_call>{"name": ["weather"]}</tool_call>'),
    ("hermes", '{"name": "weather", "arguments": {}}'),
    ("mistral", "[TOOL_CALLS]"),
    ("mistral", "[TOOL_CALLS] weather in Rome"),
    ("mistral", '[TOOL_CALLS] [{"name": "weather", "arguments": {}}, {"name": "unheard_of", "arguments": {}}]'),
    ("mistral", "[TOOL_CALLS][]"),
    ("mistral", "[TOOL_CALLS]weather{1}"),
    ("mistral", "[TOOL_CALLS]unheard_of{}"),
    ("mistral", "[1, 2] [TOOL_"),
    ("llama", '{"name": "Rome", "parameters": {}}'),
    ("llama", '{"name": "weather"}'),
    ("llama", '{"name": "weather", "parameters": {'),
    ("llama", 'Say {"name": "weather", "parameters": {}}'),
    ("llama", "<|python_tag|>print(1)"),
    ("llama", "{" * 5000 + "}" * 5000),
]


@pytest.mark.parametrize(("form", "text", "shown", "calls"), CALLED)
def test_calls_are_read(form, text, shown, calls):
    for pieces in ([text], list(text)):
        got_text, got = read(form, *pieces)
        assert (got_text, [(c.name, json.loads(c.arguments)) for c in got]) == (shown, calls)
        assert [c.number for c in got] == list(range(len(calls)))


@pytest.mark.parametrize(("form", "text"), TEXT)
def test_what_only_looks_like_a_call_stays_text(form, text):
    for pieces in ([text], list(text)):
        assert read(form, *pieces) == (text, [])


scraps = st.sampled_from(
    [
        "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<tool", "_call>", "[TOOL", "weather",
        "{", "}", "[", "]", '"', "\\", ";", " ", "\n", "é", "a", '{"name": "weather", "arguments": {}}',
        '{"name": "weather", "parameters": {}}',
    ]
)  # fmt: skip


@given(st.sampled_from(["hermes", "mistral", "llama"]), st.lists(scraps, max_size=12), st.randoms())
@example("hermes", ["<tool_call>", '{"name": "weather", "arguments": {}}', "\n", "</tool_call>"], None)
def test_however_it_is_cut_it_is_read_alike(form, parts, chance):
    text = "".join(parts)
    whole = read(form, text)
    assert read(form, *text) == whole == read(form, *parts)
    if chance:
        cuts = sorted(chance.sample(range(len(text) + 1), min(3, len(text))))
        assert read(form, *(text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))) == whole
    if not whole[1]:
        assert whole[0] == text


def test_text_is_told_of_as_soon_as_it_is_text():
    reader = ToolReader("hermes", NAMES)
    assert reader.feed("Let me <") == ["Let me "]
    assert reader.feed("b> see <tool_") == ["<b> see "]
    assert reader.feed("call>") == []
    assert reader.feed('{"name": "weather", "arguments": {"a": 1}}') == []
    assert reader.feed("</tool_call>") == [Call(0, "weather", '{"a": 1}')]
    assert reader.finish() == []


def test_the_form_is_the_templates():
    assert form_of("{% if tools %}<tool_call>\n{'name':") == "hermes"
    assert form_of("{{ '[TOOL_CALLS] [' }}") == "mistral"
    assert form_of("{{ '<|python_tag|>' }}") == "llama"
    assert form_of("""{"name": function name, "parameters": dict} {{ 'ipython' }}""") == "llama"
    assert form_of("{{ messages[0].content }}") is form_of(None) is None
