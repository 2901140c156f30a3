"""Ten minutes at 80 % of what a server can take, with clients that leave and a worker that is killed every minute.

    python bench/soak.py [--minutes 10] [--modelled] [--model FOLDER|FILE.gguf] [--seed 0]

Every answer has been asked for alone before the load, greedy or drawn by a seed of its own, and must come again to the letter:
in float32, where what runs beside it cannot change it. (Modelled answers hang on their request's number: of them the count of
tokens is held.) An answer that breaks off must say so and be the beginning of the right one. At rest, which comes after the
first minute and at the end, nothing may be left of all that: no block, descriptor, thread, task or process, and no
memory. Then Ctrl-C and, in a second run, kill -9 of the gateway must leave nothing behind. Exits with 1 if any of it fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from server import Server, alive, children, descriptors, family, memory_mib, request, threads

from phasewise.control.replay import replay
from phasewise.core.action import Ended, Outcome, Run
from phasewise.core.event import Arrived, Killed
from phasewise.record.roomlog import read_segment
from phasewise.record.runlog import RunLog

SHARE = 0.8
LEAVE = 0.15
KV_GIB = 0.1
"""So little that nearly every page has been written, and so is resident, within a minute: what grows after that has leaked."""

GROWN_MIB = 24.0
"""What memory at rest may grow by from the first minute to the last: an allocator's whims."""

TELLS_TASKS = """
import asyncio, signal, sys
def tell(*_):
    print('{"tasks": %d}' % len(asyncio.all_tasks(asyncio.get_running_loop())), file=sys.stderr, flush=True)
signal.signal(signal.SIGUSR1, tell)
from phasewise.cli.entry import main
sys.argv[0] = "phasewise"
main()
"""
"""The command, in a process that says on a signal how many tasks its event loop has."""

MODELLED = """
model: meta-llama/Llama-3.1-8B
replicas: [{{device: h100}}]
batcher: {{name: vllm-v1, token_budget: 2048, max_seqs: 64}}
latency: {latency}
"""
LATENCY = """
kind: linear
source: a small model on a small machine
prefill: {step_us: 2000, token_us: 100}
decode: {step_us: 10000, sequence_us: 300}
"""
QUESTIONS = (
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain why the sky is blue to a child.",
    "List five fruits.",
    "Translate 'good morning' into Spanish and use it in a sentence.",
    "Who wrote Hamlet, and when?",
    "Count from one to twenty in words.",
    "Describe a market on a rainy day. " * 12,
    "What does a compiler do? " * 30,
    "Tell me a story about a fox and a lighthouse.",
)


@dataclass(frozen=True)
class Question:
    """What a client asks; `body` without `stream`."""

    body: dict[str, Any]
    tokens: int


@dataclass
class Answer:
    """What came: `end` is the finish reason, `error` the code of what the server said was wrong, both None: it was cut off."""

    text: str = ""
    end: str | None = None
    error: str | None = None
    tokens: int | None = None
    done: bool = False
    left: bool = False


async def ask(port: int, question: Question, stream: bool, leave_s: float | None = None) -> Answer:
    """Ask on a connection of its own, and hang up after `leave_s`."""
    answer = Answer()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(leave_s):
            body = question.body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})
            writer.write(request("/v1/chat/completions", body))
            async for line in reader:
                if line.startswith(b"data: [DONE]"):
                    answer.done = True
                elif line.startswith((b"data: {", b"{")):
                    _heed(answer, json.loads(line.removeprefix(b"data: ")))
    except TimeoutError:
        answer.left = True
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()
    return answer


def _heed(answer: Answer, said: dict[str, Any]) -> None:
    """Take what an event, or a whole answer, says."""
    if "error" in said:
        answer.error = said["error"]["code"] or said["error"]["type"]
    for choice in said.get("choices", ()):
        part = choice.get("delta") or choice.get("message") or {}
        answer.text += part.get("content") or ""
        answer.end = choice["finish_reason"] or answer.end
        answer.done = answer.done or "message" in choice
    if said.get("usage"):
        answer.tokens = said["usage"]["completion_tokens"]


