"""A server in processes of its own, as the benchmarks of the server have it: started, asked, looked at from outside.

What is known of its processes is what Linux tells of them in /proc.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/v1")


class Server:
    """`python ARGUMENTS` from its start to its end; what it says on stderr is kept. `port` is set once it serves.

    With `session` its processes are a group of their own, as those of a command in a terminal are.
    """

    def __init__(self, arguments: Sequence[str], env: dict[str, str] | None = None, session: bool = False) -> None:
        self.begun_s = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | (env or {}),
            start_new_session=session,
        )
        self.pid = self.process.pid
        self.port = 0
        self.lines: list[str] = []
        self._serving = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def wait(self, within_s: float = 120.0) -> None:
        """Until it serves."""
        if not self._serving.wait(within_s) or not self.port:
            self.process.kill()
            raise SystemExit("the server does not start:\n" + "\n".join(self.lines[-20:]))

    def said(self, key: str) -> list[dict[str, Any]]:
        """The lines of its log that have this key."""
        return [json.loads(line) for line in self.lines if line.startswith("{") and f'"{key}":' in line]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if not self.port and (found := _ADDRESS.search(line)):
                self.port = int(found[1])
                self._serving.set()
        self._serving.set()


def request(path: str, body: dict[str, Any] | None = None) -> bytes:
    """The bytes of a request on a connection of its own."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n"
    return head.encode() + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content) + content


def children(pid: int) -> list[int]:
    """The processes that it started and that are still there."""
    return [child for child in _pids() if (stat := _stat(child)) and int(stat[1]) == pid and stat[0] != "Z"]


def family(pid: int) -> list[int]:
    """It, and all that come from it."""
    return [pid, *(each for child in children(pid) for each in family(child))]


def cpu_s(pid: int) -> float:
    """Seconds of processor that it has used, in all its threads."""
    stat = _stat(pid)
    return (int(stat[11]) + int(stat[12])) * _TICK_S if stat else 0.0


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident memory, and the share of it that is its own where what several have is divided among them."""
    fields: dict[str, str] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, _, value = line.partition(":")
        fields[key] = value
    return tuple(int(fields[key].split()[0]) / 1024 for key in ("Rss", "Pss"))  # type: ignore[return-value]


def descriptors(pid: int) -> int:
    """Files, sockets and pipes that it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def alive(pid: int) -> bool:
    """Whether it runs; one that is dead and was not waited for does not."""
    return _stat(pid)[:1] not in ([], ["Z"])


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from its state on; none where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
