"""What only a real process shows: interrupts, closed pipes, what is imported, the exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "phasewise"]
FLAGS = ["--model", "meta-llama/Llama-3.1-8B", "--device", "h100"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
# Says when the simulation is under way, and then waits there for the signal that the test sends: no sleep, no race.
UNDER_WAY = textwrap.dedent(
    """
    import signal, sys
    from phasewise.cli import main
    from phasewise.cli.progress import Bar

    def advance_to(bar, done):
        print("under way", flush=True)
        signal.pause()

    Bar.advance_to = advance_to
    sys.exit(main(sys.argv[1:]))
    """
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_behind(number: signal.Signals, status: int, tmp_path: Path) -> None:
    outputs = ["--log", "a.log", "--json", "a.json", "--figure", "a.png"]
    arguments = ["simulate", *FLAGS, "--workload", "azure-conv", "--requests", "3000", *outputs]
    process = subprocess.Popen(
        [sys.executable, "-c", UNDER_WAY, *arguments],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell may have started the tests with interrupts ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "under way\n"
        assert list(tmp_path.iterdir()), "the log is being written by now"
        process.send_signal(number)
        err = process.stderr.read()
        assert process.wait(timeout=30) == status
    assert err == f"phasewise: {'interrupted' if status == 130 else 'terminated'}; nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    for arguments in (["policies"], ["policies", "--json", "-"]):
        done = subprocess.run(
            [*COMMAND, *arguments],
            env=ENVIRONMENT,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (1, "")
    os.close(write)


def test_status_and_lines_of_a_process(tmp_path: Path) -> None:
    done = run("simulate", *FLAGS, "--workload", str(tmp_path / "none.csv"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"phasewise: error: {tmp_path / 'none.csv'}: no such file; check the path\n"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import phasewise", ["numpy", "msgspec", "typer", "yaml"]),
        ("from phasewise.cli import main; main(['--help'])", ["numpy", "yaml", "matplotlib", "msgspec"]),
        ("from phasewise.cli import main; main(['policies'])", ["numpy", "yaml", "matplotlib"]),
        ("from phasewise.cli import main; main(['models'])", ["numpy", "yaml", "matplotlib"]),
        ("from phasewise.cli import main; main(['devices'])", ["numpy", "yaml", "matplotlib"]),
        ("import phasewise.report", ["matplotlib"]),
    ],
)
def test_heavy_imports_wait(code: str, absent: list[str]) -> None:
    check = f"{code}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", check], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_output_survives_a_terminal_without_the_characters() -> None:
    arguments = ["simulate", *FLAGS, "--workload", "azure-conv", "--requests", "5", "--set", "slo.ttft_s=1"]
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 ? h100" in done.stdout
