"""The process of one replica, as the gateway has it: started, spoken to, seen to die. It does not know what is said."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from phasewise.core.errors import LogError
from phasewise.live.wire import Fell, Quit, Wire, listen
from phasewise.live.worker import Task

_ENTRY = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from phasewise.live.worker import main; main()"
)
_LONGEST_PATH = 90  # bytes of a folder's name, that the name of a socket in it does not exceed what systems take
_PATIENCE_S = 5.0


class WorkerProcess:
    """From its start to its death. `hear` is given each message that comes, `died` told once, with why if that is known.

    Both are called from the event loop.
    """

    def __init__(self, context: zmq.Context[Any], hear: Callable[[Any], None], died: Callable[[Fell], None]) -> None:
        self._context = context
        self._hear = hear
        self._died = died
        self._process: Process | None = None
        self._wire: Wire | None = None
        self._fell: Fell | None = None
        self._folder: Path | None = None
        self.quitting = False
        self._doomed = False

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def live(self, task: Task) -> None:
        """Start it, and return when it is dead."""
        fell = Fell("it could not be started")
        try:
            self._folder = folder = _private_folder()
            address = f"ipc://{folder}/wire"
            self._wire = wire = listen(self._context, address)
            asyncio.get_running_loop().add_reader(wire.fd, self._readable)
            command = (sys.executable, "-c", _ENTRY)
            self._process = process = await asyncio.create_subprocess_exec(*command, stdin=PIPE)
            assert process.stdin is not None
            if self._doomed:
                self.kill()
            # The pipe stays open: its end tells the worker that nobody is here any more.
            process.stdin.write(pickle.dumps(sys.path) + pickle.dumps(task._replace(address=address)))
            code = await process.wait()
            self._readable()
            how = f"ended with status {code}" if code >= 0 else f"was killed by signal {-code}"
            fell = self._fell or Fell(f"the process {how}")
        except (OSError, LogError, zmq.ZMQError) as error:
            fell = Fell(str(error))
        finally:
            self.kill()
            self._hang_up()
            self._died(fell)

    def send(self, message: Any) -> None:
        """Say something; nobody hears it once the process is dead."""
        if self._wire is not None:
            self._wire.send(message)
            if self._wire.readable:
                asyncio.get_running_loop().call_soon(self._readable)

    def settled(self) -> None:
        """It is connected: nobody else shall be, and nothing be left behind in the file system."""
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def quit(self) -> None:
        """Have it write everything down and exit; killed if it takes too long."""
        self.quitting = True
        self.send(Quit())
        asyncio.get_running_loop().call_later(_PATIENCE_S, self.kill)

    def kill(self) -> None:
        """Have it die, at once or as soon as it is there."""
        self._doomed = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _readable(self) -> None:
        if self._wire is None:
            return
        for message in self._wire.receive():
            if isinstance(message, Fell):
                self._fell = message
            else:
                self._hear(message)

    def _hang_up(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            asyncio.get_running_loop().remove_reader(wire.fd)
            wire.close(0)
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self.settled()


def _private_folder() -> Path:
    """A folder that only this user may enter, with a name short enough for a socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="phasewise-"))
    if len(bytes(folder)) <= _LONGEST_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="phasewise-", dir="/tmp"))
