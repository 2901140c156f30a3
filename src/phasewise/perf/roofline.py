"""An attention-aware roofline: the time of a step from its chunks and decodes. It knows neither requests nor the clock.

Per device of a replica of N, for a step of n tokens of which P are of prompt chunks, D decodes and E emit a token:

    step = host + layers * (linear(n) + attention) + embed(n) + head(E)
    linear(n) = gemm(n; qkv) + gemm(n; out) + gemm(n; gate, up) + gemm(n; down)
              + 2 norms with their residual additions + rotation (+ norms of q and k) + activation
              + 2 all-reduces of n * hidden elements
    attention = launch + P * token + sum over chunks of max(4*h_q*d*pairs / (eta Pi), 2*h_kv*d*(c+q)*bytes / (eta BW))
              + D * h_q * head + (context + D) * max(4*h_q*d / (eta Pi), 2*h_kv*d*bytes / (eta BW))
    embed(n) = row copy + all-reduce, and the last norm;  head(E) = gemm(E; vocabulary) + all-gather of the logits

A chunk of q tokens after c cached ones has q * (c + (q+1)/2) pairs: causal, each token sees itself and what comes
before. (Counting q * (c+q) would put the measured prompt kernels of an H100 at 138 % of its throughput and those of an
A100 at 116 %.) It reads all c+q keys and values, so that chunking a prompt costs re-reads but no extra operations.
`token` is the traffic of queries, outputs and new keys and values, which measured kernels do not hide behind the
products. A decode is the case q = 1. Both sides of its maximum grow in proportion to the context, so which one binds is
a property of model and device, settled once: the sum over decodes needs only the sum of contexts, and a leap of decode
steps is exactly affine. (For every model and device of the catalogues it is memory.) A step with chunks and decodes
pays one attention launch, the longer: one kernel takes the whole batch. `operators` has the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from phasewise.core.errors import InputError
from phasewise.core.spec import DeviceSpec, ModelSpec
from phasewise.core.step import ALL, Chunk, Piece, moved_on
from phasewise.core.units import NS_PER_S
from phasewise.perf.efficiency import Efficiency
from phasewise.perf.operators import all_gather_ns, all_reduce_ns, byte_ns, elementwise_ns, flop_ns, gemm_ns
from phasewise.perf.shard import shard


class Roofline:
    """Step times of `model` on `tp` devices; a `LatencyModel`.

    `host_s` is the time of a step outside the device, seconds (None: the efficiency's default); `tile` rounds the
    rows of matrix products up to whole tiles (0: no rounding). Raises InputError for a `tp` that does not split the
    heads, for `tp` above 1 on a device without a link, and for a negative time or tile.
    """

    def __init__(
        self,
        model: ModelSpec,
        device: DeviceSpec,
        tp: int,
        efficiency: Efficiency,
        host_s: float | None = None,
        tile: int = 0,
    ) -> None:
        host = efficiency.host_s if host_s is None else host_s
        if not 0 <= host < float("inf"):
            raise InputError(f"host_s must be a time of at least 0 seconds, not {host}")
        if tile < 0:
            raise InputError(f"tile must be a number of tokens, 0 for no rounding, not {tile}")
        if tp > 1 and device.link_gb_s <= 0:
            raise InputError(f"tp {tp} needs a link between devices, and {device.name} has none")
        self._model, self._device, self._tp, self._efficiency = model, device, tp, efficiency
        self._part = shard(model, tp)
        self._host_ns, self._tile = host * NS_PER_S, tile
        # Filled on demand: the hot path only looks up, multiplies and adds.
        self._by_tokens: dict[int, float] = {}
        self._by_emitting: dict[int, float] = {}
        self._by_decodes: dict[int, tuple[float, float]] = {}
        self._attention()

    @property
    def basis(self) -> str:
        """What the times rest on, in words that every output repeats."""
        return self._efficiency.basis

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        """Times of `steps` identical iterations, nanoseconds; see `LatencyModel`."""
        if not chunks:
            try:
                first, slope = self._by_decodes[decodes]
            except KeyError:
                first, slope = self._decode_step(decodes)
            return ((first + self._context_ns * context, slope, steps),)
        slope = 0.0
        if steps > 1:
            same, slope = self._alike(chunks, steps)
            if same < steps:
                return self._in_two(chunks, decodes, context, steps, same)
            slope += self._context_ns * decodes
        prompt, emitting, attention = 0, decodes, 0.0
        for chunk in chunks:
            q = chunk.tokens
            end = chunk.start + q
            compute = self._pair_ns * (q * (end + end - q + 1))
            memory = self._read_ns * end
            attention += compute if compute > memory else memory
            prompt += q
            if chunk.joins is not None:
                emitting += 1
        tokens = prompt + decodes
        try:
            linear = self._by_tokens[tokens]
        except KeyError:
            linear = self._linear(tokens)
        try:
            head = self._by_emitting[emitting]
        except KeyError:
            head = self._head(emitting)
        attention += self._token_ns * prompt
        if not decodes:
            return ((linear + head + attention + self._chunk_launch_ns, slope, steps),)
        attention += self._mixed_launch_ns + self._decode_ns * decodes + self._context_ns * context
        return ((linear + head + attention, slope, steps),)

    def _alike(self, chunks: Sequence[Chunk], steps: int) -> tuple[int, float]:
        """For how many of these steps the same side of the roofline binds for every chunk; how much longer each takes.

        Both sides grow by equal amounts from step to step, so one that overtakes the other stays ahead.
        """
        slope = 0.0
        for chunk in chunks:
            q = chunk.tokens
            end = chunk.start + q
            compute, memory = self._pair_ns * (q * (end + end - q + 1)), self._read_ns * end
            more_compute, more_memory = self._pair_ns * (2 * q * q), self._read_ns * q
            ahead = compute - memory + (steps - 1) * (more_compute - more_memory)
            if (compute > memory) != (ahead > 0):
                steps = min(int((compute - memory) / (more_memory - more_compute)) + 1, steps - 1)
            slope += more_compute if compute > memory else more_memory
        return steps, slope

    def _in_two(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int, low: int) -> tuple[Piece, ...]:
        """The first `low` of several steps of chunks, and the others, in which the other side binds for one of them."""
        rest = [moved_on(chunk, low) for chunk in chunks]
        before = self.pieces(chunks, decodes, context, low)
        return before + self.pieces(rest, decodes, context + low * decodes, steps - low)

    def prefill_ns(self, tokens: int) -> float:
        """Nanoseconds of one step that runs a whole prompt of `tokens` tokens on an idle replica."""
        return self.pieces((Chunk(0, 0, tokens, tokens, ALL),), 0, 0, 1)[0][0]

    def decode_line(self) -> tuple[float, float]:
        """One decode alone: nanoseconds with no context, and nanoseconds more per token of context."""
        return self.pieces((), 1, 0, 1)[0][0], self._context_ns

    def _attention(self) -> None:
        """Set the constants of attention, nanoseconds over all layers."""
        layers, part, bytes_ = self._model.layers, self._part, self._model.dtype_bytes
        device, fit = self._device, self._efficiency
        flops_per_pair = 4.0 * part.q * flop_ns(device, fit.attention_compute)
        read = 2.0 * part.kv * bytes_ * byte_ns(device, fit.attention_bandwidth)
        # Twice the pairs are q * (2c + q + 1), a whole number: the half sits in the constant.
        self._pair_ns = 0.5 * layers * flops_per_pair
        self._read_ns = layers * read
        self._context_ns = layers * max(flops_per_pair, read)
        token_bytes = 2.0 * (part.q + part.kv) * bytes_
        self._token_ns = layers * token_bytes * byte_ns(device, fit.attention_token_bandwidth)
        self._chunk_launch_ns = layers * fit.attention_chunk_launch_us * 1e3
        self._decode_launch_ns = layers * fit.attention_decode_launch_us * 1e3
        self._mixed_launch_ns = max(self._chunk_launch_ns, self._decode_launch_ns)
        self._decode_ns = layers * part.q_heads * fit.attention_head_us * 1e3 + self._context_ns

    def _decode_step(self, decodes: int) -> tuple[float, float]:
        """First step without context, and growth per step, of `decodes` decodes; remembered."""
        first = self._linear(decodes) + self._head(decodes) + self._decode_launch_ns + self._decode_ns * decodes
        self._by_decodes[decodes] = first, self._context_ns * decodes
        return self._by_decodes[decodes]

    def _gemm(self, rows: int, columns: int, inner: int) -> float:
        if self._tile:
            rows = -(-rows // self._tile) * self._tile
        return gemm_ns(self._device, self._efficiency, rows, columns, inner, self._model.dtype_bytes)

    def _linear(self, tokens: int) -> float:
        """Everything that depends on the step's tokens alone, host time included; at least 1 ns; remembered."""
        model, part, device, fit = self._model, self._part, self._device, self._efficiency
        h, row = model.hidden, tokens * model.dtype_bytes
        inputs, moved = (2, 3) if model.gated_ffn else (1, 2)
        gemms = self._gemm(tokens, part.q + 2 * part.kv, h) + self._gemm(tokens, h, part.q)
        gemms += self._gemm(tokens, inputs * part.ffn, h) + self._gemm(tokens, h, part.ffn)
        # A norm reads the stream and the last output, and writes their sum and its normed copy.
        norm = elementwise_ns(device, fit, 4.0 * h * row)
        rotation = elementwise_ns(device, fit, 2.0 * (part.q + part.kv) * row)
        activation = elementwise_ns(device, fit, float(moved * part.ffn) * row)
        reduce = all_reduce_ns(device, fit, self._tp, float(h * row))
        layer = gemms + 2.0 * norm + rotation * (2 if model.qk_norm else 1) + activation + 2.0 * reduce
        embed = elementwise_ns(device, fit, 2.0 * h * row) + reduce + norm
        self._by_tokens[tokens] = max(1.0, self._host_ns + model.layers * layer + embed)
        return self._by_tokens[tokens]

    def _head(self, emitting: int) -> float:
        """The vocabulary's matrix for the sequences that emit a token in this step; remembered."""
        time = 0.0
        if emitting:
            logits = float(emitting * self._model.vocab * self._model.dtype_bytes)
            time = self._gemm(emitting, self._part.vocab, self._model.hidden)
            time += all_gather_ns(self._device, self._efficiency, self._tp, logits)
        self._by_emitting[emitting] = time
        return time
