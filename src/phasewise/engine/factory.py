"""What brings a real model into the process that it will run in. Nothing heavy is imported before that."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phasewise.control.ports import Place

if TYPE_CHECKING:
    from phasewise.engine.executor import TorchExecutor


@dataclass(frozen=True)
class Torch:
    """The model of a `folder`, computed in `dtype` on so many `threads`; a `control.ports.EngineFactory`."""

    folder: Path
    dtype: str = "bfloat16"
    threads: int = 2

    def __call__(self, place: Place) -> TorchExecutor:
        # Threads that wait for work would spin, and take the processor from the gateway's process.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", "0")
        import torch

        from phasewise.engine.decoder import Decoder
        from phasewise.engine.executor import TorchExecutor
        from phasewise.engine.grammar import Grammars
        from phasewise.engine.text import Tokenizer
        from phasewise.engine.voice import Voices
        from phasewise.engine.weights import load

        torch.set_num_threads(self.threads)
        spec = place.resolved.replicas[place.replica]
        dtype = getattr(torch, self.dtype)
        shape, tensors = load(self.folder, dtype)
        size = place.resolved.deployment.block_tokens
        model = Decoder(shape, tensors, dtype, size, spec.blocks, threads=self.threads)
        grammars = Grammars(self.folder, shape.vocab, shape.end_ids)
        return TorchExecutor(model, Voices(Tokenizer(self.folder), shape.end_ids, grammars.compile), place)