class Judge:
    """Holds answers against those that came alone."""

    def __init__(self, modelled: bool) -> None:
        self._modelled = modelled
        self.right: dict[int, Answer] = {}
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def judge(self, k: int, question: Question, answer: Answer) -> None:
        right, said = self.right[k], answer.text
        if answer.left:
            self._count("left", self._modelled or right.text.startswith(said), k, answer)
        elif answer.error is not None:
            self._count(f"error {answer.error}", self._modelled or right.text.startswith(said), k, answer)
        elif not answer.done or answer.end is None:
            self._count("cut off without a word", False, k, answer)
        else:
            good = answer.tokens == question.tokens if self._modelled else (said, answer.end) == (right.text, right.end)
            self._count("whole", good, k, answer)

    def _count(self, how: str, good: bool, k: int, answer: Answer) -> None:
        self.counts[how] += 1
        if not good:
            self.wrong.append(f"question {k}, {how}: {answer} instead of {self.right[k]}")


@dataclass(frozen=True)
class Rest:
    """The server with nobody inside."""

    metrics: dict[str, float]
    fds: int
    threads: int
    tasks: int
    processes: int
    gateway_mib: float
    worker_mib: float


@dataclass
class Report:
    """The rows of the table."""

    rows: list[tuple[str, str, bool]] = field(default_factory=list)

    def add(self, what: str, found: object, good: bool) -> None:
        self.rows.append((what, str(found), good))

    @property
    def good(self) -> bool:
        return all(good for *_, good in self.rows)

    def show(self, title: str) -> None:
        table = Table(title=title)
        for heading in ("check", "found", ""):
            table.add_column(heading)
        for what, found, good in self.rows:
            table.add_row(what, found, "ok" if good else "FAILED")
        Console(width=140).print(table)


def questions(model: str, modelled: bool) -> list[Question]:
    """Half of them greedy, half drawn."""
    out = []
    for k, text in enumerate(QUESTIONS * 2):
        tokens = 24 + 8 * (k % 5)
        how = {"temperature": 0} if k < len(QUESTIONS) else {"temperature": 0.8, "top_p": 0.95, "seed": k}
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens} | how
        out.append(Question(body | ({"ignore_eos": True} if modelled else {}), tokens))
    return out


def start(folder: Path, options: argparse.Namespace, log: Path) -> tuple[Server, str]:
    """A server whose temporary files lie in `folder`/tmp, and its model's name."""
    (folder / "tmp").mkdir(exist_ok=True)
    arguments = ["--port", "0", "--log", str(log), "--dtype", "float32", "--kv-gib", str(KV_GIB)]
    if options.modelled:
        (latency := folder / "latency.yaml").write_text(LATENCY)
        (deployment := folder / "deployment.yaml").write_text(MODELLED.format(latency=latency))
        arguments += [str(deployment), "--modelled"]
    elif options.model:
        arguments += ["--model", options.model]
    server = Server(["-c", TELLS_TASKS, "serve", *arguments], {"TMPDIR": str(folder / "tmp")}, session=True)
    server.wait()
    return server, json.loads(asyncio.run(get(server.port, "/v1/models")))["data"][0]["id"]


