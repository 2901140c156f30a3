"""The verbs that set deployments side by side, and their flags."""

from __future__ import annotations

from typing import Annotated

import typer

import phasewise.cli.options as options

SWEEP = "Sweep: one deployment, many values"


def capacity(
    deployments: options.Deployments = None,
    workload: options.Workload = ...,  # type: ignore[assignment]
    batchers: options.Batchers = None,
    slo: options.Slos = None,
    attainment: options.AttainmentShare = None,
    token_deadlines: options.DeadlineShare = None,
    tolerance: options.Tolerance = 0.025,
    requests: options.SearchRequests = None,
    seed: options.Seed = 0,
    jobs: options.Jobs = None,
    settings: options.Settings = None,
    model: options.Model = None,
    device: options.Device = None,
    tp: options.Tp = None,
    pp: options.Pp = None,
    replicas: options.Replicas = None,
    router: options.Router = None,
    max_context: options.MaxContext = None,
    latency: options.Latency = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="KEY=VALUES",
            help="Every value of a setting, such as replicas.0.count=1..8 or batcher.token_budget=128,512; once or twice.",
            rich_help_panel=SWEEP,
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="N|..N|M..N", help="Only points with so many devices, all groups together.", rich_help_panel=SWEEP
        ),
    ] = None,
    at: Annotated[
        float | None,
        typer.Option(
            metavar="RATE", help="Do not search: which points hold at this rate, requests/s?", rich_help_panel=SWEEP
        ),
    ] = None,
    json: options.Json = None,
    figure: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Draw the objective over rates, or a sweep as a line or a heat map (.png, .svg, .pdf).",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
) -> None:
    """Find the highest rate within an objective.

    \b
    phasewise capacity --model Llama-3.1-8B --device h100 --workload azure-conv --slo tbt=0.1@p99 --slo delay=2@p50
    phasewise capacity deployment.yaml --workload azure-conv --attainment 0.9 --batcher sarathi --batcher vllm-v1
    phasewise capacity fleet.yaml --workload azure-conv --slo splitwise --sweep replicas.0.count=1..8 --at 20
    """
    from phasewise.cli.arms import Described, objective
    from phasewise.cli.capacity import run
    from phasewise.cli.sweep import asked
    from phasewise.cli.sweep import run as run_sweep

    flags = options.given(
        model=model,
        device=device,
        tp=tp,
        pp=pp,
        replicas=replicas,
        router=router,
        max_context=max_context,
        latency=latency,
    )
    what = Described(
        deployments or [], flags, settings or [], batchers or [], workload, requests, seed, tolerance, jobs
    )
    goal, over = objective(slo or [], attainment, token_deadlines), asked(sweep or [], devices, at)
    if over is None:
        run(what, goal, json, figure)
    else:
        run_sweep(what, over, goal, json, figure)


def compare(
    deployments: options.Deployments = None,
    workload: options.Workload = ...,  # type: ignore[assignment]
    batchers: options.Batchers = None,
    rate: Annotated[
        float | None, typer.Option(help="Total mean rate of the runs, requests/s. Default: the workload's own.")
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(metavar="R,R,...", help="Rates to look at. Default, with an objective: up to the capacity."),
    ] = None,
    slo: options.Slos = None,
    attainment: options.AttainmentShare = None,
    token_deadlines: options.DeadlineShare = None,
    tolerance: options.Tolerance = 0.025,
    requests: options.SearchRequests = None,
    seed: options.Seed = 0,
    jobs: options.Jobs = None,
    settings: options.Settings = None,
    faults: options.Faults = None,
    model: options.Model = None,
    device: options.Device = None,
    tp: options.Tp = None,
    pp: options.Pp = None,
    replicas: options.Replicas = None,
    router: options.Router = None,
    max_context: options.MaxContext = None,
    latency: options.Latency = None,
    json: options.Json = None,
    figures: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Draw distributions.png, phases.png (fleet-N.png of a fleet) and, of rates, rates.png into it.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
) -> None:
    """Set deployments or batchers side by side on one workload.

    \b
    phasewise compare --model Llama-3.1-8B --device h100 --workload azure-conv --batcher vllm-v1 --batcher sarathi
    phasewise compare one.yaml two.yaml --workload azure-conv --rate 5 --slo tbt=0.1@p99 --figures pictures
    """
    from phasewise.cli.arms import Described, objective
    from phasewise.cli.compare import run

    flags = options.given(
        model=model,
        device=device,
        tp=tp,
        pp=pp,
        replicas=replicas,
        router=router,
        max_context=max_context,
        latency=latency,
    )
    what = Described(
        deployments or [], flags, settings or [], batchers or [], workload, requests, seed, tolerance, jobs
    )
    run(what, objective(slo or [], attainment, token_deadlines), rate, rates, json, figures, faults)
