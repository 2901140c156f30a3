"""What a step costs beside attention: times that depend on the number of tokens alone, nanoseconds. It remembers nothing.

`roofline` says how the parts join. Expert parallelism is not known: each device holds its share of every expert.
"""

from __future__ import annotations

from phasewise.core.model import ModelSpec, MoE
from phasewise.core.spec import DeviceSpec
from phasewise.perf.efficiency import Efficiency
from phasewise.perf.operators import all_gather_ns, all_reduce_ns, byte_ns, elementwise_ns, experts_ns, gemm_ns
from phasewise.perf.shard import shard


class LayerTimes:
    """Layers, embedding and head of `model` on `tp` devices; arguments as `Roofline`'s, `host_ns` in nanoseconds."""

    def __init__(
        self,
        model: ModelSpec,
        device: DeviceSpec,
        tp: int,
        efficiency: Efficiency,
        host_ns: float,
        tile: int,
        first: bool = True,
        last: bool = True,
    ) -> None:
        self._model, self._device, self._tp, self._efficiency = model, device, tp, efficiency
        self._part = shard(model, tp)
        self._stored = model.weight_dtype
        self._host_ns, self._tile = host_ns, tile
        self._first, self._last = first, last

    def linear_ns(self, tokens: int) -> float:
        """Everything that depends on the step's tokens alone, host time included; at least 1 ns."""
        model, part, device, fit = self._model, self._part, self._device, self._efficiency
        h, row = model.hidden, tokens * model.dtype_bytes
        products = self.projections_ns(tokens)
        # A norm reads the stream and the last output, and writes their sum and its normed copy.
        norm = elementwise_ns(device, fit, 4.0 * h * row)
        rotation = elementwise_ns(device, fit, 2.0 * (part.q + part.kv) * row) * (model.rotary + model.qk_norm)
        if model.latent:
            rotation = self.latent_ns(tokens)
        reduce = all_reduce_ns(device, fit, self._tp, float(h * row))
        reduces = 1 if model.parallel else 2

        def layer(ffn: float, activation: float) -> float:
            return products + ffn + model.norms * norm + rotation + activation + reduces * reduce

        embed = elementwise_ns(device, fit, 2.0 * h * row) + reduce if self._first else 0.0
        if self._last:
            embed += norm
        experts = model.layers - model.moe.dense_layers if model.moe else 0
        time = self._host_ns + (model.layers - experts) * layer(*self._feed_forward(tokens, part.ffn))
        if model.moe:
            time += experts * layer(*self._experts(model.moe, tokens))
        return max(1.0, time + embed)

    def projections_ns(self, tokens: int) -> float:
        """The products around one layer's attention, for `tokens` tokens."""
        model, part, stored = self._model, self._part, self._stored
        h = model.hidden
        if model.latent is None:
            return self._gemm(tokens, part.q + 2 * part.kv, h, stored) + self._gemm(tokens, h, part.q, stored)
        latent, heads = model.latent, part.q_heads
        rank = latent.q_rank
        time = self._gemm(tokens, (rank or part.q) + latent.width, h, stored)
        if rank:
            time += self._gemm(tokens, part.q, rank, stored)
        time += self._gemm(tokens, heads * (latent.nope + latent.value), latent.kv_rank, stored)
        return time + self._gemm(tokens, h, heads * latent.value, stored)

    def latent_ns(self, tokens: int) -> float:
        """The small kernels around latent attention in one layer: two norms, the rotation, and what was fitted."""
        model, device, fit = self._model, self._device, self._efficiency
        assert model.latent is not None
        latent, row = model.latent, tokens * model.dtype_bytes
        norms = elementwise_ns(device, fit, 2.0 * (latent.q_rank + latent.kv_rank) * row)
        rotation = elementwise_ns(device, fit, 2.0 * (self._part.q_heads + 1) * latent.rope * row)
        moved = tokens * fit.latent_token_bytes * byte_ns(device, fit.elementwise_bandwidth)
        return norms + rotation + fit.latent_launch_us * 1e3 + moved

    def _feed_forward(self, tokens: int, ffn: int) -> tuple[float, float]:
        """The products of a plain network of this width in one layer, and its activation."""
        inputs, moved = (2, 3) if self._model.gated_ffn else (1, 2)
        h, row = self._model.hidden, tokens * self._model.dtype_bytes
        products = self._gemm(tokens, inputs * ffn, h, self._stored) + self._gemm(tokens, h, ffn, self._stored)
        return products, elementwise_ns(self._device, self._efficiency, float(moved * ffn) * row)

    def _experts(self, moe: MoE, tokens: int) -> tuple[float, float]:
        """Router and chosen experts of one layer, then the shared ones' activation (theirs is inside)."""
        model, part = self._model, self._part
        time, activation = self._gemm(tokens, moe.experts, model.hidden), 0.0
        time += experts_ns(
            self._device,
            self._efficiency,
            moe,
            tokens,
            model.hidden,
            part.expert_ffn,
            3 if model.gated_ffn else 2,
            model.dtype_bytes,
            model.expert_dtype,
        )
        if part.shared_ffn:
            products, activation = self._feed_forward(tokens, part.shared_ffn)
            time += products
        return time, activation

    def head_ns(self, emitting: int) -> float:
        """The vocabulary's matrix for the sequences that emit a token in this step."""
        time = 0.0
        if emitting and self._last:
            logits = float(emitting * self._model.vocab * self._model.dtype_bytes)
            time = self._gemm(emitting, self._part.vocab, self._model.hidden)
            time += all_gather_ns(self._device, self._efficiency, self._tp, logits)
        return time

    def _gemm(self, rows: int, columns: int, inner: int, weights: str | None = None) -> float:
        if self._tile:
            rows = -(-rows // self._tile) * self._tile
        return gemm_ns(self._device, self._efficiency, rows, columns, inner, self._model.dtype_bytes, weights)
