"""One length for everybody, such as the mean of yesterday's answers."""

from __future__ import annotations

from typing import Annotated

import msgspec

from phasewise.core.request import Request


class Mean(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every answer is expected to have `tokens` tokens, or its own cap if that is less. Say your own mean."""

    tokens: Annotated[int, msgspec.Meta(ge=1)] = 256

    def predict(self, request: Request) -> int | None:
        return self.tokens if request.max_tokens is None else min(self.tokens, request.max_tokens)
