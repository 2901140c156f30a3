"""The fleet as a router sees it: columns indexed by replica, so that a choice among a thousand is one vector operation.

What the replicas report is old by the time it is read: `at_ns` says how old, and what can be known of the time since is
worked in when it is read: orders that had not arrived, and progress, by the replica's own model of its step times. So of
several requests within one report's time each sees those before it. The cluster room writes it; a router reads, and never
writes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from phasewise.core.message import Report
from phasewise.core.spec import MIXED

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_PROMPT = True
_GUEST = False
_NEVER = float(1 << 62)  # when the step in progress ends where none is
_ROUNDED_NS = 0.499  # step ends are rounded to whole nanoseconds: one is over from so much before it on


class Booked:
    """What a router has sent to each replica and is not over: columns by replica, in tokens and requests, exact and never old.

    `pending`: prompt tokens that are not computed yet, and one for each answer. `memory`: tokens of KV of the prompts (with the
    first token) and of the predicted answers; `holds` is what fits. `prompts` are those not computed yet, `answers` those that
    are decoded here or will be. The bookkeeping of Splitwise's published simulator (ISCA'24).
    """

    def __init__(self, holds: Sequence[int]) -> None:
        n = len(holds)
        self.holds: Ints = np.array(holds, np.int64)
        self.pending: Ints = np.zeros(n, np.int64)
        self.memory: Ints = np.zeros(n, np.int64)
        self.prompts: Ints = np.zeros(n, np.int64)
        self.answers: Ints = np.zeros(n, np.int64)


class ClusterView:
    """Roles and states of all replicas, and what they last reported.

    `roles` by replica; `open` are those that may be given work, `whole` those of them that serve both phases; `barred` those
    that cannot serve the request at hand. `blocks` is each one's KV memory. `decodes`, `context`, `free` and `waiting` are as
    reported (`Report`), `at_ns` is when (-1: never). What is asked for at an instant comes as whole numbers in floats, which
    mix with times at no cost. `predicted` are the output tokens that a predictor says the request at hand will have from now on
    (None: it says nothing). `booked` is kept for a router that `books`.
    """

    def __init__(self, roles: Sequence[str], blocks: Sequence[int], block_tokens: int = 1) -> None:
        n = len(roles)
        self.roles = list(roles)
        self.open = [True] * n
        self.barred: tuple[int, ...] = ()
        self.predicted: int | None = None
        self.booked = Booked([block_tokens * count for count in blocks])
        self.blocks: Ints = np.array(blocks, np.int64)
        self.at_ns: Ints = np.full(n, -1, np.int64)
        self.waiting: Ints = np.zeros(n, np.int64)
        self.decodes: Ints = np.zeros(n, np.int64)
        self.context: Ints = np.zeros(n, np.int64)
        self.free: Ints = self.blocks.copy()
        self._queued: Floats = np.zeros(n)
        self._begun: Floats = np.zeros(n)
        self._chunk: Floats = np.zeros(n)
        self._moving: Floats = np.zeros(n)
        # When the step in progress ends, and a step before that.
        self._next_ns: Floats = np.full(n, _NEVER)
        self._since_ns: Floats = np.full(n, _NEVER)
        self._step_ns: Floats = np.ones(n)
        self._slope_ns: Floats = np.zeros(n)
        # Orders that a replica had not taken when it last reported, in order: request -> tokens, whether they are a prompt.
        self._orders: list[dict[int, tuple[int, bool]]] = [{} for _ in roles]
        # Prompts among these, and their tokens; tokens of the guests among these and those reported; what `load` adds.
        self._sent: Floats = np.zeros(n)
        self._sent_tokens: Floats = np.zeros(n)
        self._guest_tokens: Floats = np.zeros(n)
        self._beside: Floats = np.zeros(n)
        self.whole: list[bool]
        self._able: dict[str, list[int]] = {}
        self._index: dict[str, Ints] = {}
        self._pools: dict[str, Ints] = {}
        self._changed()

    def able(self, phase: str) -> list[int]:
        """The open replicas that serve a phase (`prefill`, `decode`; `mixed`: both), but for the barred; in order."""
        found = self._able.get(phase)
        if found is None:
            roles = (MIXED,) if phase == MIXED else (phase, MIXED)
            found = [i for i, role in enumerate(self.roles) if self.open[i] and role in roles]
            self._able[phase] = found
        return [i for i in found if i not in self.barred] if self.barred else found

    def index(self, phase: str) -> Ints:
        """`able` as an array."""
        if self.barred:
            return np.array(self.able(phase), np.int64)
        found = self._index.get(phase)
        if found is None:
            found = self._index[phase] = np.array(self.able(phase), np.int64)
        return found

    def least(self, values: Floats, phase: str) -> int | None:
        """The able replica with the smallest of `values` (one for each replica), the first of equals; None: nobody is able."""
        index = self.index(phase)
        if len(index) == len(values):
            return int(values.argmin())
        return int(index[values[index].argmin()]) if len(index) else None

    def pool(self, role: str) -> Ints:
        """The open replicas of just this role, but for the barred; in order."""
        found = self._pools.get(role)
        if found is None:
            own = [i for i, mine in enumerate(self.roles) if self.open[i] and mine == role]
            found = self._pools[role] = np.array(own, np.int64)
        return found[~np.isin(found, self.barred)] if self.barred else found

    def pending(self, now_ns: int) -> Floats:
        """Prompt tokens that each replica has still to compute, those on their way to it included."""
        left = self._left(now_ns)
        left += self._sent_tokens
        return left

    def load(self, now_ns: int) -> Floats:
        """Pending tokens as Splitwise's published simulator counts them: `pending`, and one for each answer not finished.

        Answers are those that decode and those whose keys and values are coming.
        """
        left = self._left(now_ns)
        left += self._beside
        return left

    def loads(self, replicas: Sequence[int], now_ns: int) -> list[float]:
        """`load` of a few replicas, at a few operations for each."""
        found = []
        for i in replicas:
            steps = (now_ns - self._since_ns.item(i)) // self._step_ns.item(i)
            left = self._queued.item(i) - max(steps, 0.0) * self._chunk.item(i)
            found.append(max(left, 0.0) + self._beside.item(i))
        return found

    def prompts(self, now_ns: int) -> Floats:
        """Prompts that each replica has not finished computing: waiting, begun, on their way.

        Those reported count until the last of them is done.
        """
        found = self._begun + self.waiting
        found *= self._left(now_ns) > 0
        found += self._sent
        return found

    def contexts(self, now_ns: int) -> Floats:
        """Tokens of context that each replica's decodes have, and those of the answers that are coming."""
        found = self._iterations(now_ns)
        found *= self._moving
        found += self.context
        found += self._guest_tokens
        return found

    def _left(self, now_ns: int) -> Floats:
        """Prompt tokens of those reported that are still to be computed. With chunks all steps take the same time."""
        found = now_ns - self._since_ns
        found /= self._step_ns
        np.floor(found, out=found)
        np.maximum(found, 0.0, out=found)
        found *= self._chunk
        np.subtract(self._queued, found, out=found)
        np.maximum(found, 0.0, out=found)
        return found

    def _iterations(self, now_ns: int) -> Floats:
        """Iterations that have ended since the reports, were all to go on as they did."""
        since = now_ns - self._next_ns
        # Steps that begin at the end of the one in progress: n of them take n * step + slope * n * (n - 1) / 2.
        x = np.maximum(since, 0)
        first = self._step_ns - self._slope_ns / 2
        root = first * first + 2 * self._slope_ns * x
        n: Floats = np.floor(2 * x / (first + np.sqrt(np.maximum(root, 0))))
        n += since >= 0
        return n

    def set_open(self, replica: int, value: bool) -> None:
        """For the cluster room: a replica may be given work, or not."""
        self.open[replica] = value
        self._changed()

    def set_role(self, replica: int, role: str) -> None:
        """For the cluster room."""
        self.roles[replica] = role
        self._changed()

    def _changed(self) -> None:
        self.whole = [open_ and role == MIXED for open_, role in zip(self.open, self.roles, strict=True)]
        self._able.clear()
        self._index.clear()
        self._pools.clear()

    def sent(self, replica: int, request: int, tokens: int) -> None:
        """For the cluster room: a prompt of so many tokens is on its way to a replica."""
        self._orders[replica][request] = (tokens, _PROMPT)
        self._sent[replica] += 1
        self._sent_tokens[replica] += tokens
        self._beside[replica] += tokens

    def handed(self, replica: int, request: int, tokens: int) -> None:
        """For the cluster room: a replica is told to decode a request whose context has so many tokens."""
        self._orders[replica][request] = (tokens, _GUEST)
        self._guest_tokens[replica] += tokens
        self._beside[replica] += 1

    def heard(self, report: Report) -> None:
        """For the cluster room: a replica has reported."""
        i = report.replica
        if report.at_ns < self.at_ns.item(i):
            return
        orders = self._orders[i]
        # An order that was lost is forgotten with those before the last one taken.
        if report.taken in orders:
            for request in list(orders):
                del orders[request]
                if request == report.taken:
                    break
        prompts = tokens = 0
        guests, guest_tokens = report.guests, report.guest_tokens
        for size, prompt in orders.values():
            if prompt:
                prompts += 1
                tokens += size
            else:
                guests += 1
                guest_tokens += size
        self._sent[i], self._sent_tokens[i], self._guest_tokens[i] = prompts, tokens, guest_tokens
        self._beside[i] = tokens + guests + report.decodes
        self.at_ns[i], self.waiting[i] = report.at_ns, report.waiting
        self.decodes[i], self.context[i], self.free[i] = report.decodes, report.context, report.free
        self._queued[i], self._begun[i] = report.queued, report.begun
        self._chunk[i], self._moving[i] = report.chunk, report.moving
        step_ns = report.step_ns if report.step_ns > 1 else 1.0
        next_ns = report.next_ns - _ROUNDED_NS if report.next_ns >= 0 else _NEVER
        self._next_ns[i], self._since_ns[i] = next_ns, next_ns - step_ns
        self._step_ns[i], self._slope_ns[i] = step_ns, report.slope_ns

    def emptied(self, replica: int) -> None:
        """For the cluster room: a replica has lost all that it had."""
        self._orders[replica].clear()
        self.at_ns[replica] = -1
        self.heard(Report(replica, 0, -1, 0, 0, 0, 0, int(self.blocks[replica])))


def serves(role: str, phase: str) -> bool:
    """Whether a replica of a role serves a phase."""
    return role in (MIXED, phase)
