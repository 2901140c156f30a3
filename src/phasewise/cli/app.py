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
def serve(
    deployment: Annotated[
        Path | None,
        typer.Argument(
            metavar="DEPLOYMENT", help="A deployment file (YAML); without one, the built-in model on this machine."
        ),
    ] = None,
    settings: options.Settings = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|FILE.gguf", help="The weights: a Hugging Face folder or a GGUF file."),
    ] = None,
    modelled: Annotated[
        bool, typer.Option("--modelled", help="No weights: answers of no meaning, at the pace of the modelled device.")
    ] = False,
    host: Annotated[str, typer.Option(help="Where to listen; anything but loopback needs --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    keys: Annotated[Path | None, typer.Option(metavar="FILE", help="API keys, one a line.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Requests/s for each key; more get status 429.")] = None,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; more get status 503.")] = 1024,
    kv_gib: Annotated[float, typer.Option(min=0.001, help="Memory for keys and values, GiB a replica.")] = 0.5,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a replica. Default: 2, or one a core.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds that running answers get when it is told to stop.")
    ] = 30.0,
    log: Annotated[str | None, typer.Option(metavar="FILE", help="Write the run log: every event and action.")] = None,
) -> None:
    """Serve a model over HTTP, with OpenAI's endpoints, by the batchers that are simulated.

    \b
    phasewise serve
    phasewise serve deployment.yaml --model ./Qwen3-0.6B --port 8080
    phasewise serve --modelled examples/llama-70b-h100-tp4.yaml
    """
    from phasewise.cli.extras import needed

    needed("serve", "zmq", "uvicorn", "httptools", "prometheus_client")
    if not modelled:
        needed("engine", "torch", "tokenizers", "safetensors", "gguf", "jinja2", "llguidance")
    from phasewise.cli.serve import Wanted, run

    run(
        Wanted(
            deployment,
            settings or [],
            model,
            modelled,
            host,
            port,
            keys,
            log,
            rate,
            waiting,
            kv_gib,
            threads,
            dtype,
            drain,
        )
    )


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
