"""What the HTTP gateway asks of whoever stands behind it: a model's text, and a service that answers requests for tokens.

Protocols and the nouns that pass through them; no behaviour. Everything happens on one event loop (but for the making of long
prompts), and nothing waits but what is `async`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from phasewise.core.action import Outcome
from phasewise.core.stream import Emitted, Sampling


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """One answer that a client asked for, checked: the prompt is within the context and every number in its range.

    `max_tokens` is what the client or the context allows. The rest is as in `core.stream.Work`. `ttft_s` and `tpot_s` are the
    client's own targets (None: it told none). A greater `priority` is served first where a policy looks at it. `kind` is the
    class that the client says the request belongs to.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_end: bool = False
    min_tokens: int = 0
    schema: str | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    priority: int = 0
    kind: str = ""


class Load(msgspec.Struct, frozen=True, gc=False):
    """How busy the service is now: requests that wait, requests that run, and the share of the blocks held (0 to 1)."""

    waiting: int = 0
    running: int = 0
    kv_usage: float = 0.0


class Stream(Protocol):
    """One answer as it comes. Each index comes once, in order, whatever became of the attempts behind it.

    When it is over, `outcome` says how. FINISHED: the last token had an `end`. REJECTED: no replica can ever serve it, and
    `reason` says why in words for the client (a schema that cannot be followed, blocks that do not suffice). FAILED: it broke,
    after what came already, for `reason`. CANCELLED: somebody called `cancel`. The times (seconds) are of the phases that it
    went through: None for one that it never reached.
    """

    @property
    def request(self) -> int:
        """The number under which the run log knows it."""

    @property
    def outcome(self) -> Outcome: ...
    @property
    def reason(self) -> str: ...
    @property
    def queue_s(self) -> float | None: ...
    @property
    def prefill_s(self) -> float | None: ...
    @property
    def decode_s(self) -> float | None: ...

    async def more(self) -> Sequence[Emitted]:
        """All tokens that came since the last call, waiting for one if there is none; empty once the answer is over.

        `outcome` and the times are set when it has returned empty, and from the batch with an `end` on. One caller at a time;
        a caller that is cancelled while it waits loses no token.
        """

    def cancel(self) -> None:
        """The client left: free what the answer holds. May be called again and after the end; wakes whoever waits."""


class Text(Protocol):
    """The model's tokenizer and template. The prompt of one request may be made in a thread beside the event loop."""

    @property
    def vocab(self) -> int:
        """How many token ids there are: 0 to this, exclusive."""

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of `text`; with `special`, those that the model wants around a prompt (its beginning) are added.

        Never for what `chat` returned, where they are written out.
        """

    def decode(self, ids: Sequence[int], /) -> str: ...

    def token_bytes(self, id: int, /) -> bytes:
        """The bytes that a token stands for, which need not be whole characters."""

    def chat(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, **kwargs: Any) -> str:
        """The prompt for a conversation, `kwargs` being variables of the template (`add_generation_prompt`, by default true).

        Raises InputError where the template refuses the conversation.
        """


class Service(Protocol):
    """The control plane behind a gateway."""

    @property
    def model(self) -> str:
        """The name that clients ask for."""

    @property
    def max_context(self) -> int:
        """Tokens of prompt and answer together."""

    @property
    def text(self) -> Text: ...

    @property
    def ready(self) -> bool:
        """Whether requests are served now: false while it starts, and while no replica is up."""

    @property
    def draining(self) -> bool:
        """Whether it takes no new requests, and only finishes those it has."""

    def submit(self, wanted: Wanted) -> Stream:
        """Start a request. Raises InputError for what can be told to be wrong at once."""

    def load(self) -> Load: ...

    async def drain(self, within_s: float) -> None:
        """Take no more, return when all is finished or the time is over; what is left then is cancelled.

        May be called again, with less time, after a first call was cancelled.
        """


class Called(Protocol):
    """A call of a tool, or a piece of one: pieces have the same `number` (from 0), and only the first has the `name`.

    The `arguments` of all pieces together are a JSON text.
    """

    @property
    def number(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> str: ...


class Reading(Protocol):
    """One answer, read for calls of tools while it comes."""

    def feed(self, text: str) -> Sequence[str | Called]:
        """What is certain after this much more of the answer: texts and calls in their order."""

    def finish(self) -> Sequence[str | Called]:
        """What was held back, now that the answer is over: a call that was never finished is text."""


Tools = Callable[[Sequence[str]], Reading]
"""How the model writes calls: makes a reader for one answer to a request that offered tools of these names."""
