"""Text to tokens and back, and a conversation as the prompt that a model was trained on, from a Hugging Face folder.

What a token stands for is worked out here as bytes, by the two schemes that models of the Llama family have: bytes written
as letters (GPT-2's; Llama 3, Qwen, SmolLM2), or pieces with ▁ for a space and <0x0A> for a byte (SentencePiece's; Llama 2,
Mistral). So a text can be put together token by token, for ever at the same cost, and whole decoding is the same function.
Where the bytes of a text are no UTF-8, each faulty sequence shows as one U+FFFD. Chat templates run in jinja2's sandbox with
what transformers gives them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from phasewise.core.errors import InputError
from phasewise.engine.tools import MARKERS

Message = Mapping[str, Any]
"""A message of OpenAI's chat API: `role`, `content`, perhaps `tool_calls`."""

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_PRINTED = [
    *range(33, 127),
    *range(161, 173),
    *range(174, 256),
]  # bytes that GPT-2 writes as the letter of their number
_LETTERS = {chr(b): b for b in _PRINTED} | {
    chr(256 + i): b for i, b in enumerate(sorted(set(range(256)) - set(_PRINTED)))
}


class Tokenizer:
    """The tokenizer of a model's `folder`: tokenizer.json, tokenizer_config.json, and chat_template.jinja if there.

    `now` tells the local time to templates that write the date.
    """

    def __init__(self, folder: Path, now: Callable[[], datetime] = datetime.now) -> None:
        self.folder = folder
        config = _read(folder / "tokenizer_config.json")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            raise InputError(f"cannot be read: {_line(error)}", str(folder / "tokenizer.json")) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._piece, self._strips = _scheme(self._tokenizer, str(folder / "tokenizer.json"))
        self._pieces: dict[int, bytes] = {}
        special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        self.hidden = frozenset(i for i in special if self._tokenizer.id_to_token(i) not in MARKERS)
        self.named = _named(_read(folder / "special_tokens_map.json")) | _named(config)
        self._environment = _environment(now)
        self.templates = _templates(folder, config)
        self._compiled: dict[str, jinja2.Template] = {}

    @property
    def vocab(self) -> int:
        """Token ids are below this; a model's logits may be longer."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The tokens of a text; `special`: with those that the model wants before or after it. A chat's text has them."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError("the text has half of a surrogate pair, which is no character") from None
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    def token_id(self, text: str) -> int | None:
        return self._tokenizer.token_to_id(text)

    def piece(self, token: int) -> bytes:
        """What a token adds to a text: nothing, if it is one of those that only the model is to see."""
        return b"" if token in self.hidden else self.token_bytes(token)

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for, shown or not. Ids that the vocabulary lacks stand for nothing."""
        if (piece := self._pieces.get(token)) is None:
            text = self._tokenizer.id_to_token(token)
            self._pieces[token] = piece = b"" if text is None else self._piece(text)
        return piece

    def token_text(self, token: int) -> str:
        """A token as logprobs show it: bytes that are no characters by themselves are written \\xf0, as OpenAI does."""
        return self.token_bytes(token).decode("utf-8", "backslashreplace")

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens that begin a text, without those that only the model is to see."""
        text = b"".join(map(self.piece, tokens)).decode("utf-8", "replace")
        return text.removeprefix(" ") if self._strips else text

    def template(self, tools: bool = False) -> str | None:
        """The chat template; a model may have another one for conversations with tools."""
        return (self.templates.get("tool_use") if tools else None) or self.templates.get("default")

    def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **more: Any,
    ) -> str:
        """The prompt for the next message of a conversation, by the model's template; `more` is passed on to that.

        Content in parts becomes one text; the arguments of earlier tool calls, JSON on the wire, are what they say.
        """
        source = self.template(bool(tools))
        if source is None:
            raise InputError("the model has no chat template; it completes texts only")
        given = {
            "tools": list(tools) if tools else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        plain = [_plain(message, f"messages[{i}]") for i, message in enumerate(messages)]
        try:
            if source not in self._compiled:
                self._compiled[source] = self._environment.from_string(source)
            return self._compiled[source].render({**self.named, **given, **more, "messages": plain})
        except Exception as error:  # templates raise what they like, and fail as Python does at what they do not expect
            raise InputError(f"the model's chat template does not take these messages: {_line(error)}") from None


def _scheme(tokenizer: tokenizers.Tokenizer, where: str) -> tuple[Callable[[str], bytes], bool]:
    """How a token is written, and whether a whole text loses the space that it begins with."""
    decoder: Any = tokenizer.decoder
    state: Any = json.loads(decoder.__getstate__()) if decoder is not None else {"type": "none"}
    parts = state["decoders"] if state["type"] == "Sequence" else [state]
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"]:
        return _by_letters, False
    if "Metaspace" in kinds or {"type": "Replace", "pattern": {"String": "▁"}, "content": " "} in parts:
        strips = any(
            (part["type"] == "Strip" and part["start"] == 1)
            or (part["type"] == "Metaspace" and part.get("prepend_scheme") != "never")
            for part in parts
        )
        return (_by_marks if "ByteFallback" in kinds else lambda text: text.replace("▁", " ").encode()), strips
    raise InputError(f"tokens are written in a way that is not known here ({', '.join(kinds)})", where)


def _by_letters(text: str) -> bytes:
    try:
        return bytes(map(_LETTERS.__getitem__, text))
    except KeyError:
        return text.encode()


def _by_marks(text: str) -> bytes:
    if found := _BYTE.fullmatch(text):
        return bytes([int(found[1], 16)])
    return text.replace("▁", " ").encode()


def _plain(message: Message, where: str) -> dict[str, Any]:
    """A message as templates of text models expect it."""
    plain: dict[str, Any] = {**message, "content": _text(message.get("content"), where)}
    if calls := message.get("tool_calls"):
        try:
            plain["tool_calls"] = [{**c, "function": {**c["function"], "arguments": _arguments(c)}} for c in calls]
        except (TypeError, KeyError, ValueError):
            raise InputError(
                "each needs a function with a name, and arguments that are a JSON object", f"{where}.tool_calls"
            ) from None
    return plain


def _text(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    try:
        texts = [part["text"] for part in content if part["type"] in ("text", "input_text")]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "\n".join(texts)
    except (TypeError, KeyError):
        pass
    raise InputError("this model reads text, or parts of type 'text', only", f"{where}.content")


def _arguments(call: Mapping[str, Any]) -> Mapping[str, Any]:
    arguments: Any = call["function"].get("arguments") or {}
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, Mapping):
        raise ValueError
    return arguments


class _Generation(Extension):
    """`{% generation %}` marks what an assistant says, for training; here it says just that."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: now().strftime(form)}
    return environment


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name, `default` the usual one; the file beside the configuration goes before what that has."""
    said: Any = config.get("chat_template") or {}
    found: dict[str, str] = {"default": said} if isinstance(said, str) else {e["name"]: e["template"] for e in said}
    file = folder / "chat_template.jinja"
    return found | ({"default": file.read_text(encoding="utf-8")} if file.exists() else {})


def _named(config: Mapping[str, Any]) -> dict[str, str]:
    """The tokens that templates call by name (`bos_token`, `eos_token`)."""
    texts = {key: v.get("content") if isinstance(v, dict) else v for key, v in config.items() if key.endswith("_token")}
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"is no JSON: {_line(error)}", str(path)) from None
    if not isinstance(found, dict):
        raise InputError("is no JSON object", str(path))
    return found


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
