"""The Llama family's decoder: one forward pass over prompt chunks and decodes together, keys and values in pages.

One implementation, its `Shape` the parameters: Llama, Mistral, Qwen2, Qwen3, SmolLM2, Mixtral, Qwen3-MoE. Linear work is
done on all tokens of a step side by side, attention chunk by chunk and for all decodes at once, logits only of rows that
emit. It knows nothing of requests, of sampling, or of whose pages it is given.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence

import torch

from phasewise.engine.attention import Attention, TorchAttention
from phasewise.engine.batch import Batch, Rows
from phasewise.engine.cache import PagedCache
from phasewise.engine.compiled import CompiledAttention, CompiledPointwise, NoKernels, kernels
from phasewise.engine.layers import Building, Layer
from phasewise.engine.pointwise import Pointwise, TorchPointwise
from phasewise.engine.rope import tables
from phasewise.engine.shape import Shape

__all__ = ["Decoder", "Hooks", "Rows"]


FEW = 16
"""Tokens of a step below which one thread is fastest: to wake another one, for each of hundreds of products, takes longer."""


class Hooks:
    """What a step may be watched by: set or override what you want to see, the rest costs nothing.

    `hidden(layer, states)`: the residual stream after a layer; `final(states)`: after the last norm; both [rows that emit,
    hidden], in the order of the rows. `router(layer, logits, experts, weights)`: of every token of the step, those of chunks
    first.
    """

    hidden: Callable[[int, torch.Tensor], None] | None = None
    final: Callable[[torch.Tensor], None] | None = None
    router: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None


class Decoder:
    """A model's weights and its cache of `pages` pages; `step` is all that it does.

    `tensors` (Hugging Face's canonical names, experts stacked) is emptied: a weight is held packed or plain, not both. `packed`
    and `compiled` ask for packed weights and compiled kernels or refuse them; by default they are used where they can be, and
    `without` says why there are no kernels (None: there are). With `threads` each step runs on as many as do it good, these at
    most (None: on as many as torch is set to).
    """

    def __init__(
        self,
        shape: Shape,
        tensors: MutableMapping[str, torch.Tensor],
        dtype: torch.dtype = torch.bfloat16,
        block_tokens: int = 16,
        pages: int = 1024,
        hooks: Hooks | None = None,
        packed: bool | None = None,
        compiled: bool | None = None,
        threads: int | None = None,
    ) -> None:
        self.shape, self.hooks, self._threads = shape, hooks or Hooks(), threads
        self.cache = PagedCache(shape.layers, shape.kv_heads, shape.head_dim, pages, block_tokens, dtype)
        self.context = min(shape.max_context, pages * block_tokens)
        cos, sin = tables(shape.rope, shape.head_dim, self.context)
        self.attention: Attention = TorchAttention(self.cache, shape.heads, cos, sin)
        self.pointwise: Pointwise = TorchPointwise()
        self.without: str | None = "they are not wanted" if compiled is False else None
        if compiled is not False:
            try:
                made = kernels(dtype)
                self.attention = CompiledAttention(made, self.cache, shape.heads, cos, sin)
                self.pointwise = CompiledPointwise(made)
            except NoKernels as e:
                if compiled:
                    raise
                self.without = str(e)
        building = Building(shape, tensors, dtype, self.pointwise, packed, self.hooks.router)
        with torch.inference_mode():
            self.embedding, self.layers, self.norm, self.head = building.build()

    @torch.inference_mode()
    def step(self, rows: Sequence[Rows]) -> torch.Tensor:
        """One forward pass: float32 logits [rows that emit, vocab], in the order of the rows.

        PlanError for rows that it cannot run; then nothing has been written.
        """
        batch = Batch(rows, self.cache.block_tokens, self.cache.pages, self.context, self.shape.vocab)
        if self._threads is not None:
            torch.set_num_threads(self._threads if len(batch.tokens) >= FEW else 1)
        norm, eps, watch = self.pointwise.norm, self.shape.eps, self.hooks.hidden
        # In float32 all the way: rounded to bfloat16 at every layer it would be the largest error of all.
        x = self.embedding.index_select(0, batch.tokens).float()
        change: torch.Tensor | None = None
        for index, layer in enumerate(self.layers):
            states = norm(x, change, layer.first_norm, eps)
            if watch is not None and index:
                watch(index - 1, x[batch.emitting])
            mixed = layer.out(self._attend(index, layer, layer.qkv(states), batch))
            change = layer.network(norm(x, mixed, layer.second_norm, eps))
        assert change is not None
        x, change = x.index_select(0, batch.emitting), change.index_select(0, batch.emitting)
        states = norm(x, change, self.norm, eps)
        if watch is not None:
            watch(len(self.layers) - 1, x)
        if self.hooks.final is not None:
            self.hooks.final(states)
        return self.head(states).float() if len(states) else states.new_empty(0, self.shape.vocab, dtype=torch.float32)

    def _attend(self, index: int, layer: Layer, qkv: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Attention of all tokens of the batch; [tokens, heads * head_dim]."""
        attention, window = self.attention, layer.window
        heads = qkv.view(len(qkv), -1, self.shape.head_dim)
        attention.write(index, heads, batch, layer.head_norms)
        if not batch.chunks:
            return attention.decode(index, heads, batch, window)
        parts = [
            attention.prompt(index, heads[chunk.first : chunk.first + chunk.length], chunk, window)
            for chunk in batch.chunks
        ]
        if batch.lengths:
            parts.append(attention.decode(index, heads[batch.prompt_tokens :], batch, window))
        return torch.cat(parts) if len(parts) > 1 else parts[0]
