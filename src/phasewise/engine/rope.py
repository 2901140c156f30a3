"""Rotary positions: the cosines and sines by which queries and keys are turned, for every kind that the engine knows.

Frequencies and angles are float32, computed in the order in which Hugging Face's transformers computes them: at position
30,000 another order of rounding is another angle. RoPE: arXiv 2104.09864; yarn: arXiv 2309.00071.
"""

from __future__ import annotations

import math

import torch

from phasewise.engine.shape import Rope


def width(rope: Rope, head_dim: int) -> int:
    """How many of a head's dimensions are turned: the first ones."""
    return int(head_dim * rope.partial)


def frequencies(rope: Rope, head_dim: int) -> torch.Tensor:
    """Radians a token for each turned pair of dimensions, float32 [width / 2]."""
    turned = width(rope, head_dim)
    lengths = rope.theta ** (torch.arange(0, turned, 2, dtype=torch.int64).float() / turned)
    plain = 1.0 / lengths
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, plain)
    if rope.kind == "yarn":
        return _yarn(rope, plain, 1.0 / (rope.factor * lengths), turned)
    # Dynamic scaling sets in beyond the trained context, where the engine never goes.
    return plain


def tables(rope: Rope, head_dim: int, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the first `positions` positions, float32 [positions, width / 2] each."""
    angles = torch.arange(positions).float()[:, None] * frequencies(rope, head_dim)[None, :]
    return angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor


def _llama3(rope: Rope, plain: torch.Tensor) -> torch.Tensor:
    """Slow turns are stretched, fast ones kept, those between blended by how often they turn in the original context."""
    length = 2 * math.pi / plain
    blend = (rope.original / length - rope.low_freq) / (rope.high_freq - rope.low_freq)
    blended = (1 - blend) * plain / rope.factor + blend * plain
    slow = length > rope.original / rope.low_freq
    fast = length < rope.original / rope.high_freq
    return torch.where(slow, plain / rope.factor, torch.where(fast, plain, blended))


def _yarn(rope: Rope, plain: torch.Tensor, stretched: torch.Tensor, turned: int) -> torch.Tensor:
    """Dimensions that turn more than `beta_fast` times in the original context are kept, fewer than `beta_slow` stretched."""

    def dimension(turns: float) -> float:
        return turned * math.log(rope.original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, turned - 1)
    ramp = (torch.arange(turned // 2, dtype=torch.float32) - low) / (high - low if high != low else 0.001)
    kept = 1 - ramp.clamp(0, 1)
    return stretched * (1 - kept) + plain * kept
