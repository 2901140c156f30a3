"""A mixture of experts in place of a feed-forward network, of the Mixtral and Qwen3-MoE kind.

A softmax over all experts in float32, the few that it favours, their weights scaled to sum to one if the model says so.
Tokens are sorted by expert, so that each expert that is wanted runs once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from phasewise.engine.linear import Linear
from phasewise.engine.pointwise import Pointwise

Network = tuple[Linear, Linear]
"""Gate and up projection in one, and down projection."""
Routed = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Told of a step: router logits [tokens, experts], chosen experts and their weights [tokens, active]."""


class Mixture:
    """The networks of one layer and the router over them."""

    def __init__(
        self,
        router: torch.Tensor,
        networks: Sequence[Network],
        active: int,
        renormalise: bool,
        pointwise: Pointwise,
        routed: Routed | None = None,
    ) -> None:
        self.router, self.networks = router, networks
        self.active, self.renormalise = active, renormalise
        self.pointwise, self.routed = pointwise, routed

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The weighted sum of what each token's experts make of it; [tokens, hidden]."""
        logits = x @ self.router.T
        weights, chosen = logits.softmax(-1, dtype=torch.float32).topk(self.active, -1)
        if self.renormalise:
            weights /= weights.sum(-1, keepdim=True)
        if self.routed is not None:
            self.routed(logits, chosen, weights)
        order = chosen.flatten().argsort(stable=True)
        tokens = order // self.active
        shares = weights.flatten()[order, None]
        counts = torch.bincount(chosen.flatten(), minlength=len(self.networks)).tolist()
        out = torch.zeros(x.shape, dtype=torch.float32)
        first = 0
        for (gate_up, down), count in zip(self.networks, counts, strict=True):
            if count:
                mine = slice(first, first + count)
                first += count
                made = down(self.pointwise.gate(gate_up(x[tokens[mine]])))
                out.index_add_(0, tokens[mine], made * shares[mine])
        return out.to(x.dtype)
