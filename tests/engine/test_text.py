"""Tokens, texts and conversations, against tokenizers and transformers."""

import json
from datetime import datetime

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import small_tokenizer as small
from phasewise.core.errors import InputError
from phasewise.engine.text import Tokenizer

CHATML = """{%- for message in messages %}
    {%- if loop.first and messages[0]['role'] != 'system' %}
        {{- '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}"""
LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- set ns = namespace(system="") %}
{%- if messages[0]['role'] == 'system' %}
    {%- set ns.system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" + ns.system + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] %}
        {{- raise_exception("Only user and assistant roles are supported, not " + message.role) }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- if message.role == 'assistant' %}{% generation %}{{- message['content'] | trim }}{% endgeneration %}
    {%- else %}{{- message['content'] | trim }}{% endif %}
    {{- '<|eot_id|>' }}
    {%- if message.content == 'stop' %}{% break %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n<tool_call>\\n{\\"name\\": ..., \\"arguments\\": ...}\\n</tool_call><|im_end|>\\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {{- '<|im_start|>' + message.role }}
        {%- for call in message.tool_calls %}
            {%- set call = call.function %}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
TALK = [
    {"role": "user", "content": '  Wie heißt <das> & "jenes"?\n'},
    {"role": "assistant", "content": "狐狸 😀 "},
    {"role": "user", "content": "Ah."},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What's <it> like in 北京?",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Köln", "days": [1, 2.5, None]}},
}
ASKED = [
    TALK[0],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": '{"sky": "grey"}'},
]
SCHEMES = {"letters": small.letters, "marks": small.marks, "metaspace": small.metaspace}


@pytest.fixture(scope="module", params=SCHEMES)
def pair(request, tmp_path_factory):
    """Our tokenizer, and the library's."""
    theirs = SCHEMES[request.param]()
    return Tokenizer(small.folder(tmp_path_factory.mktemp("model"), theirs)), theirs


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    return Tokenizer(small.folder(tmp_path_factory.mktemp("model"), small.letters()))


@settings(deadline=None, max_examples=300)
@given(st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("the fox 狐😀👩‍👧 \n")), max_size=30))
def test_texts_are_encoded_and_decoded_as_the_library_does(pair, text):
    ours, theirs = pair
    tokens = ours.encode(text)
    assert tokens == theirs.encode(text).ids
    assume(small.CALLS not in tokens)
    assert ours.decode(tokens) == theirs.decode(tokens)


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_any_tokens_are_decoded_as_the_library_does(letters, data):
    """Whatever bytes they are: faulty sequences show as the library shows them."""
    theirs = letters._tokenizer
    tokens = data.draw(st.lists(st.integers(0, letters.vocab + 3), max_size=12))
    hidden = [token for token in tokens if token != small.CALLS]
    assert letters.decode(hidden) == theirs.decode(hidden)
    shown = [token for token in tokens if token not in (small.END, small.START, small.CLOSE)]
    assert letters.decode(tokens) == theirs.decode(shown, skip_special_tokens=False)


def test_what_a_token_stands_for(letters):
    half, other = letters.encode("é")[0:1], letters.encode("\N{OLD TURKIC LETTER ORKHON A}")
    assert b"".join(map(letters.token_bytes, other)) == "\N{OLD TURKIC LETTER ORKHON A}".encode()
    assert [letters.token_text(t) for t in other] == ["\\xf0", "\\x90", "\\xb0", "\\x80"]
    assert letters.token_text(half[0]) in ("é", "\\xc3")
    assert letters.token_text(small.END) == "<|end|>"
    assert letters.piece(small.END) == b""
    assert letters.piece(small.CALLS) == b"[TOOL_CALLS]"  # tool calls are read from the text
    assert letters.token_bytes(10**6) == b""


def test_bytes_and_spaces_of_sentence_pieces(tmp_path):
    ours = Tokenizer(small.folder(tmp_path, small.begins_with(small.marks(), "<|im_start|>")))
    tokens = ours.encode("the 😀\n")
    assert tokens[0] == small.START
    assert tokens[1:] == ours.encode("the 😀\n", special=False)
    assert ours.decode(tokens) == "the 😀\n"
    assert b"".join(map(ours.piece, tokens)) == " the 😀\n".encode()
    assert ours.token_bytes(ours.token_id("<0x0A>")) == b"\n"


