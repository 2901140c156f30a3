"""`phasewise serve`: a deployment, or nothing at all, as a running service."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import socket
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phasewise.build import Served, served
from phasewise.cli.outputs import check_outputs
from phasewise.control.deployment import deployment_from, read_mapping, with_settings
from phasewise.core.errors import InputError
from phasewise.live.fleet import LiveService
from phasewise.live.gateway import Gateway
from phasewise.live.limits import Limits
from phasewise.live.serve import Ends, first, listen, serve, signalled

_LOG = logging.getLogger("phasewise.live")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Wanted:
    """What the command line asked for. `keys` is a file with one API key a line; without it nobody needs one."""

    deployment: Path | None
    settings: list[str]
    model: str | None
    modelled: bool
    host: str
    port: int
    keys: Path | None
    log: str | None
    rate: float | None
    waiting: int
    kv_gib: float
    threads: int | None
    dtype: str
    drain_s: float


def run(wanted: Wanted) -> None:
    """Serve until told to stop. InputError for whatever makes no sense, before anything is started."""
    keys = _keys(wanted.keys)
    if not keys and wanted.host not in _LOOPBACK:
        raise InputError(f"--host {wanted.host} can be reached from elsewhere: give --keys FILE")
    check_outputs({"--log": wanted.log}, [wanted.deployment, wanted.keys])
    found = _served(wanted)
    limits = Limits(rate=wanted.rate, waiting=wanted.waiting)
    logging.basicConfig(handlers=[_Lines()])
    logging.getLogger("phasewise").setLevel(logging.INFO)
    _runner()(_serve(wanted, found, keys, limits))


def _served(wanted: Wanted) -> Served:
    where = None if wanted.deployment is None else str(wanted.deployment)
    if wanted.deployment is None and wanted.settings:
        raise InputError("--set changes a deployment file; give one")
    deployment = None
    if wanted.deployment is not None:
        mapping = with_settings(read_mapping(wanted.deployment), wanted.settings)
        deployment = deployment_from(mapping, where)
    return served(
        deployment,
        wanted.model,
        modelled=wanted.modelled,
        kv_gib=wanted.kv_gib,
        threads=wanted.threads,
        dtype=wanted.dtype,
        where=where,
    )


async def _serve(wanted: Wanted, found: Served, keys: list[str], limits: Limits) -> None:
    with signalled() as ends:
        try:
            service = LiveService(found.resolved, found.factory, found.text, name=found.name, log=wanted.log)
        except InputError as error:
            raise InputError(str(error), None if wanted.deployment is None else str(wanted.deployment)) from None
        gateway = Gateway(service, found.tools, keys, limits)
        with contextlib.closing(listen(wanted.host, wanted.port)) as listener:
            try:
                await _started(service, ends)
                if not ends.stop.is_set():
                    gc.collect()
                    gc.freeze()
                    _say_where(wanted, found, listener)
                    await serve(gateway, service, listener, ends, wanted.drain_s)
            finally:
                log = await service.close()
        told = f"; the run log of {log.events} events is {wanted.log}" if log else ""
        _LOG.info("stopped%s", told)


async def _started(service: LiveService, ends: Ends) -> None:
    """Wait until a replica serves, or somebody has had enough of waiting."""
    starting = asyncio.create_task(service.start())
    await first(starting, ends.stop)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting


def _say_where(wanted: Wanted, found: Served, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    resolved, devices = found.resolved, Counter[str]()
    for replica in resolved.replicas:
        devices[replica.device.name] += replica.tp * replica.pp
    where = ", ".join(f"{count} {name}" if count > 1 else name for name, count in devices.items())
    context = max(replica.max_context for replica in resolved.replicas)
    what = f"{found.name}, {context} tokens of context, {resolved.deployment.batcher.name} on {where}"
    what += ", modelled" if wanted.modelled else ""
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {what}: http://{shown}:{port}/v1", file=sys.stderr, flush=True)


def _runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    """asyncio's way to run a coroutine, on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


def _keys(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        keys = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}", str(path)) from None
    keys = [key for key in keys if key and not key.startswith("#")]
    if not keys:
        raise InputError("holds no API key; write one a line", str(path))
    return keys


class _Lines(logging.Handler):
    """Words of the service itself, a JSON line each, beside those of its requests."""

    def emit(self, record: logging.LogRecord) -> None:
        line = {"at": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        print(json.dumps(line), file=sys.stderr, flush=True)
