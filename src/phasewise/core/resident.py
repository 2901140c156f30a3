"""A request inside a replica, and the groups in which residents decode.

Both are live books kept by the mechanism (`control.instance`); a batcher reads them and never writes. Neither knows of
time, policies or how long an answer will be.
"""

from __future__ import annotations

from phasewise.core.errors import PlanError
from phasewise.core.request import Request


class Resident:
    """One attempt of one request on one replica, from the queue to its end.

    `known` tokens must be computed before the next one can be emitted: the prompt, and after a preemption or an earlier attempt
    the tokens generated until then as well. One that does not `stay` leaves after its next token. While it decodes in a cohort,
    `computed`, `generated` and `blocks` stand as they were when it joined; the cohort's clock says how far it has come since.
    """

    __slots__ = (
        "blocks",
        "cohort",
        "computed",
        "epoch",
        "generated",
        "grows",
        "id",
        "joined",
        "known",
        "request",
        "stays",
    )

    def __init__(self, request: Request, epoch: int, from_token: int = 0, stays: bool = True) -> None:
        self.request = request
        self.id = request.id
        self.epoch = epoch
        self.known = request.prompt_tokens + from_token
        self.computed = 0
        self.generated = from_token
        self.stays = stays
        self.blocks = 0
        self.grows = True
        self.cohort: Cohort | None = None
        self.joined = 0

    @property
    def remaining(self) -> int:
        """Tokens still to be computed before the next one is emitted."""
        return self.known - self.computed

    @property
    def emitted(self) -> int:
        """Output tokens emitted by now, those of earlier attempts included."""
        return self.generated if self.cohort is None else self.cohort.generated(self)


class Cohort:
    """A named group of decoding residents, with its sums kept incrementally: a step of all of them costs one addition.

    `count` residents have `context` tokens computed together. `clock` counts the decode steps that the cohort has taken.
    Each of its residents computes one token a step and so needs a new block every `block_tokens` steps; `_edges` counts
    them by the phase of the clock at which they do, which makes the blocks needed by the next n steps a closed form.
    """

    __slots__ = ("_edges", "block_tokens", "clock", "context", "count", "growing", "name")

    def __init__(self, name: str, block_tokens: int) -> None:
        self.name = name
        self.block_tokens = block_tokens
        self.count = 0
        self.context = 0
        self.clock = 0
        self.growing = 0
        self._edges = [0] * block_tokens

    def join(self, resident: Resident) -> None:
        """Take in a resident whose known tokens are all computed. One whose blocks reach further already never grows."""
        size = self.block_tokens
        computed = resident.computed
        resident.cohort = self
        resident.joined = self.clock
        resident.grows = resident.blocks == -(-computed // size)
        self.count += 1
        self.context += computed
        if resident.grows:
            self.growing += 1
            self._edges[(self.clock + 1 - computed) % size] += 1

    def leave(self, resident: Resident) -> None:
        """Let a resident go, and settle its books: tokens computed and generated, blocks held."""
        size = self.block_tokens
        steps = self.clock - resident.joined
        computed = resident.computed + steps
        if resident.grows:
            self.growing -= 1
            self._edges[(self.clock + 1 - computed) % size] -= 1
            resident.blocks = -(-computed // size)
        resident.computed = computed
        resident.generated += steps + 1
        resident.cohort = None
        self.count -= 1
        self.context -= computed

    def computed(self, resident: Resident) -> int:
        """Tokens of context that a member has computed by now."""
        return resident.computed + self.clock - resident.joined

    def generated(self, resident: Resident) -> int:
        """Output tokens that a member has emitted by now."""
        return resident.generated + self.clock - resident.joined + 1

    def crossing(self, step: int) -> int:
        """Blocks that the members need for exactly their `step`-th step from now, counted from 1."""
        return self._edges[(self.clock + step) % self.block_tokens]

    def growth(self, steps: int) -> int:
        """Blocks that the members need for their next `steps` steps."""
        size = self.block_tokens
        cycles, rest = divmod(steps, size)
        edges = self._edges
        low = (self.clock + 1) % size
        high = low + rest
        if high <= size:
            return cycles * self.growing + sum(edges[low:high])
        return cycles * self.growing + sum(edges[low:]) + sum(edges[: high - size])

    def crosses(self, resident: Resident) -> bool:
        """Whether the member needs a new block for its next step."""
        return resident.grows and self.computed(resident) % self.block_tokens == 0

    def check(self, members: list[Resident]) -> None:
        """Recount everything from the members; PlanError if a sum has drifted. For tests and debugging."""
        edges = [0] * self.block_tokens
        for resident in members:
            if resident.grows:
                edges[(self.clock + 1 - self.computed(resident)) % self.block_tokens] += 1
        sums = (len(members), sum(self.computed(r) for r in members), sum(r.grows for r in members))
        if sums != (self.count, self.context, self.growing) or edges != self._edges:
            raise PlanError(f"cohort '{self.name}' has drifted from its members")
