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
steps is exactly affine. (It is memory, unless many heads share a key and arithmetic is scarce: Falcon on H20.) A step
with chunks and decodes pays one attention launch, the longer: one kernel takes the whole batch. `operators` has the rest.

What families add. Experts: router, chosen experts (as expected with even routing), shared experts, in place of gate, up
and down. Latent attention: two more products; a decode reads the latent vector once for all heads and works in its width
(weights absorbed), a prompt chunk expands it to keys and values, those of its cached tokens anew. One input for attention
and feed-forward: one all-reduce a layer. Windows and latent prompts bend the lines: `attention` says where.
"""

from __future__ import annotations

from collections.abc import Sequence

from phasewise.core.errors import InputError
from phasewise.core.model import ModelSpec
from phasewise.core.spec import DeviceSpec
from phasewise.core.step import ALL, Chunk, Piece, moved_on
from phasewise.core.units import NS_PER_S
from phasewise.perf.attention import BentAttention, Layers
from phasewise.perf.efficiency import Efficiency
from phasewise.perf.layer import LayerTimes
from phasewise.perf.operators import byte_ns, flop_ns
from phasewise.perf.shard import shard


class Roofline:
    """Step times of `model` on `tp` devices; a `LatencyModel`.

    `host_s` is the time of a step outside the device, seconds (None: the efficiency's default); `tile` rounds the
    rows of matrix products up to whole tiles (0: no rounding). Of a part of a model (see `pipeline`), the embedding is with
    the `first` layers, the last norm and the head with the `last` ones. Raises InputError for a `tp` that does not split the
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
        first: bool = True,
        last: bool = True,
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
        self._layers = LayerTimes(model, device, tp, efficiency, host * NS_PER_S, tile, first, last)
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
        if self._bent is not None:
            return self._bent_pieces(self._bent, chunks, decodes, context, steps)
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

    def _bent_pieces(
        self, bent: BentAttention, chunks: Sequence[Chunk], decodes: int, context: int, steps: int
    ) -> tuple[Piece, ...]:
        """As `pieces`, for attention that is affine only between the cuts."""
        cuts = bent.cuts(chunks, decodes, context, steps)
        found = []
        for begin, end in zip(cuts, [*cuts[1:], steps], strict=True):
            first = self._bent_step(bent, chunks, decodes, context, begin)
            last = self._bent_step(bent, chunks, decodes, context, end - 1) if end - begin > 1 else first
            found.append((first, (last - first) / max(1, end - begin - 1), end - begin))
        return tuple(found)

    def _bent_step(self, bent: BentAttention, chunks: Sequence[Chunk], decodes: int, context: int, step: int) -> float:
        """Nanoseconds of step `step` (from 0) of identical iterations."""
        prompt, emitting, time = 0, decodes, 0.0
        for chunk in chunks:
            time += bent.chunk_ns(chunk.start + step * chunk.tokens, chunk.tokens)
            prompt += chunk.tokens
            emitting += chunk.joins is not None
        time += self._token_ns * prompt
        if decodes:
            time += self._head_ns * decodes + bent.decode_ns(decodes, context + step * decodes)
        launch = self._chunk_launch_ns if chunks else self._decode_launch_ns
        if chunks and decodes:
            launch = self._mixed_launch_ns
        tokens = prompt + decodes
        linear = self._by_tokens.get(tokens) or self._linear(tokens)
        head = self._by_emitting.get(emitting)
        return linear + (self._head(emitting) if head is None else head) + time + launch

    def prefill_ns(self, tokens: int) -> float:
        """Nanoseconds of one step that runs a whole prompt of `tokens` tokens on an idle replica."""
        return self.pieces((Chunk(0, 0, tokens, tokens, ALL),), 0, 0, 1)[0][0]

    def decode_line(self) -> tuple[float, float]:
        """One decode alone: nanoseconds with no context, and nanoseconds more per token of context.

        With windows it is the line beyond the widest, drawn back to no context: too long within the window.
        """
        if self._bent is not None and self._model.window is not None:
            fixed, slope = self._bent.line()
            return self._linear(1) + self._head(1) + self._decode_launch_ns + self._head_ns + fixed, slope
        return self.pieces((), 1, 0, 1)[0][0], self._context_ns

    def _attention(self) -> None:
        """Set the constants of attention, nanoseconds over all layers."""
        model, part, device, fit = self._model, self._part, self._device, self._efficiency
        layers, bytes_ = model.layers, model.kv_dtype_bytes
        flop, byte = flop_ns(device, fit.attention_compute), byte_ns(device, fit.attention_bandwidth)
        cached = 0.0
        if model.latent is None:
            flops_per_pair = 4.0 * part.q * flop
            read = 2.0 * part.kv * bytes_ * byte
            context = max(flops_per_pair, read)
            token_bytes = 2.0 * (part.q + part.kv) * bytes_
        else:
            latent, heads = model.latent, part.q_heads
            wide = heads * (model.head_dim + latent.value)
            flops_per_pair = 2.0 * wide * flop
            read = float(wide * model.dtype_bytes) * byte
            context = max(2.0 * heads * (latent.width + latent.kv_rank) * flop, latent.width * bytes_ * byte)
            token_bytes = 2.0 * wide * model.dtype_bytes
            expanded = latent.kv_rank * heads * (latent.nope + latent.value)
            cached = 2.0 * expanded * flop_ns(device, fit.gemm_compute) + read
        # Twice the pairs are q * (2c + q + 1), a whole number: the half sits in the constant.
        self._pair_ns = 0.5 * layers * flops_per_pair
        self._read_ns = layers * read
        self._context_ns = layers * context
        self._token_ns = layers * token_bytes * byte_ns(device, fit.attention_token_bandwidth)
        self._chunk_launch_ns = layers * fit.attention_chunk_launch_us * 1e3
        self._decode_launch_ns = layers * fit.attention_decode_launch_us * 1e3
        self._mixed_launch_ns = max(self._chunk_launch_ns, self._decode_launch_ns)
        self._head_ns = layers * part.q_heads * fit.attention_head_us * 1e3
        self._decode_ns = self._head_ns + self._context_ns
        self._bent: BentAttention | None = None
        if model.window or model.latent:
            within = model.window.layers if model.window else 0
            groups = [Layers(layers - within, None), Layers(within, model.window.tokens if model.window else None)]
            self._bent = BentAttention(groups, flops_per_pair, read, context, cached)

    def _decode_step(self, decodes: int) -> tuple[float, float]:
        """First step without context, and growth per step, of `decodes` decodes; remembered."""
        first = self._linear(decodes) + self._head(decodes) + self._decode_launch_ns + self._decode_ns * decodes
        self._by_decodes[decodes] = first, self._context_ns * decodes
        return self._by_decodes[decodes]

    def _linear(self, tokens: int) -> float:
        self._by_tokens[tokens] = self._layers.linear_ns(tokens)
        return self._by_tokens[tokens]

    def _head(self, emitting: int) -> float:
        self._by_emitting[emitting] = self._layers.head_ns(emitting)
        return self._by_emitting[emitting]
