"""Flags that several verbs share: what describes a deployment, and what describes a workload."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

WITHOUT = "Without a deployment file"
OUTPUT = "Output"
OBJECTIVE = "Objective"

Workload = Annotated[
    str,
    typer.Option(
        "--workload",
        "-w",
        help="A built-in workload (such as azure-conv), a trace (.csv, .jsonl) or a description (.yaml).",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of whatever is drawn by chance.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one value, such as batcher.token_budget=512; repeatable."),
]
Faults = Annotated[
    Path | None, typer.Option("--faults", metavar="FILE", help="What goes wrong: a scenario file (YAML).")
]
Model = Annotated[
    str | None,
    typer.Option(help="A model's name, such as meta-llama/Llama-3.1-8B, or a config.json.", rich_help_panel=WITHOUT),
]
Device = Annotated[str | None, typer.Option(help="A device's name, such as h100.", rich_help_panel=WITHOUT)]
Tp = Annotated[int | None, typer.Option(help="Devices a stage. Default: 1.", rich_help_panel=WITHOUT)]
Pp = Annotated[int | None, typer.Option(help="Stages a replica (pipeline). Default: 1.", rich_help_panel=WITHOUT)]
Replicas = Annotated[int | None, typer.Option(help="Equal replicas. Default: 1.", rich_help_panel=WITHOUT)]
Router = Annotated[
    str | None, typer.Option(help="See 'phasewise policies'. Default: round-robin.", rich_help_panel=WITHOUT)
]
MaxContext = Annotated[
    int | None, typer.Option(help="Longest context, tokens. Default: the model's.", rich_help_panel=WITHOUT)
]
Latency = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Step times: distserve, splitwise, or a latency file. Default: roofline.",
        rich_help_panel=WITHOUT,
    ),
]
Json = Annotated[
    str | None,
    typer.Option(metavar="FILE|-", help="Write the result as JSON; - for standard output.", rich_help_panel=OUTPUT),
]

Deployments = Annotated[
    list[Path] | None,
    typer.Argument(metavar="DEPLOYMENT", help="Deployment files (YAML); without one, flags describe it."),
]
Batchers = Annotated[
    list[str] | None,
    typer.Option(
        "--batcher",
        metavar="NAME[:KEY=VALUE,...]",
        help="Such as sarathi:token_budget=512, over the deployment's own; repeatable, to set several side by side.",
    ),
]
Slos = Annotated[
    list[str] | None,
    typer.Option(
        "--slo",
        metavar="METRIC=SECONDS@pNN",
        help="Such as tbt=0.1@p99; of ttft, tbt, tpot, e2e, delay, slowdown (E2E, times), slowdown_ttft, slowdown_tbt; or "
        "splitwise, its nine slowdowns. Repeatable: all must hold.",
        rich_help_panel=OBJECTIVE,
    ),
]
AttainmentShare = Annotated[
    float | None,
    typer.Option(
        "--attainment",
        metavar="SHARE",
        help="Instead: this share of requests within slo.ttft_s and slo.tpot_s at once.",
        rich_help_panel=OBJECTIVE,
    ),
]
DeadlineShare = Annotated[
    float | None,
    typer.Option(
        "--token-deadlines",
        metavar="SHARE",
        help="Instead: this share of requests with token i out by slo.ttft_s + i x slo.tpot_s.",
        rich_help_panel=OBJECTIVE,
    ),
]
Tolerance = Annotated[
    float,
    typer.Option(metavar="SHARE", help="Width of the final bracket of rates.", rich_help_panel=OBJECTIVE),
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes. Default: one a core.")]
SearchRequests = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="The first so many requests. Default: the whole trace; of a description 2,000 a replica, 10,000 at least.",
    ),
]


def given(**flags: Any) -> dict[str, Any]:
    """Those flags that were given."""
    return {name: value for name, value in flags.items() if value is not None}
