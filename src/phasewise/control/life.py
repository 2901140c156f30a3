"""A request that is not over, as the cluster knows it. Kept by `cluster`."""

from __future__ import annotations

from phasewise.core.message import Adopt, Cancel, Evict, Reserve, Submit
from phasewise.core.request import Request

NOWHERE = -1

Order = Submit | Reserve | Adopt | Cancel | Evict


class Life:
    """The current attempt of a request: where it is served, where it goes, what its client has.

    `home` computes or decodes it, `next` is where it will decode (NOWHERE: not decided, or it stays). `delivered` tokens came
    from earlier attempts and count as prompt now, `emitted` include those that a replica has told of. Once `adopting`, `next`
    owns it unless it declines. `refused` replicas can never serve it; those it `failed` to go to may yet; it is not tried
    again before `not_before_ns`. `stays`: the answer is decoded where the prompt is computed. `predicted` is how long a
    predictor says that the whole answer will be.

    While it is `moving` it is to leave its home, where it decodes. It is asked to once at most at each replica: one that was
    taken back is `kept`, and where it has `been` it does not come again. So no late word of one stay passes for that of
    another.
    """

    __slots__ = (
        "adopting",
        "been",
        "delivered",
        "emitted",
        "epoch",
        "failed",
        "gone",
        "home",
        "kept",
        "moving",
        "next",
        "not_before_ns",
        "predicted",
        "prompt_done",
        "refused",
        "request",
        "reserved",
        "stays",
        "waits",
    )

    def __init__(self, request: Request, predicted: int | None = None) -> None:
        self.request = request
        self.predicted = predicted
        self.epoch = self.delivered = self.emitted = self.not_before_ns = 0
        self.refused: tuple[int, ...] = ()
        self.failed: tuple[int, ...] = ()
        self.been: tuple[int, ...] = ()
        self.moving = self.kept = False
        self.home = self.next = NOWHERE
        self.gone = self.waits = self.prompt_done = self.reserved = self.adopting = False
        self.stays = True

    def clear(self) -> None:
        """Forget where the attempt is: it is nowhere."""
        self.home = self.next = NOWHERE
        self.failed = self.been = ()
        self.moving = self.kept = False
        self.emitted = self.delivered
        self.prompt_done = self.reserved = self.adopting = False
        self.stays = True

    @property
    def owner(self) -> int:
        """The replica that answers for the request."""
        return self.next if self.adopting else self.home

    @property
    def left(self) -> int | None:
        """Output tokens still to come, says the predictor."""
        return None if self.predicted is None else max(0, self.predicted - self.from_token)

    @property
    def from_token(self) -> int:
        """Output tokens whose keys and values move with the prompt's: of those known to be out, all but the last."""
        return max(self.delivered, self.emitted - 1)

    @property
    def barred(self) -> tuple[int, ...]:
        """Replicas that need not be tried now."""
        return self.refused + self.failed + self.been if self.failed or self.been else self.refused

    def submit(self) -> Submit:
        """The order for the attempt's prompt."""
        return Submit(self.home, self.request, self.epoch, self.delivered, self.stays)

    def reserve(self) -> Reserve:
        """The order to the one that will decode it."""
        live = self.moving and not self.prompt_done
        return Reserve(self.next, self.request, self.epoch, self.from_token, self.home, live)

    def adopt(self) -> Adopt:
        """The order that makes it the next one's."""
        return Adopt(self.next, self.request.id, self.epoch, self.emitted if self.moving else 0, self.next == self.home)

    def evict(self) -> Evict:
        """The order to the one that it is to leave."""
        return Evict(self.home, self.request.id, self.epoch, self.moving and self.reserved)

    def unanswered(self) -> list[Order]:
        """The orders that have had no answer yet; for one that is served, the last one of its replica."""
        request = self.request.id
        if self.waits and not self.moving:
            return []
        if self.gone:
            return [Cancel(self.owner, request, self.epoch)]
        if self.adopting:
            return [self.adopt()]
        orders: list[Order] = []
        if not self.prompt_done:
            orders.append(self.evict() if self.moving else self.submit())
        if self.next != NOWHERE and not self.reserved:
            orders.append(self.reserve())
        return orders