async def get(port: int, path: str) -> str:
    """The body of an answer to GET."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(path))
    whole = await reader.read()
    writer.close()
    return whole.partition(b"\r\n\r\n")[2].decode()


async def metrics(port: int) -> dict[str, float]:
    """Gauges and counters by name, summed over their labels."""
    out: Counter[str] = Counter()
    for name, value in re.findall(r"^([\w:]+)(?:\{.*\})? (\S+)$", await get(port, "/metrics"), re.M):
        out[name] += float(value)
    return dict(out)


async def rest(server: Server) -> Rest:
    """Wait until nobody is inside, and look. The tasks are what there is beside those of our own connections."""
    for _ in range(600):
        found = await metrics(server.port)
        if not found["vllm:num_requests_running"] + found["vllm:num_requests_waiting"] and children(server.pid):
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)  # for connections to be closed
    found, said = await metrics(server.port), len(server.said("tasks"))
    await asyncio.sleep(0.2)
    os.kill(server.pid, signal.SIGUSR1)
    while len(server.said("tasks")) == said:
        await asyncio.sleep(0.05)
    (worker,) = children(server.pid) or [0]
    return Rest(
        found,
        descriptors(server.pid),
        threads(server.pid),
        server.said("tasks")[-1]["tasks"],
        len(family(server.pid)),
        memory_mib(server.pid)[0],
        memory_mib(worker)[0],
    )


async def load(
    port: int, asked: list[Question], judge: Judge, rate: float, seconds: float, draw: random.Random
) -> None:
    """Clients that come by chance, `rate` a second; returns when the last is answered."""
    clients: set[asyncio.Task[None]] = set()

    async def client(k: int) -> None:
        leave_s = draw.uniform(0.0, 1.5) if draw.random() < LEAVE else None
        judge.judge(k, asked[k], await ask(port, asked[k], draw.random() < 0.6, leave_s))

    until = time.monotonic() + seconds
    while (now := time.monotonic()) < until:
        task = asyncio.create_task(client(draw.randrange(len(asked))))
        clients.add(task)
        task.add_done_callback(clients.discard)
        await asyncio.sleep(min(draw.expovariate(rate), until - now))
    await asyncio.gather(*clients)


async def capacity(port: int, asked: list[Question], seconds: float, clients: int = 24) -> float:
    """Requests a second that `clients` get who ask again as soon as they are answered, after as long to warm up."""
    answered: list[float] = []
    begun = time.monotonic()

    async def client(k: int) -> None:
        while time.monotonic() - begun < 2 * seconds:
            await ask(port, asked[k % len(asked)], True)
            answered.append(time.monotonic() - begun)
            k += 1

    await asyncio.gather(*(client(k) for k in range(clients)))
    return sum(seconds <= at < 2 * seconds for at in answered) / seconds


async def kills(server: Server, every_s: float, draw: random.Random) -> list[float]:
    """Kill the worker once in every so many seconds, until cancelled; how long it took each time to have another serve."""
    took: list[float] = []
    try:
        while True:
            at = draw.uniform(0.2, 0.8) * every_s
            await asyncio.sleep(at)
            (worker,) = children(server.pid)
            os.kill(worker, signal.SIGKILL)
            begun = time.monotonic()
            while '"ready"' not in await get(server.port, "/ready") or children(server.pid) in ([worker], []):
                await asyncio.sleep(0.05)
            took.append(time.monotonic() - begun)
            await asyncio.sleep(max(0.0, every_s - at - took[-1]))
    except asyncio.CancelledError:
        return took


async def soak(server: Server, model: str, options: argparse.Namespace, report: Report) -> None:
    """The load, and what is to be seen from outside while the server lives."""
    asked, judge, draw = questions(model, options.modelled), Judge(options.modelled), random.Random(options.seed)
    for k, question in enumerate(asked):
        judge.right[k] = await ask(server.port, question, stream=True)
    rate = SHARE * await capacity(server.port, asked, options.probe_s)
    print(f"load: {rate:.1f} requests/s", file=sys.stderr, flush=True)
    took: list[float] = []
    rests: list[Rest] = []
    for minutes in (1.0, options.minutes - 1.0):
        killer = asyncio.create_task(kills(server, 60.0, draw))
        await load(server.port, asked, judge, rate, 60.0 * minutes, draw)
        killer.cancel()
        took += await killer
        rests.append(await rest(server))
    first, last = rests
    counts = ", ".join(f"{n} {how}" for how, n in judge.counts.most_common())
    report.add("answers", f"{judge.counts.total()} at {rate:.1f}/s: {counts}", judge.counts["whole"] > 0)
    whole = sum(right.done and right.end is not None and right.tokens is not None for right in judge.right.values())
    report.add("questions answered alone", f"{whole} of {len(asked)}", whole == len(asked))
    report.add("wrong or cut off without a word", "; ".join(judge.wrong[:3]) or 0, not judge.wrong)
    back = f"{statistics.median(took):.1f} s at the median, {max(took):.1f} at most" if took else "never"
    report.add("workers killed", f"{len(took)}; another served after {back}", bool(took))
    kv = last.metrics["vllm:kv_cache_usage_perc"]
    report.add("blocks held at rest", f"{kv:.2%}", kv == 0)
    for what in ("fds", "threads", "tasks", "processes"):
        was, now = getattr(first, what), getattr(last, what)
        report.add(f"{what} at rest, first minute and last", f"{was}, {now}", now <= was)
    for what in ("gateway", "worker"):
        was, now = getattr(first, f"{what}_mib"), getattr(last, f"{what}_mib")
        report.add(f"{what} MiB at rest, first minute and last", f"{was:.0f}, {now:.0f}", now - was <= GROWN_MIB)


def gone(pids: list[int], within_s: float) -> list[int]:
    """Those that are still there after so long."""
    until = time.monotonic() + within_s
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def end(server: Server, folder: Path, number: int, kill: Callable[[int, int], None], what: str, report: Report) -> None:
    """A signal to the gateway's process (or to all of its group), and what is left of it all."""
    pids = family(server.pid)
    kill(server.pid, number)
    code = server.process.wait(60)
    left = gone(pids, 5.0)
    report.add(f"{what}: processes left", f"{len(left)} of {len(pids)}, status {code}", not left)
    files = os.listdir(folder / "tmp")
    report.add(f"{what}: temporary files left", ", ".join(files) or 0, not files)


