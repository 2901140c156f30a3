"""No predictions: nobody knows how long an answer will be."""

from __future__ import annotations

from phasewise.core.request import Request


class NoPrediction:
    """Says nothing of any request."""

    __slots__ = ()

    def predict(self, request: Request) -> int | None:
        return None
