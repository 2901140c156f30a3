"""From the command to the first answer, and the memory that it takes: `phasewise serve` with the built-in model.

    python bench/start.py [--runs 5] [--dtype bfloat16]

`warm` has the unpacked weights and the compiled kernels in its cache, `first` an empty cache. Then where a warm start goes,
one thing after the other in a fresh process, as the gateway and its worker do it. Resident memory is of the two processes
together, with what they share counted once: after the first answer, and once in each kind of start when the keys and values
have nearly all been written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.table import Table
from server import Server, family, memory_mib, request

MARKS_S = {"warm": 5.0, "first": 10.0}
MARK_MIB = 1.5e9 / 2**20
PARTS = """
import time
names, spans, last = [], [], time.perf_counter()
def over(name):
    global last
    now = time.perf_counter()
    names.append(name), spans.append(now - last)
    last = now
import phasewise.cli.entry
import phasewise.cli.serve
over("gateway: its modules")
import sys
from phasewise.build import served
served(None)
over("gateway: model found, tokenizer read")
import torch
over("worker: torch")
import phasewise.engine.factory, phasewise.engine.decoder, phasewise.engine.executor, phasewise.engine.grammar
import phasewise.engine.voice, phasewise.engine.weights
over("worker: the engine's modules")
from phasewise.engine.builtin import resolve_model
folder = resolve_model(None)
last = time.perf_counter()
torch.set_num_threads(2)
dtype = getattr(torch, sys.argv[1])
shape, tensors = phasewise.engine.weights.load(folder, dtype)
over("worker: weights mapped")
decoder = phasewise.engine.decoder.Decoder(shape, tensors, dtype, 16, 1400)
over("worker: weights packed")
from phasewise.engine.batch import Rows
decoder.step([Rows(list(range(100, 134)), 0, range(3), True)])
decoder.step([Rows([7], 34, range(3), True)])
over("worker: first prompt and token")
import json
print(json.dumps(dict(zip(names, spans))))
"""
FIRST = """
import json, sys, time
import torch
from phasewise.engine.builtin import resolve_model
from phasewise.engine.compiled import kernels
begun = time.perf_counter()
resolve_model(None)
unpacked = time.perf_counter()
kernels(getattr(torch, sys.argv[1]))
print(json.dumps({"first start: weights unpacked": unpacked - begun, "kernels compiled": time.perf_counter() - unpacked}))
"""


def ask(port: int, prompt: str, tokens: int, times: int = 1) -> str:
    """The last of so many answers to the same question, asked together."""

    async def one(k: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = {"messages": [{"role": "user", "content": f"{k} {prompt}"}], "max_tokens": tokens, "temperature": 0}
        writer.write(request("/v1/chat/completions", body))
        whole = await reader.read()
        writer.close()
        return whole

    async def together() -> list[bytes]:
        return await asyncio.gather(*map(one, range(times)))

    *_, last = asyncio.run(together())
    return str(json.loads(last.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"])


def started(dtype: str, cache: str | None, fill: bool) -> list[float]:
    """Seconds until it serves and has answered, and MiB after that of the gateway, the worker and both; with `fill`, once more
    after much work."""
    server = Server(
        ["-m", "phasewise", "serve", "--port", "0", "--dtype", dtype], {"XDG_CACHE_HOME": cache} if cache else None
    )
    try:
        server.wait()
        served_s = time.perf_counter() - server.begun_s
        assert ask(server.port, "What is the capital of France?", 8)
        answered_s = time.perf_counter() - server.begun_s
        rested = [memory_mib(pid)[1] for pid in family(server.pid)]
        if fill:
            ask(server.port, "word " * 1200, 8, 20)
        worked = [memory_mib(pid)[1] for pid in family(server.pid)] if fill else []
    finally:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)
    return [served_s, answered_s, *rested, sum(rested), *worked, *([sum(worked)] if fill else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    busy = os.getloadavg()[0]
    table = Table(title=f"{options.dtype}, medians of {options.runs}; load {busy:.1f} before")
    headings = (
        "start",
        "serves s",
        "answers s",
        "mark",
        "gateway MiB",
        "worker",
        "both",
        "gateway, filled",
        "worker",
        "both",
    )
    for heading in (*headings, "mark"):
        table.add_column(heading, justify="right")
    started(options.dtype, None, False)
    for what, mark_s in MARKS_S.items():
        runs = []
        for k in range(options.runs):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(started(options.dtype, folder if what == "first" else None, k == 0))
        served_s, answered_s, *mib = map(statistics.median, zip(*runs, strict=False))
        mib += runs[0][len(mib) + 2 :]
        sizes = (f"{each:,.0f}" for each in mib)
        table.add_row(what, f"{served_s:.2f}", f"{answered_s:.2f}", f"{mark_s:g}", *sizes, f"{MARK_MIB:,.0f}")
    Console(width=150).print(table)
    table = Table(title="part by part")
    table.add_column("part")
    table.add_column("s", justify="right")
    for script in (PARTS, FIRST):
        runs_of = [_parts(script, options.dtype) for _ in range(options.runs)]
        for part in runs_of[0]:
            table.add_row(part, f"{statistics.median(each[part] for each in runs_of):.2f}")
    Console(width=150).print(table)


def _parts(script: str, dtype: str) -> dict[str, float]:
    """Seconds by part, of one fresh process; with an empty cache for what only a first start does."""
    with tempfile.TemporaryDirectory() as folder:
        cache = {"XDG_CACHE_HOME": folder} if script is FIRST else {}
        command, env = [sys.executable, "-c", script, dtype], os.environ | cache
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
