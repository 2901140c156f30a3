"""WAIT: hold requests back until a threshold of a type has gathered, then advance whole cohorts (arXiv 2504.11320).

Two rules, both published. `cohort`, the paper's (section on WAIT): when the replica is free, every type with at least its
threshold of requests waiting is ready; each ready type is given its threshold of new prompts and one decode step for all its
residents, and the residents of other types stand still, keeping their blocks. Every stage then holds at most the threshold,
which bounds the memory. `booking`, the authors' code: a limit on the requests in service is shared out among the types by rate
times stages; a batch starts when some type has its threshold waiting, or fills up its share, and all residents advance.

A request's type is the class that its client names, never its true length; without `types` all requests are of one. The
longest wait, `max_wait_s`, is ours and off by default (see `cohorts`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from phasewise.core.action import WakeAt
from phasewise.core.errors import InputError
from phasewise.core.resident import Resident
from phasewise.core.step import ALL, StepPlan
from phasewise.core.view import MOST_COHORTS, InstanceState
from phasewise.policy.batching.cohorts import ROUNDING, Seconds, decoding, is_late, step, wait

Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A type of requests: `prompt` and `output` tokens, `rate` in requests/s; `threshold` overrides the rule's."""

    prompt: Count
    output: Count
    rate: Positive
    threshold: Count | None = None

    @property
    def stages(self) -> int:
        """From waiting for its prefill to its last token."""
        return self.output + 1

    @property
    def tokens(self) -> float:
        """KV tokens of one request in every stage."""
        return self.stages * (self.prompt + self.output / 2)


class StepModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of a step with M tokens of KV in its batch: `base_s + per_token_s * M`; the paper's d0 and d1."""

    base_s: Positive
    per_token_s: Positive


def cohort_tokens(kinds: Iterable[tuple[Kind, int]]) -> float:
    """KV tokens with `(type, threshold)` requests in every stage of every type: the paper's M."""
    return sum(n * kind.tokens for kind, n in kinds)


def fluid_thresholds(kinds: dict[str, Kind], model: StepModel) -> dict[str, int]:
    """The least thresholds n found with step time at M(n) below n / rate for every type: a batch ends before the next gathers.

    From the fluid equilibrium, n = rate * step time, rounded up and grown together until whole numbers do. InputError beyond
    the fluid region, where no threshold is large enough.
    """
    load = model.per_token_s * sum(kind.rate * kind.tokens for kind in kinds.values())
    if load >= 0.999:
        raise InputError(f"the types bring {load:.0%} of what the step model carries; lower their rates")
    step_s = model.base_s / (1 - load)
    while True:
        n = {name: math.ceil(kind.rate * step_s) for name, kind in kinds.items()}
        took_s = model.base_s + model.per_token_s * cohort_tokens((kind, n[name]) for name, kind in kinds.items())
        if all(took_s < n[name] / kind.rate for name, kind in kinds.items()):
            return n
        step_s *= 1.01


