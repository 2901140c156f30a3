"""Splitwise's cluster-level scheduler: both homes at arrival, three pools (ISCA'24, section 4; its simulator's mixed pool).

A replica's role in the deployment is its pool: prompt (`prefill`), token (`decode`) or mixed. The prompt goes to the prompt
machine with the fewest pending tokens, else to such a mixed one; one with prompts waiting and, with this one, more than
`long_queue` tokens is passed over. The answer goes to the token machine with the least memory scheduled, else to such a mixed
one, unless it would not fit there. Failing that, the token machine with the fewest pending tokens becomes mixed and takes the
prompt; the prompt machine with the least memory becomes mixed and takes the answer. Failing that, both phases go to the
machine with the fewest pending tokens of all. A mixed machine returns to its pool when nothing of the other phase is left on
it. What is pending and what is scheduled is what the cluster has booked (`fleet.Booked`).

The published simulator uses the true length of the answer: predictor `oracle`. Without a prediction an answer counts nothing.

Ours: a machine has prompts waiting as long as one is not computed (there: not begun); a return is done when the next request
comes, before it is placed; a machine that takes both phases for want of any other is mixed then, too; of equals the first. A
fleet of mixed machines alone has no pools and is the paper's baseline: both phases on the machine with the fewest pending
tokens. Left out: moving a machine to another pool for good after "a considerable time", which is not published.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from phasewise.core.request import Request
from phasewise.core.spec import DECODE, MIXED, PREFILL
from phasewise.policy.fleet import ClusterView, Ints
from phasewise.policy.roles import Homes

Pools = dict[str, Ints]


class Splitwise(msgspec.Struct, forbid_unknown_fields=True, dict=True):
    """Prompts by pending tokens, answers by memory, pools that lend each other machines; `long_queue` tokens are too many."""

    long_queue: Annotated[int, msgspec.Meta(ge=1)] = 8192

    books = True

    def __post_init__(self) -> None:
        # The pool that each replica is of, and its role as this router left it: any other role is an operator's word.
        self._own: list[str] = []
        self._left: list[str] = []

    def route(
        self, request: Request, cluster: ClusterView, now_ns: int, source: int | None = None
    ) -> int | Homes | None:
        self._heed(cluster)
        pools = {role: cluster.pool(role) for role in (PREFILL, DECODE, MIXED)}
        if not any(len(pool) for pool in pools.values()):
            return None
        changes: dict[int, str] = {}
        self._return(cluster, pools, changes)
        if source is None:
            prefill, decode = self._place(request, cluster, pools, changes)
        else:
            prefill, decode = source, self._after(request, cluster, pools, changes)
        for replica, role in changes.items():
            self._left[replica] = role
        return Homes(prefill, decode, tuple(changes.items()))

    def _heed(self, cluster: ClusterView) -> None:
        """Take note of roles that others have given."""
        if self._left != cluster.roles:
            old = self._left or [""] * len(cluster.roles)
            own = self._own or cluster.roles
            self._own = [now if now != was else mine for now, was, mine in zip(cluster.roles, old, own, strict=True)]
            self._left = list(cluster.roles)

    def _return(self, cluster: ClusterView, pools: Pools, changes: dict[int, str]) -> None:
        """Mixed machines without work of the other phase go back to their pools."""
        booked = cluster.booked
        for replica in pools[MIXED].tolist():
            own = self._own[replica]
            if (own == PREFILL and not booked.answers[replica]) or (own == DECODE and not booked.prompts[replica]):
                _move(replica, MIXED, own, pools, changes)

    def _place(self, request: Request, cluster: ClusterView, pools: Pools, changes: dict[int, str]) -> tuple[int, int]:
        """Homes for prompt and answer."""
        booked = cluster.booked
        if not len(pools[PREFILL]) and not len(pools[DECODE]) and all(self._own[i] == MIXED for i in pools[MIXED]):
            both = _least(booked.pending, pools[MIXED])
            return both, both
        prefill = self._prompt_home(request, cluster, pools)
        decode = _answer_home(request, cluster, pools)
        if prefill is None and len(pools[DECODE]):
            prefill = _least(booked.pending, pools[DECODE])
            _move(prefill, DECODE, MIXED, pools, changes)
        if decode is None and len(pools[PREFILL]):
            decode = _least(booked.memory, pools[PREFILL])
            _move(decode, PREFILL, MIXED, pools, changes)
        if prefill is None or decode is None:
            prefill = decode = _least(booked.pending, np.sort(np.concatenate(list(pools.values()))))
            for role in (PREFILL, DECODE):
                if prefill in pools[role]:
                    _move(prefill, role, MIXED, pools, changes)
        return prefill, decode

    def _after(self, request: Request, cluster: ClusterView, pools: Pools, changes: dict[int, str]) -> int:
        """A home for the answer alone: the one that it had is lost, or would not have it."""
        home = _answer_home(request, cluster, pools)
        if home is not None:
            return home
        for role in (PREFILL, MIXED, DECODE):
            if len(pools[role]):
                home = _least(cluster.booked.memory, pools[role])
                break
        assert home is not None
        if role == PREFILL:
            _move(home, PREFILL, MIXED, pools, changes)
        return home

    def _prompt_home(self, request: Request, cluster: ClusterView, pools: Pools) -> int | None:
        booked = cluster.booked
        for role in (PREFILL, MIXED):
            if len(pools[role]):
                home = _least(booked.pending, pools[role])
                if not booked.prompts[home] or booked.pending[home] + request.prompt_tokens <= self.long_queue:
                    return home
        return None


def _answer_home(request: Request, cluster: ClusterView, pools: Pools) -> int | None:
    booked = cluster.booked
    tokens = request.prompt_tokens + 1 + (cluster.predicted or 0)
    for role in (DECODE, MIXED):
        if len(pools[role]):
            home = _least(booked.memory, pools[role])
            if booked.memory[home] + tokens < booked.holds[home]:
                return home
    return None


def _least(column: Ints, pool: Ints) -> int:
    """The first of a pool with the least in a column."""
    return int(pool[column[pool].argmin()])


def _move(replica: int, source: str, target: str, pools: Pools, changes: dict[int, str]) -> None:
    """From one pool to another; what is done and undone within one decision is no change."""
    pools[source] = pools[source][pools[source] != replica]
    pools[target] = np.sort(np.append(pools[target], replica))
    if replica in changes:
        del changes[replica]
    else:
        changes[replica] = target
