"""What a run is known by: the header that opens its log, and the tables that close it. No bytes and no files."""

from __future__ import annotations

from typing import Any

import msgspec
from numpy.typing import NDArray

from phasewise.core.fault import Scenario
from phasewise.core.spec import RequestClass, Resolved


class Header(msgspec.Struct, frozen=True):
    """What ran: the resolved deployment, the workload's description and classes, the seed, what went wrong.

    `reference` tabulates unloaded times for slowdowns: rows of (prompt tokens, TTFT in ns), and the line of one lone
    decode step, (ns, ns per token of context).
    """

    version: str
    resolved: Resolved
    workload: dict[str, Any]
    seed: int
    reference_ttft: tuple[tuple[int, float], ...] = ()
    reference_decode: tuple[float, float] = (0.0, 0.0)
    classes: tuple[RequestClass, ...] = ()
    scenario: Scenario | None = None


class Tables(msgspec.Struct, frozen=True):
    """The columns of a run: `requests` and `changes` of the cluster; `steps`, `spans`, `transfers` of each replica by index."""

    requests: NDArray[Any]
    steps: tuple[NDArray[Any], ...]
    spans: tuple[NDArray[Any], ...]
    transfers: tuple[NDArray[Any], ...]
    changes: NDArray[Any]

    @property
    def nbytes(self) -> int:
        parts = (*self.steps, *self.spans, *self.transfers)
        return self.requests.nbytes + self.changes.nbytes + sum(part.nbytes for part in parts)
