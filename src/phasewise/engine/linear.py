"""Linear maps: weights packed once for oneDNN where it helps, torch's own otherwise, one face for both.

Packed weights are laid out for the processor's matrix kernels; the plain ones are not kept beside them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Linear = Callable[[torch.Tensor], torch.Tensor]
"""From [n, inputs] to [n, outputs], in the dtype of its weights."""


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch, on this processor, has packed linear maps of that dtype."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and (dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()))
    )


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None, packed: bool | None = None) -> Linear:
    """The map of `weight` [outputs, inputs]; packed (default: where it can be), it keeps no reference to `weight`."""
    if can_pack(weight.dtype) if packed is None else packed:
        return _packed(weight, bias)
    return _plain(weight.contiguous(), bias)


def _plain(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    return lambda x: F.linear(x, weight, bias)


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    # The batch to lay the weights out for is left open: measured, it makes no difference from 1 to 512 tokens.
    layout = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, layout, bias, "none", [], "")
