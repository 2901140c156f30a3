"""Imports go down only, nothing below floor 5 touches the world, and there are no circles."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "phasewise"

FLOORS = {
    "core": 1,
    "perf": 2,
    "workload": 2,
    "record": 2,
    "policy": 3,
    "report": 3,
    "control": 4,
    "sim": 5,
    "engine": 5,
    "device": 5,
    "live": 5,
    "planner": 6,
    "build": 6,
    "cli": 7,
    "__main__": 8,
}
OUTSIDE = {"torch", "asyncio", "threading", "time", "datetime", "socket", "socketserver", "selectors", "random", "http"}
CORE_MAY = {"msgspec", "phasewise"} | sys.stdlib_module_names
REPORT_SEES = {"report", "record", "core"}


def module(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    """The folder of a module: `phasewise.core.kv` is in `core`; the package itself in none."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> set[str]:
    """Modules that a file imports, those for type checking only included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            found.add(node.module or "")
            for alias in node.names:
                if (SRC.parent / (node.module or "").replace(".", "/") / f"{alias.name}.py").exists():
                    found.add(f"{node.module}.{alias.name}")
    return found


FILES = {module(p): p for p in sorted(SRC.rglob("*.py"))}


@pytest.mark.parametrize("name", [n for n in FILES if room(n)])
def test_imports_go_down(name: str) -> None:
    here = room(name)
    for other in imports(FILES[name]):
        if not other.startswith("phasewise"):
            continue
        there = room(other)
        assert there, f"{name} imports the package's front door; import the module that is meant"
        assert here == there or FLOORS[there] < FLOORS[here], f"{name} (floor {FLOORS[here]}) imports {other}"
        if here == "report":
            assert there in REPORT_SEES, f"{name} imports {other}: a report sees a run log only"


@pytest.mark.parametrize("name", [n for n in FILES if FLOORS.get(room(n), 9) < 5])
def test_below_floor_five_nothing_touches_the_world(name: str) -> None:
    tops = {other.split(".")[0] for other in imports(FILES[name])}
    assert not tops & OUTSIDE, f"{name} imports {tops & OUTSIDE}"
    assert "np.random.seed" not in FILES[name].read_text(), f"{name} draws from the global generator"
    if room(name) == "core":
        assert tops <= CORE_MAY, f"{name} imports {tops - CORE_MAY}"


def test_there_are_no_circles() -> None:
    graph = {name: {o for o in imports(path) if o in FILES and o != name} for name, path in FILES.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"circle: {' -> '.join([*above[above.index(name) :], name])}"
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*above, name))
        done.add(name)

    for name in graph:
        if room(name):
            visit(name, ())
