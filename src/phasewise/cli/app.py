"""The verbs and their flags. What a verb does is imported when it is called, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phasewise.core.version import VERSION

app = typer.Typer(
    name="phasewise",
    help="Plan, simulate and serve large language models phase by phase.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_WITHOUT = "Without a deployment file"
_OUTPUT = "Output"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"phasewise {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def simulate(
    deployment: Annotated[
        Path | None,
        typer.Argument(metavar="DEPLOYMENT", help="A deployment file (YAML); without one, flags describe it."),
    ] = None,
    workload: Annotated[
        str,
        typer.Option(
            "--workload",
            "-w",
            help="A built-in workload (such as azure-conv), a trace (.csv, .jsonl) or a description (.yaml).",
        ),
    ] = ...,  # type: ignore[assignment]
    rate: Annotated[
        float | None,
        typer.Option(help="Total mean rate, requests/s; stretches a trace's time. Default: the workload's own."),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(help="The first so many requests. Default: the whole trace; 2,000 of a described workload."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of whatever is drawn by chance.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set one value, such as batcher.token_budget=512; repeatable."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model's name, such as meta-llama/Llama-3.1-8B, or a config.json.", rich_help_panel=_WITHOUT
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="A device's name, such as h100.", rich_help_panel=_WITHOUT)] = None,
    tp: Annotated[int | None, typer.Option(help="Devices a replica. Default: 1.", rich_help_panel=_WITHOUT)] = None,
    replicas: Annotated[int | None, typer.Option(help="Equal replicas. Default: 1.", rich_help_panel=_WITHOUT)] = None,
    batcher: Annotated[
        str | None, typer.Option(help="See 'phasewise policies'. Default: sarathi.", rich_help_panel=_WITHOUT)
    ] = None,
    router: Annotated[
        str | None, typer.Option(help="See 'phasewise policies'. Default: round-robin.", rich_help_panel=_WITHOUT)
    ] = None,
    max_context: Annotated[
        int | None, typer.Option(help="Longest context, tokens. Default: the model's.", rich_help_panel=_WITHOUT)
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-", help="Write the summary as JSON; - for standard output.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the run log: every event and action.", rich_help_panel=_OUTPUT),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Draw the phase timeline of replica 0 (.png, .svg, .pdf).", rich_help_panel=_OUTPUT
        ),
    ] = None,
) -> None:
    """Run a workload through a deployment on virtual time, and sum it up.

    \b
    phasewise simulate deployment.yaml --workload azure-conv --rate 5
    phasewise simulate --model Llama-3.1-8B --device h100 --workload azure-conv
    """
    from phasewise.cli.simulate import Wanted, run

    flags = {
        "model": model,
        "device": device,
        "tp": tp,
        "replicas": replicas,
        "batcher": batcher,
        "router": router,
        "max_context": max_context,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    run(Wanted(deployment, given, settings or [], workload, rate, requests, seed, json, log, figure))


@app.command()
def policies(
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Write the list as JSON; - for standard output.")
    ] = None,
) -> None:
    """List the policies: role, name, paper, parameters with their defaults."""
    from phasewise.cli.policies import run

    run(json)
