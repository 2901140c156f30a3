"""`phasewise serve` as a process of its own, with what it says, for tests that come from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import openai

SRC = str(Path(__file__).parents[1] / "src")
LONGEST_S = 60.0


class Running:
    """A server on a free port. Its standard error is read to the end, which comes when nobody holds it any more: neither the
    gateway nor a worker."""

    def __init__(self, folder: Path, *flags: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "phasewise", "serve", "--port", "0", *flags],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": SRC, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # A shell may have started the tests with interrupts ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.said: list[str] = []
        self._more = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url = re.findall(r"http://\S+(?=/v1)", self.hear(lambda line: line.startswith("serving ")))[0]
        self.http = httpx.Client(base_url=self.url, timeout=LONGEST_S)
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=LONGEST_S)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.http.close()
        self.openai.close()
        self.process.kill()
        self.ended()

    def hear(self, wanted: Callable[[str], bool], after: int = 0) -> str:
        """The first line that is wanted among those it has said, or will, after so many."""
        with self._more:
            while not (found := [line for line in self.said[after:] if wanted(line)]):
                assert not self._over, self.said
                assert self._more.wait(LONGEST_S), self.said
            return found[0]

    def workers(self) -> list[int]:
        """The processes that have served as replica 0, the last of which may do so still."""
        return [int(pid) for line in self.said for pid in re.findall(r"replica 0 serves, process (\d+)", line)]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """The exit status, once nobody is left."""
        self._reader.join(LONGEST_S)
        assert not self._reader.is_alive(), "somebody still holds its standard error"
        return self.process.wait(LONGEST_S)

    def lines(self) -> list[dict[str, Any]]:
        """What it has said in JSON."""
        return [json.loads(line) for line in self.said if line.startswith("{")]

    def meter(self, name: str) -> float:
        found = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", self.http.get("/metrics").text, re.MULTILINE)
        return sum(map(float, found))

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                with self._more:
                    self.said.append(line.decode().rstrip("\n"))
                    self._more.notify_all()
        with self._more:
            self._over = True
            self._more.notify_all()


class Asked(threading.Thread):
    """One streamed completion of so many tokens, read in a thread: its `text` so far, and what ended it."""

    def __init__(self, server: Running, tokens: int, **more: Any) -> None:
        super().__init__()
        self.text, self.reason, self.error = "", None, None
        self.begun = threading.Event()
        self._server, self._tokens, self._more = server, tokens, more
        self.start()
        assert self.begun.wait(LONGEST_S)

    text: str
    reason: str | None
    error: openai.APIError | httpx.TransportError | None

    def run(self) -> None:
        try:
            events = self._server.openai.completions.create(
                model=self._server.openai.models.list().data[0].id,
                prompt="Once upon a time",
                max_tokens=self._tokens,
                stream=True,
                extra_body={"ignore_eos": True, **self._more},
            )
            for event in events:
                self.text += event.choices[0].text
                self.reason = event.choices[0].finish_reason or self.reason
                if self.text:
                    self.begun.set()
        except (openai.APIError, httpx.TransportError) as error:
            self.error = error
        finally:
            self.begun.set()

    def over(self) -> Asked:
        self.join(LONGEST_S)
        assert not self.is_alive()
        return self
