"""From a body to what is asked of the service: prompts made of texts and messages, lengths checked, wishes translated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from phasewise.core.errors import InputError
from phasewise.core.stream import Sampling
from phasewise.live.bodies import (
    Call,
    ChatBody,
    CompletionBody,
    JsonFormat,
    Message,
    SchemaFormat,
    TokenizeBody,
    Tool,
    Wishes,
)
from phasewise.live.errors import Fault
from phasewise.live.forced import named_schema, required_schema
from phasewise.live.limits import Limits
from phasewise.live.service import Service, Wanted

LONG_CHARS = 8192  # a prompt of more characters is encoded in a thread, so that nobody's stream waits for it


class Asker:
    """Makes the prompts and wishes of one service's clients."""

    def __init__(self, service: Service, limits: Limits) -> None:
        self._service = service
        self._limits = limits

    def known(self, model: str | None) -> None:
        if model is not None and model != self._service.model:
            message = f"there is no model '{model[:100]}' here; this server has '{self._service.model}'"
            raise Fault(404, message, "model", "model_not_found")

    async def chat(self, body: ChatBody, targets: dict[str, float]) -> list[Wanted]:
        """The answers asked for by a conversation."""
        prompt = await self.conversation(body)
        wishes = self._wishes(body, targets)
        if body.logprobs or body.top_logprobs:
            wishes["logprobs"] = body.top_logprobs or 0
        tools = [] if body.tool_choice == "none" else body.tools or []
        if body.tool_choice not in (None, "none", "auto"):
            if wishes["schema"]:
                raise Fault(
                    400, "response_format cannot be had together with a tool that must be called", "response_format"
                )
            wishes["schema"] = _forced(body, tools)
        return self._wanted([prompt], body, body.max_completion_tokens or body.max_tokens, wishes)

    async def completions(self, body: CompletionBody, targets: dict[str, float]) -> list[Wanted]:
        """The answers asked for by prompts, those to the first prompt first."""
        if body.echo and body.logprobs is not None and body.max_tokens != 0:
            raise Fault(
                400,
                "logprobs of the prompt are not told; leave out 'echo' or 'logprobs'",
                "logprobs",
                "unsupported_parameter",
            )
        special = body.add_special_tokens is not False
        prompts = [p if isinstance(p, list) else await self._encode(p, special, "prompt") for p in split(body.prompt)]
        if len(prompts) * (body.n or 1) > self._limits.choices:
            raise Fault(
                400,
                f"{len(prompts)} prompts with n={body.n or 1} are more than {self._limits.choices} answers",
                "prompt",
            )
        wishes = self._wishes(body, targets)
        wishes["logprobs"] = body.logprobs
        return self._wanted(prompts, body, body.max_tokens, wishes)

    async def conversation(self, body: ChatBody | TokenizeBody) -> list[int]:
        """The ids of a conversation, written out by the model's template."""
        if not body.messages:
            raise Fault(400, "either 'prompt' or 'messages' is needed", "messages")
        goes_on = bool(body.continue_final_message)
        if goes_on and body.add_generation_prompt:
            raise Fault(
                400, "'continue_final_message' and 'add_generation_prompt' exclude each other", "continue_final_message"
            )
        if goes_on and body.messages[-1].role != "assistant":
            raise Fault(400, "'continue_final_message' needs a last message of the assistant", "continue_final_message")
        messages = [plain(message, f"messages[{k}]") for k, message in enumerate(body.messages)]
        tools = None if isinstance(body, ChatBody) and body.tool_choice == "none" else body.tools
        more = dict(body.chat_template_kwargs or {})
        if reserved := sorted({"messages", "tools", "conversation", "tokenize", "self"} & more.keys()):
            raise Fault(400, f"the template's variable '{reserved[0]}' is not free", "chat_template_kwargs")
        more["add_generation_prompt"] = body.add_generation_prompt is not False and not goes_on
        text = self._template(messages, [msgspec.to_builtins(tool) for tool in tools] if tools else None, more)
        if goes_on:
            text = cut(text, messages[-1]["content"])
        return await self._encode(text, False, "messages")

    async def tokens(self, body: TokenizeBody) -> list[int]:
        """The ids that /tokenize tells of."""
        if body.prompt is None:
            return await self.conversation(body)
        if body.messages is not None:
            raise Fault(400, "'prompt' and 'messages' exclude each other", "messages")
        return await self._encode(body.prompt, body.add_special_tokens is not False, "prompt")

    def _template(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, more: dict[str, Any]
    ) -> str:
        try:
            return self._service.text.chat(messages, tools, **more)
        except InputError as error:
            raise Fault(400, f"the model's template refuses the conversation: {error}", "messages") from error

    async def _encode(self, text: str, special: bool, param: str) -> list[int]:
        most = self._service.max_context * self._limits.prompt_chars
        if len(text) > most:
            message = (
                f"a prompt of {len(text)} characters cannot fit in the context of {self._service.max_context} tokens"
            )
            raise Fault(400, message, param, "context_length_exceeded")
        encode: Callable[[str, bool], list[int]] = self._service.text.encode
        try:
            return await asyncio.to_thread(encode, text, special) if len(text) > LONG_CHARS else encode(text, special)
        except InputError as error:
            raise Fault(400, f"the prompt cannot be encoded: {error}", param) from error

    def _wishes(self, body: Wishes, targets: dict[str, float]) -> dict[str, Any]:
        """What of a body applies to each of its answers: fields of `Wanted`, and `logprobs`."""
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        return {
            "stop": tuple(stop),
            "stop_ids": tuple(body.stop_token_ids or ()),
            "ignore_end": bool(body.ignore_eos),
            "min_tokens": body.min_tokens or 0,
            "schema": _schema(body),
            "priority": body.priority or 0,
            "kind": body.kind or "",
            "logprobs": None,
            **targets,
        }

    def _wanted(
        self, prompts: Sequence[list[int]], body: Wishes, cap: int | None, wishes: dict[str, Any]
    ) -> list[Wanted]:
        """`n` answers to each prompt, which differ by their seeds."""
        logprobs, least = wishes.pop("logprobs"), wishes["min_tokens"]
        if cap is not None and least > cap:
            raise Fault(400, f"min_tokens {least} is more than max_tokens {cap}", "min_tokens")
        out = []
        for prompt in prompts:
            room = self._room(prompt, least)
            for k in range(body.n or 1):
                sampling = _sampling(body, logprobs, k, self._service.text.vocab)
                out.append(Wanted(tuple(prompt), room if cap is None else min(cap, room), sampling, **wishes))
        return out

    def _room(self, prompt: list[int], least: int) -> int:
        """Tokens of an answer that the context has left for it."""
        context, vocabulary = self._service.max_context, self._service.text.vocab
        if not prompt:
            raise Fault(400, "the prompt is empty: it has no token to go on from", "prompt")
        if (greatest := max(prompt)) >= vocabulary:
            raise Fault(400, f"token {greatest} is not one of the model's {vocabulary}", "prompt")
        room = context - len(prompt)
        if room < max(1, least):
            what = f"the prompt has {len(prompt)} tokens" + (f" and the answer at least {least}" if room > 0 else "")
            raise Fault(
                400, f"{what}, but the model's context is {context} tokens", "messages", "context_length_exceeded"
            )
        return room