@pytest.mark.parametrize("template", [CHATML, LLAMA, TOOLS], ids=["chatml", "llama", "tools"])
@pytest.mark.parametrize("more", [{}, {"date_string": "1 Jan 2020", "enable_thinking": False}], ids=str)
@pytest.mark.parametrize("by", ["config", "file", "list"])
def test_conversations_are_written_as_transformers_writes_them(tmp_path, template, more, by):
    config = {"bos_token": {"content": "<|im_start|>", "special": True, "__type": "AddedToken"}}
    if by == "config":
        config["chat_template"] = template
    if by == "list":
        config["chat_template"] = [{"name": "default", "template": template}, {"name": "tool_use", "template": TOOLS}]
    path = small.folder(tmp_path, small.letters(), **config)
    if by == "file":
        (path / "chat_template.jinja").write_text(template)
    ours, theirs = Tokenizer(path), AutoTokenizer.from_pretrained(path)
    for messages, tools in ((TALK, None), (TALK[:1], None), (TALK, [TOOL]), (ASKED, [TOOL, TOOL])):
        if messages is ASKED and template is LLAMA and by != "list":
            continue
        for prompt in (True, False):
            text = ours.chat(messages, tools, add_generation_prompt=prompt, **more)
            assert text == theirs.apply_chat_template(
                messages, tools=tools, add_generation_prompt=prompt, tokenize=False, **more
            )
            ids = theirs.apply_chat_template(
                messages, tools=tools, add_generation_prompt=prompt, return_dict=False, **more
            )
            assert ours.encode(text, special=False) == ids


def test_the_wire_form_of_messages_is_understood(tmp_path):
    ours = Tokenizer(small.folder(tmp_path, small.letters(), chat_template=TOOLS))
    wired = [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {
            "role": "assistant",
            "tool_calls": [{**CALL, "function": {**CALL["function"], "arguments": json.dumps({"a": 1})}}],
        },
        {"role": "assistant", "content": None},
    ]
    plain = [
        {"role": "user", "content": "one\ntwo"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{**CALL, "function": {"name": "weather", "arguments": {"a": 1}}}],
        },
        {"role": "assistant", "content": ""},
    ]
    before = json.dumps(wired)
    assert ours.chat(wired) == ours.chat(plain)
    assert json.dumps(wired) == before


def test_the_date_is_asked_of_the_clock_given(tmp_path):
    path = small.folder(tmp_path, small.letters(), chat_template=LLAMA)
    assert "Today Date: 02 Mar 2031\n" in Tokenizer(path, lambda: datetime(2031, 3, 2)).chat(TALK)


def test_faults_are_the_callers_to_mend(tmp_path):
    ours = Tokenizer(small.folder(tmp_path / "a", small.letters(), chat_template=LLAMA))
    cases = [
        ([{"role": "critic", "content": "x"}], "Only user and assistant roles are supported, not critic"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], r"messages\[0\].content: .*text"),
        ([{"role": "user", "content": 5}], r"messages\[0\].content"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], r"messages\[0\].content"),
        ([{"content": "x"}], "does not take these messages"),
        ([], "does not take these messages"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}],
            r"messages\[0\].tool_calls",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "[1]"}}]}],
            r"messages\[0\].tool_calls",
        ),
        ([{"role": "assistant", "tool_calls": [3]}], r"messages\[0\].tool_calls"),
        ([{"role": "assistant", "tool_calls": 3}], r"messages\[0\].tool_calls"),
    ]
    for messages, words in cases:
        with pytest.raises(InputError, match=words) as error:
            ours.chat(messages)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="surrogate"):
        ours.encode("\ud800")
    with pytest.raises(InputError, match="no chat template"):
        Tokenizer(small.folder(tmp_path / "b", small.letters())).chat(TALK)
    with pytest.raises(InputError, match="WordPiece"):
        Tokenizer(small.folder(tmp_path / "c", small.words()))
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot be read"):
        Tokenizer(tmp_path)
    (tmp_path / "a" / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config\.json: is no JSON"):
        Tokenizer(tmp_path / "a")


def test_templates_cannot_reach_out(tmp_path):
    for i, template in enumerate(
        ("{{ messages.__class__.__mro__ }}", "{{ messages.append(1) }}", "{% for a in range(10**9) %}x{% endfor %}")
    ):
        path = small.folder(tmp_path / str(i), small.letters(), chat_template=template)
        with pytest.raises(InputError, match="does not take these messages"):
            Tokenizer(path).chat(TALK)
