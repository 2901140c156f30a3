"""WAIT and Nested WAIT (arXiv 2504.11320): what is published beside what we measure. Under ten minutes on two cores.

    python bench/papers/wait.py [fit] [growth] [long] [decode] [losses] [nested]   (all without a name)
        [--requests-scale 1.0] [--seeds 2] [--jobs N] [--markdown]

Every table has greedy baselines as the paper sets them (512 in service; Sarathi-Serve with chunks of 512), the threshold
policies with 128 in service, and controls that the paper does not have: a baseline with the threshold policies' cap and no
waiting, so that what the cap does is not credited to the waiting. The longest wait is off, so a run ends with requests
inside: they are counted and not scored. Figures are means over seeds. The policies' grids are those of the authors up to
the cap of 128, with smaller limits added; the best of a grid is shown, which favours the threshold policies.

It does not know the authors' step times (their simulator's), nor how many requests most of their runs had.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table
from wait_arms import booking, cohort, fixed, greedy, grouped, larger_chunk, lmsys_like, nested, tokens, types, within
from wait_runs import CAP, SLOWER, Arm, Job, Result, averaged, best, cohort_fit, decode_fit, run

from phasewise.core.errors import InputError, unknown
from phasewise.planner.workers import Workers, cores
from phasewise.policy.batching.wait import Kind, cohort_tokens

LLAMA3, LLAMA2 = "meta-llama/Meta-Llama-3-8B", "meta-llama/Llama-2-7b-hf"  # the authors' scripts, the paper
TIGHT_TOKENS = 137_000  # what the authors' A100 leaves for KV
MIX = fixed("W3", (512, 20), (512, 50))
LONG, SHORT_PROMPT = fixed("long decode", (512, 1000)), fixed("short prompt, long decode", (128, 1000))
PD = fixed("decode only", (630, 20))
ONE = fixed("one type", (512, 20))
GROWTH, PUBLISHED_GROWTH = (2000, 20_000), 4.64  # requests; of Sarathi-Serve at 22 requests/s
PARTS = ("fit", "growth", "long", "decode", "losses", "nested")
COLUMNS = ("mean s", "P99 s", "TTFT s", "tokens/s", "restarts", "KV peak", "inside", "forced")


@dataclass
class Bench:
    """How to run: the processes, how many seeds, how much of each run's requests; where tables go."""

    workers: Workers
    seeds: int
    scale: float
    markdown: bool

    def measure(self, name: str, jobs: dict[tuple[str, ...], list[Job]]) -> dict[tuple[str, ...], Result]:
        """For each key the best of its jobs, each averaged over the seeds."""
        futures: dict[Future[Result], None] = {}
        asked: dict[tuple[str, ...], list[list[Future[Result]]]] = {}
        for key, alternatives in jobs.items():
            asked[key] = [[self._submit(job, seed, futures) for seed in range(self.seeds)] for job in alternatives]
        for done, _ in enumerate(as_completed(futures), start=1):
            if done % 20 == 0 or done == len(futures):
                print(f"{name}: {done} of {len(futures)} runs", file=sys.stderr, flush=True)
        return {key: best(averaged([f.result() for f in runs]) for runs in each) for key, each in asked.items()}

    def _submit(self, job: Job, seed: int, futures: dict[Future[Result], None]) -> Future[Result]:
        requests = max(20, round(job.requests * self.scale))
        future = self.workers.submit(run, replace(job, seed=seed, requests=requests))
        futures[future] = None
        if future.done() and len(futures) % 20 == 0:  # one job: it has run here
            print(f"{len(futures)} runs", file=sys.stderr, flush=True)
        return future

    def show(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if self.markdown:
            lines = [columns, ["---"] * len(columns), *rows]
            print(f"\n{title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines), flush=True)
            return
        table = Table(*columns, title=title)
        for row in rows:
            table.add_row(*row)
        Console(width=150).print(table)


def cells(r: Result, bound: float | None = None) -> list[str]:
    """A result under `COLUMNS`; the KV peak against `bound` (the paper's M), or else against the memory."""
    peak = f"{r.kv_peak:,.0f}" + (f" of M {bound:,.0f}" if bound else f" ({r.kv_peak / r.kv_tokens:.0%})")
    times = [f"{value:.3g}" for value in (r.mean_s, r.p99_s, r.ttft_s)]
    if not r.scored:
        times = ["not scored", "–", "–"]
    restarts = f"{r.restarts:.1f}" if 0 < r.restarts < 10 else f"{r.restarts:,.0f}"
    return [*times, f"{r.tokens_per_s:,.0f}", restarts, peak, f"{r.inside:.0f}", f"{r.forced:.0f}"]


def sweep(bench: Bench, title: str, rows: Iterator[tuple[str, Job, list[Arm]]]) -> dict[tuple[str, ...], Result]:
    """All arms on all workloads, a row each: the case, the arm with its setting, and `COLUMNS`."""
    jobs = {
        (case, label): [replace(job, arm=arm) for arm in alternatives]
        for case, job, arms in rows
        for label, alternatives in grouped(arms).items()
    }
    found = bench.measure(title, jobs)
    named = [[case, f"{label} {r.arm.setting}".strip(), *cells(r, tokens(r.arm))] for (case, label), r in found.items()]
    bench.show(title, ("requests/s", "batcher", *COLUMNS), named)
    return found


def part_fit(bench: Bench) -> None:
    rows = []
    for model in (LLAMA2, LLAMA3):
        for what, fit in (
            ("decode steps, up to 128", decode_fit(model)),
            ("cohort steps 512/20 + 512/50", cohort_fit(model, [(512, 20), (512, 50)])),
        ):
            numbers = (f"{fit.base_s * 1e3:.2f}", f"{fit.per_token_s * 1e6:.3f}", f"{fit.r2:.4f}", f"{fit.error:.1%}")
            rows.append([model, what, *numbers, "–" if math.isnan(fit.beyond) else f"{fit.beyond:.1%}"])
    rows.append(
        ["published, Llama-2-7B", "whole runs of 256/20, no unit", "276.11", "0.01152", "0.9957", "1.6%", "38.6%"]
    )
    bench.show("d0 + d1 M", ("model", "steps", "d0 ms", "d1 us", "R2", "error", "error beyond 128"), rows)


def part_growth(bench: Bench) -> None:
    """Mean latency with ten times the requests: flat below the boundary, rising above."""
    few, many = (str(n) for n in GROWTH)
    jobs: dict[tuple[str, ...], list[Job]] = {}
    for model in (LLAMA2, LLAMA3):
        fit = cohort_fit(model, [(512, 20), (512, 50)])
        boundary = 2 / (fit.per_token_s * cohort_tokens((Kind(p, o, 1.0), 1) for p, o in ((512, 20), (512, 50))))
        matched = matching(bench, model, boundary)
        for rate in sorted({22.0, matched, *(round(share * boundary, 1) for share in (0.9, 0.95))}):
            arms = [*greedy(), larger_chunk(), cohort(MIX, rate, fit.model), *booking(MIX, rate, (40, 60, 120))]
            said = f"{rate:g} ({rate / boundary:.2f}{', matched' if rate == matched else ''})"
            for arm in arms:
                for n in GROWTH:
                    key = (model, said, f"{arm.label} {arm.setting}".strip(), str(n))
                    jobs[key] = [Job(arm, MIX, rate, n, model)]
    found = bench.measure("growth", jobs)
    rows = []
    for *key, n in jobs:
        if n == few:
            less, more = found[(*key, few)], found[(*key, many)]
            told = [f"{less.mean_s:.3g}", f"{more.mean_s / less.mean_s - 1:+.0%}"] if less.scored else ["–", "–"]
            rows.append([*key, *told, *cells(more, tokens(more.arm))])
    columns = ("model", "requests/s (of the fluid boundary)", "batcher", f"mean s, {few}", "growth", *COLUMNS)
    bench.show(f"Growth test, 512/20 + 512/50: {few} to {many} requests", columns, rows)


def matching(bench: Bench, model: str, boundary: float) -> float:
    """The rate, to 1 %, at which our Sarathi-Serve grows as the published one does: where we stand at the paper's load."""
    low, high = 0.8 * boundary, boundary
    while high - low > 0.01 * boundary:
        rate = (low + high) / 2
        found = bench.measure(
            f"Sarathi-Serve at {rate:.1f}", {(str(n),): [Job(greedy()[0], MIX, rate, n, model)] for n in GROWTH}
        )
        few, many = (found[(str(n),)].mean_s for n in GROWTH)
        low, high = (low, rate) if many / few - 1 > PUBLISHED_GROWTH else (rate, high)
    return round((low + high) / 2, 1)


def part_long(bench: Bench) -> None:
    """Long decodes with our memory, with the authors', and if steps beyond the cap were slower."""
    for kv, physics in ((None, "roofline"), (TIGHT_TOKENS, "roofline"), (TIGHT_TOKENS, "slow beyond 128")):
        memory = "our memory" if kv is None else f"{kv:,} KV tokens"
        supposed = f", if steps beyond 128 took {SLOWER:g} times as long" if physics != "roofline" else ""

        def rows(kv: int | None = kv, physics: str = physics) -> Iterator[tuple[str, Job, list[Arm]]]:
            for rate in (0.5, 1.0, 2.0, 3.0, 3.5, 4.0, 5.0):
                arms = greedy() + booking(LONG, rate)
                if kv is not None:
                    arms += within(LONG, rate, kv)
                yield f"{rate:g}", Job(arms[0], LONG, rate, 2000, LLAMA3, kv, physics), arms

        sweep(bench, f"Long decode 512/1000, {LLAMA3}, {memory}{supposed}", rows())


def part_decode(bench: Bench) -> None:
    for physics in ("decode-only", "decode-only, slow beyond 128"):

        def rows(physics: str = physics) -> Iterator[tuple[str, Job, list[Arm]]]:
            fit = decode_fit(LLAMA3)
            for rate in (100.0, 200.0, 300.0, 400.0, 500.0):
                arms = [*greedy(decode_only=True), cohort(PD, rate, fit.model), *booking(PD, rate)]
                yield f"{rate:g}", Job(arms[0], PD, rate, 10_000, LLAMA3, None, physics), arms

        sweep(bench, f"Decode only 630/20, {LLAMA3}, {physics}", rows())


def part_losses(bench: Bench) -> None:
    def short() -> Iterator[tuple[str, Job, list[Arm]]]:
        for rate in (0.5, 1.0, 2.0, 3.0, 4.0, 5.0):
            arms = greedy() + booking(SHORT_PROMPT, rate)
            yield f"{rate:g}", Job(arms[0], SHORT_PROMPT, rate, 2000, LLAMA3), arms

    sweep(bench, f"It loses: 128/1000, {LLAMA3}", short())
    jobs: dict[tuple[str, ...], list[Job]] = {}
    for rate in (1.0, 2.0, 4.0):
        for n in (1, 2, 4, 8):
            kinds = {name: {**kind, "threshold": n} for name, kind in types(ONE, rate).items()}
            arm = Arm("WAIT, cohort", "wait", {"types": kinds, "max_seqs": 8 * CAP})
            jobs[(f"{rate:g}", str(n))] = [Job(arm, ONE, rate, 10_000, LLAMA3)]
        jobs[(f"{rate:g}", "")] = [Job(greedy()[0], ONE, rate, 10_000, LLAMA3)]
    found, rows = bench.measure("low load", jobs), []
    for (rate, n), r in found.items():
        if n:
            base = found[(rate, "")]
            due = (int(n) - 1) / (2 * float(rate))
            late, slow = r.ttft_s - base.ttft_s, int(n) * 20 / float(rate)
            rows.append([rate, n, f"{late:.3f}", f"{due:.3f}", f"{r.mean_s:.3g}", f"{slow:.3g}", f"{base.mean_s:.3g}"])
    columns = (
        "requests/s",
        "threshold n",
        "TTFT over greedy, s",
        "(n-1)/(2 rate)",
        "mean s",
        "20 n/rate",
        "greedy mean s",
    )
    bench.show("It loses: low load, 512/20, cohort rule", columns, rows)


def part_nested(bench: Bench) -> None:
    spec = lmsys_like()
    arms = greedy() + nested(spec)

    def rows() -> Iterator[tuple[str, Job, list[Arm]]]:
        for rate in (10.0, 30.0, 50.0, 100.0, 150.0):
            yield f"{rate:g}", Job(arms[0], spec, rate, 3000, LLAMA3), arms

    sweep(bench, f"Nested WAIT, LMSYS-like lengths, {LLAMA3}", rows())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without a name")
    parser.add_argument("--requests-scale", type=float, default=1.0, help="of each run's requests, so many")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--markdown", action="store_true", help="tables as Markdown")
    given = parser.parse_args(argv)
    try:
        for part in given.parts:
            if part not in PARTS:
                raise unknown("part", part, PARTS)
        if given.seeds < 1 or given.jobs < 1 or not 0 < given.requests_scale <= 10:
            raise InputError("give seeds and jobs of at least 1, and a requests-scale above 0 and at most 10")
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    with Workers(given.jobs) as workers:
        bench = Bench(workers, given.seeds, given.requests_scale, given.markdown)
        for part in given.parts or PARTS:
            globals()[f"part_{part}"](bench)


if __name__ == "__main__":
    main()
