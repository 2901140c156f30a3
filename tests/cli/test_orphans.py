"""However a search ends, its worker processes end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

WANTED = ["capacity", "--model", "Llama-3.1-8B", "--device", "h100", "--workload", "azure-conv"]
WANTED += ["--slo", "tbt=1@p99", "--jobs", "2", "--json", "a.json"]
# Says when the workers have their first task, and waits there for the signal that the test sends.
UNDER_WAY = textwrap.dedent(
    """
    import os, signal, sys
    from phasewise.cli import main
    from phasewise.planner.workers import Workers

    submit = Workers.submit

    def submit_and_wait(workers, call, *arguments):
        first = workers.submit_all(os.getpid)
        submit(workers, call, *arguments)
        print("under way", first.result() != os.getpid(), flush=True)
        signal.pause()

    Workers.submit_all, Workers.submit = submit, submit_and_wait
    sys.exit(main(sys.argv[1:]))
    """
)


@pytest.mark.parametrize("more", [[], ["--sweep", "replicas.0.count=1..4", "--at", "5"]], ids=["search", "sweep"])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_leaves_no_orphan(number: signal.Signals, status: int, more: list[str], tmp_path: Path) -> None:
    """Workers hold the pipes that the test reads: the reading ends when the last of them is gone. What they are at
    would take them much longer."""
    process = subprocess.Popen(
        [sys.executable, "-c", UNDER_WAY, *WANTED, *more, "--requests", "600000"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "under way True\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == status
    said = {130: "phasewise: interrupted; nothing was written\n", 143: "phasewise: terminated; nothing was written\n"}
    # After a kill it is the interpreter's own helper that says what it cleans up.
    assert status < 0 or err == said[status]
    assert list(tmp_path.iterdir()) == []
