"""What lies between a layer's matrix products, token by token: the norm of a sum, and the gate. In torch."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F


class Pointwise(Protocol):
    """The face that torch and compiled kernels share."""

    def norm(self, x: torch.Tensor, change: torch.Tensor | None, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """RMSNorm of `x + change` over the last dimension, in the dtype of `weight`; the sum is left in `x`, a float32."""

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """SiLU of the first half of the last dimension, times the second half."""


class TorchPointwise:
    """By torch's own operations."""

    def norm(self, x: torch.Tensor, change: torch.Tensor | None, weight: torch.Tensor, eps: float) -> torch.Tensor:
        if change is not None:
            x += change
        return F.rms_norm(x, weight.shape, weight.float(), eps).to(weight.dtype)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)