def split(prompt: str | list[Any]) -> list[Any]:
    """The prompts of a body, each a text or a list of ids."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise Fault(400, "'prompt' is an empty list", "prompt")
    if all(isinstance(p, int) for p in prompt):
        return [prompt]
    if any(isinstance(p, int) for p in prompt):
        raise Fault(
            400, "'prompt' mixes token ids with prompts: send one list of ids, or a list of lists and texts", "prompt"
        )
    return prompt


def cut(text: str, last: str) -> str:
    """What a template wrote, up to the end of the last message (some templates strip what they are given)."""
    for content in (last, last.strip()):
        if content and (at := text.rfind(content)) >= 0:
            return text[: at + len(content)]
    raise Fault(
        400, "the last message is empty, or the template leaves it out: there is nothing to go on with", "messages"
    )


def plain(message: Message, where: str) -> dict[str, Any]:
    """A message as templates know it: its content one text, the arguments of its calls objects."""
    content = message.content
    if isinstance(content, list):
        content = "\n".join(part.text or part.refusal or "" for part in content)
    if content is None and not message.tool_calls:
        raise Fault(400, f"{where} has no content", f"{where}.content")
    out: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": content or ""}
    if message.name is not None:
        out["name"] = message.name
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        out["tool_calls"] = [_call(call, where) for call in message.tool_calls]
    return out


def _call(call: Call, where: str) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
        return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}
    except (msgspec.DecodeError, RecursionError) as error:
        raise Fault(400, f"the arguments of a call in {where} are not a JSON object", f"{where}.tool_calls") from error


def _schema(body: Wishes) -> str | None:
    """The JSON schema that the answer has to follow."""
    match body.response_format:
        case JsonFormat():
            return '{"type":"object"}'
        case SchemaFormat(json_schema=named):
            return msgspec.json.encode(named.schema or {}).decode()
    return None


def _forced(body: ChatBody, tools: Sequence[Tool]) -> str:
    """The schema of an answer that has to be a call."""
    if not tools:
        raise Fault(400, "'tool_choice' asks for a call, but there are no 'tools'", "tool_choice")
    if body.tool_choice == "required":
        return required_schema(tools, several=body.parallel_tool_calls is not False)
    name = body.tool_choice.function.name  # type: ignore[union-attr]
    chosen = next((tool for tool in tools if tool.function.name == name), None)
    if chosen is None:
        raise Fault(400, f"'tool_choice' names '{name[:64]}', which is not among the 'tools'", "tool_choice")
    return named_schema(chosen)


def _sampling(body: Wishes, logprobs: int | None, choice: int, vocabulary: int) -> Sampling:
    bias = {int(token): value for token, value in (body.logit_bias or {}).items()}
    if bias and max(bias) >= vocabulary:
        raise Fault(400, f"logit_bias names token {max(bias)}, but the model has {vocabulary}", "logit_bias")
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(0, body.top_k or 0),
        min_p=body.min_p or 0.0,
        seed=None if body.seed is None else (body.seed + choice + 2**63) % 2**64 - 2**63,
        presence=body.presence_penalty or 0.0,
        frequency=body.frequency_penalty or 0.0,
        repetition=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        bias=tuple(sorted(bias.items())),
        logprobs=logprobs,
    )
