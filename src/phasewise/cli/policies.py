"""`phasewise policies`: the catalogue, as a list to read or as JSON."""

from __future__ import annotations

from phasewise.cli.outputs import STDOUT, Drafts, check_outputs, json_text, write_out
from phasewise.policy import catalog

SCHEMA = "phasewise.policies/1"


def run(json: str | None) -> None:
    """List every policy; `json` names a file, or is - for standard output."""
    check_outputs({"--json": json}, [])
    infos = catalog.policies()
    text = json_text({"schema": SCHEMA, "policies": infos})
    if json == STDOUT:
        write_out(text)
    elif json is not None:
        with Drafts() as drafts:
            drafts.path(json).write_text(text, encoding="utf-8")
    else:
        _show(infos)


def _show(infos: list[catalog.PolicyInfo]) -> None:
    from rich.console import Group, RenderableType
    from rich.padding import Padding
    from rich.text import Text

    from phasewise.cli.screen import pairs, show

    blocks: list[RenderableType] = []
    for info in infos:
        knobs = ", ".join(f"{key}={value}" for key, value in info.parameters.items()) or "none"
        rows = [("about", info.about.replace("`", "")), ("paper", info.paper), ("parameters", knobs)]
        blocks.append(Text.assemble((info.name, "bold cyan"), f"  {info.role}"))
        blocks.append(Padding(pairs(rows), (0, 0, 0 if info is infos[-1] else 1, 2)))
    show(Group(*blocks))
