"""How fast the engine's decoder is: decode and prompt tokens a second of a random model of SmolLM2-135M's shape.

    python bench/engine.py [--threads 2] [--context 256] [--steps 60] [--profile 16] [--torch]

Every batch decodes from contexts of `--context` tokens on average, spread over half to three halves of it. The best and
the median step are given (other work on the machine makes steps longer, never shorter), and the CPU time of the median,
which says something on a busy machine too if threads do not spin: set OMP_WAIT_POLICY=passive. `--profile` prints where a
batch's step goes, `--torch` does without compiled kernels.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

from phasewise.engine.decoder import Decoder, Rows
from phasewise.engine.shape import Rope, Shape

BLOCK = 16
SHAPE = Shape(
    family="llama",
    layers=30,
    hidden=576,
    heads=9,
    kv_heads=3,
    head_dim=64,
    ffn=1536,
    vocab=49152,
    max_context=8192,
    eps=1e-5,
    tied=True,
    rope=Rope(theta=100_000.0),
)


def weights(shape: Shape) -> dict[str, torch.Tensor]:
    """Random tensors of a plain model of this shape."""
    width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = {"model.embed_tokens.weight": (shape.vocab, shape.hidden), "model.norm.weight": (shape.hidden,)}
    for index in range(shape.layers):
        layer = {
            "self_attn.q_proj": (width, shape.hidden),
            "self_attn.k_proj": (kv_width, shape.hidden),
            "self_attn.v_proj": (kv_width, shape.hidden),
            "self_attn.o_proj": (shape.hidden, width),
            "mlp.gate_proj": (shape.ffn, shape.hidden),
            "mlp.up_proj": (shape.ffn, shape.hidden),
            "mlp.down_proj": (shape.hidden, shape.ffn),
            "input_layernorm": (shape.hidden,),
            "post_attention_layernorm": (shape.hidden,),
        }
        sizes |= {f"model.layers.{index}.{name}.weight": size for name, size in layer.items()}
    draw = torch.Generator().manual_seed(1)
    return {
        name: (torch.randn(size, generator=draw) * size[-1] ** -0.5 if len(size) > 1 else torch.ones(size)).bfloat16()
        for name, size in sizes.items()
    }


def timed(decoder: Decoder, runs: Sequence[Sequence[Sequence[Rows]]]) -> list[tuple[float, float]]:
    """Seconds of each run of steps but the first two, in which torch warms up, by the wall and of all threads' work."""
    spans = []
    for run in runs:
        begin, worked = time.perf_counter(), time.process_time()
        for rows in run:
            decoder.step(rows)
        spans.append((time.perf_counter() - begin, time.process_time() - worked))
    return spans[2:]


def decodes(count: int, context: int, steps: int) -> list[list[list[Rows]]]:
    """Runs of one step of `count` sequences whose contexts are spread evenly about the mean; their pages lie interleaved."""
    starts = [context * (2 * i + count) // (2 * count) for i in range(count)]

    def row(i: int, start: int) -> Rows:
        return Rows([7 * i + start], start, range(i, i + count * (start // BLOCK + 1), count), True)

    return [[[row(i, start + step) for i, start in enumerate(starts)]] for step in range(steps)]


def prompt(length: int, chunk: int) -> list[list[Rows]]:
    """The chunks of one prompt."""
    pages = range(-(-length // BLOCK))
    ends = range(chunk, length + chunk, chunk)
    return [[Rows(range(end - chunk, min(end, length)), end - chunk, pages, end >= length)] for end in ends]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--profile", type=int, default=0, metavar="BATCH")
    parser.add_argument("--torch", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    begin = time.perf_counter()
    decoder = Decoder(SHAPE, weights(SHAPE), pages=2048, compiled=not options.torch, threads=options.threads)
    built = time.perf_counter() - begin
    if options.profile:
        with torch.profiler.profile() as profile:
            timed(decoder, decodes(options.profile, options.context, 20))
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
        return
    table = Table(title=f"{type(decoder.attention).__name__}, {options.threads} threads, load {load:.1f} before")
    for column in ("what", "median ms", "best ms", "CPU ms", "tokens/s", "best"):
        table.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)

    def row(what: str, tokens: int, spans: list[tuple[float, float]]) -> None:
        walls, work = zip(*spans, strict=True)
        median, best = statistics.median(walls), min(walls)
        cpu = f"{statistics.median(work) * 1e3:.2f}"
        table.add_row(
            what, f"{median * 1e3:.2f}", f"{best * 1e3:.2f}", cpu, f"{tokens / median:,.0f}", f"{tokens / best:,.0f}"
        )

    for count in (1, 4, 16):
        row(
            f"decode, batch {count}, context {options.context}",
            count,
            timed(decoder, decodes(count, options.context, options.steps)),
        )
    row("decode, batch 16, context 1,024", 16, timed(decoder, decodes(16, 1024, options.steps)))
    for length, chunk in ((128, 128), (512, 512), (2048, 512)):
        row(f"prompt of {length} in chunks of {chunk}", length, timed(decoder, [prompt(length, chunk)] * 10))
    Console(width=110).print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"built in {built:.1f} s; {peak:,.0f} MiB resident at most, the random weights included")


if __name__ == "__main__":
    main()
