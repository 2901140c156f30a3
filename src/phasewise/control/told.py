"""What a replica has said last of requests that it holds no more, so that it can say it again. Kept where messages get lost."""

from __future__ import annotations

from collections import OrderedDict

from phasewise.core.action import Action
from phasewise.core.message import Cancelled, Declined, Finished, Refused, Released

Word = Finished | Cancelled | Refused | Declined | Released
MOST = 4096


class Told:
    """The last word on each of the latest requests."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words: OrderedDict[int, Word] = OrderedDict()

    def keep(self, actions: list[Action]) -> list[Action]:
        """Remember the last words among some actions; the actions."""
        for action in actions:
            if isinstance(action, Word):
                self._words[action.request] = action
                self._words.move_to_end(action.request)
                if len(self._words) > MOST:
                    self._words.popitem(last=False)
        return actions

    def again(self, request: int, epoch: int) -> list[Action] | None:
        """The last word on an attempt; nothing to say of one that a later attempt has followed; None: never heard of it."""
        word = self._words.get(request)
        if word is None or word.epoch < epoch:
            return None
        return [word] if word.epoch == epoch else []
