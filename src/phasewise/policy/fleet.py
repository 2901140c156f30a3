"""The fleet as a router sees it: columns indexed by replica, so that a choice among a thousand is one vector operation.

What the replicas report is old by the time it is read: `at_ns` says how old, and what can be known of the time since is
worked in when it is read: submissions that had not arrived, and progress, by the replica's own model of its step times. The
cluster room writes it; a router reads, and never writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from phasewise.core.message import Report
from phasewise.core.spec import MIXED

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


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

    `roles` by replica; `open` are those that may be given work; `barred` those that cannot serve the request at hand.
    `blocks` is each one's KV memory. `decodes`, `context`, `free` and `waiting` are as reported (`Report`), `at_ns` is when
    (-1: never). `predicted` are the output tokens that a predictor says the request at hand will have from here on (None: it
    says nothing). `booked` is kept for a router that `books`.
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
        self._queued: Ints = np.zeros(n, np.int64)
        self._chunk: Ints = np.zeros(n, np.int64)
        self._next_ns: Ints = np.full(n, -1, np.int64)
        self._step_ns: Floats = np.ones(n)
        self._slope_ns: Floats = np.zeros(n)
        # Submissions that a replica had not taken when it last reported: its running number, prompt tokens.
        self._sent: list[deque[tuple[int, int]]] = [deque() for _ in roles]
        self._sends = [0] * n
        self._under_way: Ints = np.zeros(n, np.int64)
        self._able: dict[str, list[int]] = {}
        self._index: dict[str, Ints] = {}
        self._pools: dict[str, Ints] = {}

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

    def pool(self, role: str) -> Ints:
        """The open replicas of just this role, but for the barred; in order."""
        found = self._pools.get(role)
        if found is None:
            own = [i for i, mine in enumerate(self.roles) if self.open[i] and mine == role]
            found = self._pools[role] = np.array(own, np.int64)
        return found[~np.isin(found, self.barred)] if self.barred else found

    def pending(self, now_ns: int) -> Ints:
        """Prompt tokens that each replica has still to compute, those on their way to it included."""
        done = self._chunk * self._iterations(now_ns)
        return np.maximum(self._queued - done, 0) + self._under_way

    def contexts(self, now_ns: int) -> Ints:
        """Tokens of context that each replica's decodes have."""
        return self.context + self.decodes * self._iterations(now_ns)

    def _iterations(self, now_ns: int) -> Ints:
        """Iterations that have ended since the reports, were all to go on as they did."""
        since = now_ns - self._next_ns
        # Steps that begin at the end of the one in progress: n of them take n * step + slope * n * (n - 1) / 2.
        first = self._step_ns - self._slope_ns / 2
        x = np.maximum(since, 0) + 0.5
        n = 2 * x / (first + np.sqrt(first * first + 2 * self._slope_ns * x))
        return np.where((self._next_ns >= 0) & (since >= 0), 1 + n.astype(np.int64), 0)

    def set_open(self, replica: int, value: bool) -> None:
        """For the cluster room: a replica may be given work, or not."""
        self.open[replica] = value
        self._changed()

    def set_role(self, replica: int, role: str) -> None:
        """For the cluster room."""
        self.roles[replica] = role
        self._changed()

    def _changed(self) -> None:
        self._able.clear()
        self._index.clear()
        self._pools.clear()

    def sent(self, replica: int, tokens: int) -> None:
        """For the cluster room: a prompt of so many tokens is on its way to a replica."""
        self._sends[replica] += 1
        self._sent[replica].append((self._sends[replica], tokens))
        self._under_way[replica] += tokens

    def heard(self, report: Report) -> None:
        """For the cluster room: a replica has reported."""
        i = report.replica
        if report.at_ns < self.at_ns[i]:
            return
        sent = self._sent[i]
        while sent and sent[0][0] <= report.taken:
            self._under_way[i] -= sent.popleft()[1]
        self.at_ns[i], self.waiting[i], self._queued[i] = report.at_ns, report.waiting, report.queued
        self.decodes[i], self.context[i], self.free[i] = report.decodes, report.context, report.free
        self._chunk[i], self._next_ns[i] = report.chunk, report.next_ns
        self._step_ns[i], self._slope_ns[i] = max(report.step_ns, 1.0), report.slope_ns

    def emptied(self, replica: int) -> None:
        """For the cluster room: a replica has lost all that it had."""
        self._sent[replica].clear()
        self._sends[replica] = 0
        self._under_way[replica] = 0
        self.at_ns[replica] = -1
        self.heard(Report(replica, 0, 0, 0, 0, 0, 0, int(self.blocks[replica])))


def serves(role: str, phase: str) -> bool:
    """Whether a replica of a role serves a phase."""
    return role in (MIXED, phase)
