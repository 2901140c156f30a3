"""The verbs and their flags. What a verb does is imported when it is called, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import phasewise.cli.options as options
from phasewise.cli.sidebyside import capacity, compare
from phasewise.core.version import COMPILED, VERSION

app = typer.Typer(
    name="phasewise",
    help="Plan, simulate and serve large language models phase by phase.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"phasewise {VERSION}{' (compiled)' if COMPILED else ''}")
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
    workload: options.Workload = ...,  # type: ignore[assignment]
    rate: Annotated[
        float | None,
        typer.Option(help="Total mean rate, requests/s; stretches a trace's time. Default: the workload's own."),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(help="The first so many requests. Default: the whole trace; 2,000 of a described workload."),
    ] = None,
    seed: options.Seed = 0,
    settings: options.Settings = None,
    faults: options.Faults = None,
    model: options.Model = None,
    device: options.Device = None,
    tp: options.Tp = None,
    pp: options.Pp = None,
    replicas: options.Replicas = None,
    batcher: Annotated[
        str | None, typer.Option(help="See 'phasewise policies'. Default: sarathi.", rich_help_panel=options.WITHOUT)
    ] = None,
    router: options.Router = None,
    max_context: options.MaxContext = None,
    latency: options.Latency = None,
    json: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-", help="Write the summary as JSON; - for standard output.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the run log: every event and action.", rich_help_panel=options.OUTPUT),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Draw the phase timeline; of a fleet, all replicas (.png, .svg, .pdf).",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    waterfall: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Draw where the slowest requests' time went.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    request: Annotated[
        int | None, typer.Option(min=0, help="With --waterfall: this request alone.", rich_help_panel=options.OUTPUT)
    ] = None,
) -> None:
    """Run a workload through a deployment on virtual time, and sum it up.

    \b
    phasewise simulate deployment.yaml --workload azure-conv --rate 5
    phasewise simulate --model Llama-3.1-8B --device h100 --workload azure-conv
    """
    from phasewise.cli.simulate import Drawn, Wanted, run

    flags = options.given(
        model=model,
        device=device,
        tp=tp,
        pp=pp,
        replicas=replicas,
        batcher=batcher,
        router=router,
        max_context=max_context,
        latency=latency,
    )
    drawn = Drawn(figure, waterfall, request)
    run(Wanted(deployment, flags, settings or [], workload, rate, requests, seed, json, log, drawn, faults))


app.command()(capacity)
app.command()(compare)


@app.command()
def policies(
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Write the list as JSON; - for standard output.")
    ] = None,
) -> None:
    """List the policies: role, name, paper, parameters with their defaults."""
    from phasewise.cli.policies import run

    run(json)


_NAME = typer.Argument(metavar="NAME", help="Say all of this one.", show_default=False)
_JSON = typer.Option(metavar="FILE|-", help="Write it as JSON; - for standard output.")


@app.command()
def models(name: Annotated[str | None, _NAME] = None, json: Annotated[str | None, _JSON] = None) -> None:
    """List the models: parameters, weights, KV cache; or all of one, a config.json too."""
    from phasewise.cli.catalogues import run_models

    run_models(name, json)


@app.command()
def devices(name: Annotated[str | None, _NAME] = None, json: Annotated[str | None, _JSON] = None) -> None:
    """List the devices: peaks, memory, power, links, price; or all of one, a TOML file too."""
    from phasewise.cli.catalogues import run_devices

    run_devices(name, json)