def logged(path: Path, report: Report) -> None:
    """What the run log says: every request is over, and each room decides as it did."""
    log = RunLog.read(path)
    came: Counter[str] = Counter()
    inside: set[int] = set()
    for number, segment in log.segments():
        for _, event, actions in read_segment(segment):
            came["kills"] += isinstance(event, Killed)
            if number == 0 and isinstance(event, Arrived):
                came["requests"] += 1
                inside.add(event.request.id)
            for action in actions:
                came["preemptions"] += len(action.plan.preempt) if isinstance(action, Run) else 0
                if isinstance(action, Ended):
                    inside.discard(action.request)
                    came[Outcome(action.outcome).name.lower()] += 1
    report.add("log: requests still inside", f"{len(inside)} of {dict(came)}", not inside)
    report.add("log: events replayed", replay(log), True)


async def crowd(port: int, asked: list[Question]) -> list[Answer]:
    return await asyncio.gather(*(ask(port, question, True, 30.0) for question in asked))


def orphans(folder: Path, options: argparse.Namespace, report: Report) -> None:
    """kill -9 of the gateway in the middle of answers, and a start after it."""
    log = folder / "second.log"
    server, model = start(folder, options, log)
    asked = questions(model, options.modelled)

    async def killed() -> list[Answer]:
        answers = asyncio.create_task(crowd(server.port, asked))
        await asyncio.sleep(0.7)
        end(server, folder, signal.SIGKILL, os.kill, "kill -9 of the gateway", report)
        return await answers

    answers = asyncio.run(killed())
    report.add("kill -9 of the gateway: answers that it broke off", sum(not a.done for a in answers), True)
    server, _ = start(folder, options, log)
    end(server, folder, signal.SIGTERM, os.kill, "SIGTERM after it", report)
    report.add("the log of the run cut short is kept", [p.name for p in sorted(folder.glob("second*"))], True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--modelled", action="store_true")
    parser.add_argument("--model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probe-s", type=float, default=10.0, help="Seconds that the capacity is measured for.")
    options = parser.parse_args()
    report, busy = Report(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "soak.log"
        server, model = start(folder, options, log)
        try:
            asyncio.run(soak(server, model, options, report))
            end(server, folder, signal.SIGINT, os.killpg, "Ctrl-C", report)
            logged(log, report)
            orphans(folder, options, report)
        finally:
            server.process.kill()
    report.show(f"{model}{', modelled' if options.modelled else ''}; load {busy:.1f} before")
    sys.exit(not report.good)


if __name__ == "__main__":
    main()
