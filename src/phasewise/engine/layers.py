"""A model's weights made ready to run: taken from their mapping, checked, fused, packed, and let go of.

Queries, keys and values are one product, gate and up projection another; their rows lie one after the other. It knows names
and shapes, not where the tensors come from nor what a step is.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from typing import NamedTuple

import torch

from phasewise.core.errors import InputError
from phasewise.engine.attention import HeadNorms
from phasewise.engine.experts import Mixture, Routed
from phasewise.engine.linear import Linear, linear
from phasewise.engine.pointwise import Pointwise
from phasewise.engine.shape import Shape

Network = Callable[[torch.Tensor], torch.Tensor]


class Layer(NamedTuple):
    """One decoder layer. `window`: tokens that a token sees, itself included; None for all."""

    first_norm: torch.Tensor
    qkv: Linear
    head_norms: HeadNorms | None
    out: Linear
    second_norm: torch.Tensor
    network: Network
    window: int | None


class Layers(NamedTuple):
    """A whole model."""

    embedding: torch.Tensor
    layers: list[Layer]
    norm: torch.Tensor
    head: Linear


class Building:
    """`tensors` is emptied as the layers are built, so that no weight but a tied embedding is held twice.

    InputError names a tensor that is missing or of the wrong shape.
    """

    def __init__(
        self,
        shape: Shape,
        tensors: MutableMapping[str, torch.Tensor],
        dtype: torch.dtype,
        pointwise: Pointwise,
        packed: bool | None = None,
        routed: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None,
    ) -> None:
        self.shape, self.tensors, self.dtype = shape, tensors, dtype
        self.pointwise, self.packed, self.routed = pointwise, packed, routed

    def build(self) -> Layers:
        """All layers; afterwards the mapping holds only what the model has no use for."""
        shape = self.shape
        embedding = self._keep("model.embed_tokens.weight", shape.vocab, shape.hidden)
        layers = [self._layer(index) for index in range(shape.layers)]
        norm = self._keep("model.norm.weight", shape.hidden)
        if shape.tied:
            self.tensors.pop("lm_head.weight", None)
        head = embedding if shape.tied else self._take("lm_head.weight", shape.vocab, shape.hidden)
        return Layers(embedding, layers, norm, linear(head, None, self.packed))

    def _take(self, name: str, *size: int, copy: bool = False) -> torch.Tensor:
        try:
            tensor = self.tensors.pop(name)
        except KeyError:
            raise InputError(f"the weights have no tensor {name}") from None
        if tuple(tensor.shape) != size:
            raise InputError(f"tensor {name} is {list(tensor.shape)}, and the model's shape asks for {list(size)}")
        return tensor.to(self.dtype, copy=copy, memory_format=torch.contiguous_format)

    def _keep(self, name: str, *size: int) -> torch.Tensor:
        """A copy of a tensor that is used as it is: the one given may be part of a file, which would stay mapped for it."""
        return self._take(name, *size, copy=True)

    def _linear(self, names: Sequence[str], rows: Sequence[int], inputs: int, bias: bool = False) -> Linear:
        """One map of several projections, their outputs side by side."""
        parts = [self._take(f"{name}.weight", count, inputs) for name, count in zip(names, rows, strict=True)]
        biases = [self._take(f"{name}.bias", count) for name, count in zip(names, rows, strict=True)] if bias else []
        weight = torch.cat(parts) if len(parts) > 1 else parts[0]
        return linear(weight, torch.cat(biases) if bias else None, self.packed)

    def _layer(self, index: int) -> Layer:
        shape, name = self.shape, f"model.layers.{index}"
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        attention = f"{name}.self_attn"
        norms = None
        if shape.qk_norm:
            q, k = (self._keep(f"{attention}.{part}_norm.weight", shape.head_dim) for part in "qk")
            norms = HeadNorms(q, k, shape.eps)
        sparse = shape.experts is not None and index in shape.experts.layers
        return Layer(
            first_norm=self._keep(f"{name}.input_layernorm.weight", shape.hidden),
            qkv=self._linear(
                [f"{attention}.{part}_proj" for part in "qkv"],
                [width, kv_width, kv_width],
                shape.hidden,
                shape.qkv_bias,
            ),
            head_norms=norms,
            out=self._linear([f"{attention}.o_proj"], [shape.hidden], width, shape.out_bias),
            second_norm=self._keep(f"{name}.post_attention_layernorm.weight", shape.hidden),
            network=self._mixture(index, f"{name}.mlp") if sparse else self._network(f"{name}.mlp"),
            window=shape.window if index in shape.window_layers else None,
        )

    def _network(self, name: str) -> Network:
        hidden, ffn = self.shape.hidden, self.shape.ffn
        gate_up = self._linear([f"{name}.gate_proj", f"{name}.up_proj"], [ffn, ffn], hidden)
        down = self._linear([f"{name}.down_proj"], [hidden], ffn)
        gate = self.pointwise.gate
        return lambda x: down(gate(gate_up(x)))

    def _mixture(self, index: int, name: str) -> Network:
        hidden, experts = self.shape.hidden, self.shape.experts
        assert experts is not None
        gate_up = self._take(f"{name}.experts.gate_up", experts.count, 2 * experts.ffn, hidden)
        down = self._take(f"{name}.experts.down", experts.count, hidden, experts.ffn)
        networks = [
            (linear(up, None, self.packed), linear(low, None, self.packed))
            for up, low in zip(gate_up, down, strict=True)
        ]
        router = self._keep(f"{name}.router.weight", experts.count, hidden)
        routed: Routed | None = partial(self.routed, index) if self.routed is not None else None
        return Mixture(router, networks, experts.active, experts.renormalise, self.pointwise, routed)
