"""The oracle: it reads the true lengths, which nobody can know. What a run with it shows is a bound, or a published assumption.

Splitwise's released simulator places answers by their true lengths; DistServe's and others' papers compare with such a bound.
Only a simulator has a `Truth` to show; every result says that an oracle was used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from phasewise.core.request import Request

if TYPE_CHECKING:
    # A replay has no workload, and needs none: predictions are in its events.
    from phasewise.workload.truth import Truth


class Oracle:
    """The true length of every answer. Useless until it is `shown` the truth."""

    __slots__ = ("_truth",)

    def __init__(self, truth: Truth | None = None) -> None:
        self._truth = truth

    def shown(self, truth: Truth) -> Oracle:
        """One that knows these lengths."""
        return Oracle(truth)

    def predict(self, request: Request) -> int | None:
        assert self._truth is not None, "an oracle that has not been shown the truth"
        return self._truth.output_tokens(request.id)
