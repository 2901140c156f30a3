"""The OpenAPI description, made from the types that bodies are decoded into and answers are encoded from."""

from __future__ import annotations

from typing import Any

import msgspec

from phasewise.core.version import VERSION
from phasewise.live import answers
from phasewise.live.bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from phasewise.live.errors import ErrorBody

_TYPES: tuple[type, ...] = (
    *(ChatBody, CompletionBody, TokenizeBody, DetokenizeBody),
    *(answers.ChatCompletion, answers.Completion, answers.Models, answers.Tokens, answers.Detokenized, answers.State),
    ErrorBody,
)
_FAULTS = {
    400: "What was asked for is wrong or cannot be done",
    401: "No API key, or a wrong one",
    404: "Unknown model",
    408: "The body did not come in time",
    413: "The body is too large",
    415: "The body is compressed",
    429: "Too many requests with this key",
    503: "Not ready, too busy, or the answer broke off",
}
_TARGET = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e9}

_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}


def description(model: str, locked: bool) -> dict[str, Any]:
    """Of a gateway that serves `model`, and asks for a key if `locked`."""
    _, components = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    for schema in components.values():
        if "model" in schema.get("properties", {}) and "model" not in schema.get("required", ()):
            schema["properties"]["model"] = {"enum": [model, None], "default": None}
    paths: dict[str, Any] = {
        "/v1/chat/completions": {
            "post": _post("Answer a conversation", ChatBody, answers.ChatCompletion, answers=True)
        },
        "/v1/completions": {"post": _post("Go on from a text", CompletionBody, answers.Completion, answers=True)},
        "/v1/models": {"get": _get("What is served here", answers.Models, 401)},
        "/tokenize": {"post": _post("Token ids of a prompt", TokenizeBody, answers.Tokens)},
        "/detokenize": {"post": _post("The text of token ids", DetokenizeBody, answers.Detokenized)},
        "/health": {"get": _get("Whether the server lives", answers.State)},
        "/ready": {"get": _get("Whether the model answers now", answers.State)},
        "/metrics": {"get": _page("Meters, for Prometheus")},
    }
    paths["/ready"]["get"]["responses"]["503"] = paths["/ready"]["get"]["responses"]["200"]
    if locked:
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/detokenize"):
            for operation in paths[path].values():
                operation["security"] = [{"key": []}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Phasewise", "version": VERSION, "description": "An OpenAI-compatible server."},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _json(kind: type) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}


def _faults(*statuses: int) -> dict[str, Any]:
    return {str(s): {"description": _FAULTS[s], "content": _json(ErrorBody)} for s in statuses}


def _get(summary: str, answer: type, *faults: int) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": "So it is", "content": _json(answer)}, **_faults(*faults)},
    }


def _page(summary: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": "So it is", "content": {"text/plain": {"schema": {"type": "string"}}}}},
    }


def _post(summary: str, body: type, answer: type, answers: bool = False) -> dict[str, Any]:
    content = _json(answer)
    operation: dict[str, Any] = {
        "summary": summary,
        "requestBody": {"required": True, "content": _json(body)},
        "responses": {
            "200": {"description": "The answer", "content": content},
            **_faults(400, 401, 404, 408, 413, 415),
        },
    }
    if answers:
        content["text/event-stream"] = {"schema": _EVENT}
        operation["responses"] |= _faults(429, 503)
        operation["parameters"] = [
            {"name": name, "in": "header", "required": False, "schema": _TARGET, "description": text}
            for name, text in (
                ("x-slo-ttft-ms", "Milliseconds within which the first token is wanted"),
                ("x-slo-tpot-ms", "Milliseconds between tokens that are wanted at most"),
            )
        ]
    return operation