class Wait(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Thresholds per type: whole cohorts advance (`rule: cohort`), or up to `total_limit` are in service (`booking`).

    Thresholds of the cohort rule: a type's own, else from `step_model` and the rates, else `threshold`.
    """

    types: dict[str, Kind] = {}
    rule: Literal["cohort", "booking"] = "cohort"
    threshold: Count = 4
    step_model: StepModel | None = None
    total_limit: Count = 64
    max_seqs: Count = 128
    max_wait_s: Seconds | None = None

    def __post_init__(self) -> None:
        if len(self.types) >= MOST_COHORTS:
            raise ValueError(f"{len(self.types)} types; give at most {MOST_COHORTS - 1}")
        if not self.types and (self.rule == "booking" or self.step_model):
            raise ValueError("types are missing: the rule 'booking' and thresholds from a step model need their rates")
        if self.rule == "booking":
            found = {name: max(1, int(self._share(kind) / kind.stages + ROUNDING)) for name, kind in self.types.items()}
        elif self.step_model is not None:
            found = fluid_thresholds(self.types, self.step_model)
        else:
            found = dict.fromkeys(self.types, self.threshold)
        filled = {name: kind.threshold or found[name] for name, kind in self.types.items()}
        types = {name: msgspec.structs.replace(kind, threshold=filled[name]) for name, kind in self.types.items()}
        msgspec.structs.force_setattr(self, "types", types)

    @property
    def watermark(self) -> float:
        return 0.0

    @property
    def limit(self) -> int:
        """Of requests in service; with fewer seats than that a share would never be full, and its residents stand still."""
        return min(self.total_limit, self.max_seqs)

    def plan(self, state: InstanceState, now_ns: int) -> tuple[StepPlan | WakeAt, ...]:
        queued = self._queued(state)
        wanted = {name: self._wanted(name, state) for name in queued}
        ready = [name for name, n in wanted.items() if len(queued[name]) >= n]
        late = is_late(state, now_ns, self.max_wait_s)
        if ready and not (late and state.waiting and self._type(state.waiting[0]) not in ready):
            new = ((resident, name) for name in ready for resident in queued[name][: wanted[name]])
            names = ready if self.rule == "cohort" else state.cohorts
            plans = step(state, decoding(state, names), new, self.max_seqs)
            if plans:
                return self._leap(plans, state)
        # Nobody is ready, or those who are find no room beside others who stand still.
        if not late:
            return wait(state, self.max_wait_s)
        everybody = ((resident, name) for name in queued for resident in queued[name][: wanted[name]])
        plans = step(state, decoding(state, state.cohorts), everybody, self.max_seqs, forced=True)
        # Where nobody waits, only an arrival or an end changes anything.
        return plans if state.waiting else tuple(map(_on, plans))

    def _type(self, resident: Resident) -> str:
        if not self.types:
            return ALL
        if resident.request.kind not in self.types:
            kind = resident.request.kind
            what = f"is of class '{kind}'" if kind else "names no class"
            raise InputError(f"request {resident.id} {what}; batcher wait has types {', '.join(self.types)}")
        return resident.request.kind

    def _queued(self, state: InstanceState) -> dict[str, list[Resident]]:
        """The first of each type in the queue, up to its threshold."""
        left = {name: self._threshold(name) for name in self.types or (ALL,)}
        found: dict[str, list[Resident]] = {name: [] for name in left}
        for resident in state.waiting:
            name = self._type(resident)
            if left[name]:
                found[name].append(resident)
                left[name] -= 1
                if not any(left.values()):
                    break
        return found

    def _wanted(self, name: str, state: InstanceState) -> int:
        """How many of a type must wait for it to be ready, and are taken then."""
        if self.rule == "cohort":
            return self._threshold(name)
        cohort = state.cohorts.get(name)
        serving = cohort.count if cohort is not None else 0
        share = max(1, int(self._share(self.types[name]) + ROUNDING))
        return max(0, min(self._threshold(name), share - serving))

    def _threshold(self, name: str) -> int:
        """Of a type, as it was filled in; of all requests, if there are no types."""
        return (self.types[name].threshold if self.types else None) or self.threshold

    def _share(self, kind: Kind) -> float:
        """How many of the limit are a type's own."""
        weight = sum(other.rate * other.stages for other in self.types.values())
        return self.limit * kind.rate * kind.stages / weight

    def _leap(self, plans: tuple[StepPlan, ...], state: InstanceState) -> tuple[StepPlan, ...]:
        """Booked decodes alone go on until something changes: a share that is full stays so until a resident ends.

        Not where somebody in the queue may become late meanwhile.
        """
        if self.rule == "cohort" or (self.max_wait_s and state.waiting):
            return plans
        return tuple(map(_on, plans))


def _on(plan: StepPlan) -> StepPlan:
    """The same again and again, if it is of decodes alone and makes nobody leave."""
    return plan if plan.chunks or plan.preempt else msgspec.structs.replace(plan, repeat=None)
