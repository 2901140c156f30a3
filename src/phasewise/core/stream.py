"""What travels beside the control plane, on the data path: prompts and wishes on the way down, tokens on the way up.

The rooms never see any of it: to them a prompt is a count, and an answer is over when its executor says so.
"""

from __future__ import annotations

import msgspec


class Sampling(msgspec.Struct, frozen=True, array_like=True):
    """How the next token is chosen from the logits.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 keep all tokens, `min_p` those of at least so many times the probability
    of the likeliest. `presence` and `frequency` are subtracted from the logits of tokens that the answer has already (once; for
    each time), `repetition` divides or multiplies those that prompt or answer have. `bias` is added, by token. `logprobs`: how
    many of the likeliest to tell of beside the one chosen (None: tell nothing). Noise hangs on `seed` and on the index of the
    token alone, so that an answer goes on elsewhere as it began; None: on the number of the request in place of the seed.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None


class Work(msgspec.Struct, frozen=True, array_like=True, tag=60):
    """Down: what an attempt of a request is to be computed from; it comes before its `Submit`.

    The last `from_token` ids of `prompt` are output tokens of earlier attempts. `max_tokens` counts the output tokens of all
    attempts. The answer ends before the first of the texts `stop`, after any of the tokens `stop_ids`, and after the model's
    own end unless that is ignored; not before `min_tokens`. `schema`: a JSON schema that it follows.
    """

    request: int
    epoch: int
    prompt: tuple[int, ...]
    max_tokens: int
    from_token: int = 0
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_end: bool = False
    min_tokens: int = 0
    schema: str | None = None


Logprob = tuple[int, float, str]
"""A token, its logarithmic probability, and its text."""


class Emitted(msgspec.Struct, frozen=True, array_like=True, tag=61, gc=False):
    """Up: output token number `index` (from 0) of a request, and the text that can be shown from it on.

    The text of several tokens may come with the last of them: half a character, or what may be the beginning of a stop, is held
    back. `logprobs` has the chosen token first, then the likeliest. `end` is why this is the last one: 'stop', 'length', or
    'fault' where a schema could not be followed to its end.
    """

    request: int
    epoch: int
    index: int
    token: int
    text: str
    logprobs: tuple[Logprob, ...] = ()
    end: str | None = None
