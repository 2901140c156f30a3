"""Errors as OpenAI's clients expect them: a status, and a JSON object that says what is wrong and what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import msgspec

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_AT = re.compile(r" - at (`key` in )?`\$\.?(.*?)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$")


class Error(msgspec.Struct, frozen=True):
    """What is wrong. `param` is the field of the request that it lies in, `code` a word for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer whose status is 400 or more, and of the event that ends a stream which broke."""

    error: Error


class Fault(Exception):
    """A request that gets an error for an answer. `retry_s`: after how many seconds it may be tried again."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry_s: float | None = None
    ) -> None:
        super().__init__(message)
        kind = _KINDS.get(status) or ("invalid_request_error" if status < 500 else "server_error")
        self.status = status
        self.retry_s = retry_s
        self.body = ErrorBody(Error(message, kind, param, code))

    def encoded(self) -> bytes:
        return msgspec.json.encode(self.body)


def too_deep() -> Fault:
    return Fault(400, "the body is nested too deeply", code="invalid_json")


def malformed(error: Exception, known: Iterable[str]) -> Fault:
    """The fault for a body that could not be decoded; `known` are the fields that it may have."""
    if isinstance(error, UnicodeDecodeError):
        return Fault(400, f"the body is not valid UTF-8 (byte {error.start} of a text)", code="invalid_utf8")
    if isinstance(error, RecursionError):
        return too_deep()
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        what = (
            "it ends too early, or has half a surrogate pair"
            if "truncated" in text
            else text.removeprefix("JSON is malformed: ")
        )
        return Fault(400, f"the body is not valid JSON: {what}", code="invalid_json")
    at = _AT.search(text)
    param = (at[2] or None) if at else None
    what = text[: at.start()] if at else text
    if field := _UNKNOWN.match(what):
        name = field[1]
        close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7) if param is None else []
        hint = f"; did you mean '{close[0]}'?" if close else ""
        where = f" in '{param}'" if param else ""
        return Fault(
            400, f"'{name}' is not a parameter that this server supports{where}{hint}", name, "unsupported_parameter"
        )
    if what.startswith("Expected `null`"):
        return Fault(400, f"'{param}' is not supported by this server; leave it out", param, "unsupported_parameter")
    if what.startswith("Object missing required field"):
        param = what.split("`")[1] if param is None else f"{param}.{what.split('`')[1]}"
    return Fault(400, f"{param}: {what}" if param else what, param, "invalid_value")
