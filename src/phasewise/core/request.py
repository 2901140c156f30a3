"""What a client honestly told us about a request. It does not know how long the answer will be: that is `Truth`."""

from __future__ import annotations

import msgspec


class Request(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request as it arrived.

    `max_tokens` is the client's own cap on output tokens (None: up to the context limit); for a trace request it is the
    workload's cap and never the true length. `kind` is the class that the client says it belongs to ("": none).
    `prefix_ids` name the content of the prompt by blocks of `prefix_tokens` tokens, from its start: requests with the same
    first k ids share the first k blocks of their prompts (the last id may stand for less than a whole block).
    """

    id: int
    arrival_ns: int
    prompt_tokens: int
    max_tokens: int | None = None
    kind: str = ""
    prefix_ids: tuple[int, ...] = ()
    prefix_tokens: int = 0
