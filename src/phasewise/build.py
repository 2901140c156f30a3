"""The composition root: a deployment and a model in, what serves them out. The only file that knows both executors.

Rooms, policies and ledger are those of the simulator, opened by the same functions. What differs is the executor: a real model,
or for trying out gateways and clients the modelled one at its own pace.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from phasewise.control.ports import EngineFactory
from phasewise.control.resolve import resolve
from phasewise.core.errors import InputError, unknown
from phasewise.core.spec import Deployment, PolicySpec, ReplicaSpec, Resolved, ResolvedReplica
from phasewise.engine.builtin import BUILTIN, resolve_model
from phasewise.engine.factory import Torch
from phasewise.engine.shape import shape_in
from phasewise.engine.tools import ToolReader, form_of
from phasewise.live.service import Text, Tools
from phasewise.perf.memory import GIB
from phasewise.policy import catalog
from phasewise.sim.paced import Paced
from phasewise.sim.words import Words

KV_GIB = 0.5
"""Of the host's memory for keys and values, unless one says otherwise."""

LEAST_CONTEXT = 64
"""Tokens that the keys and values of a replica must have room for: with less nobody could be answered."""

BYTES = {"bfloat16": 2, "float32": 4}
"""What a model can be computed in, and the bytes of a number of it."""

HERE = Deployment(
    f"HuggingFaceTB/{BUILTIN}",
    (ReplicaSpec("cpu"),),
    batcher=PolicySpec("vllm-v1", {"token_budget": 256, "max_seqs": 64}),
)
"""What is served where nobody says anything: the built-in model on this machine's processor."""


class Served(NamedTuple):
    """What a service is made of; `tools` None: the model has no way to call any."""

    resolved: Resolved
    name: str
    factory: EngineFactory
    text: Text
    tools: Tools | None


def served(
    deployment: Deployment | None,
    model: str | None = None,
    *,
    modelled: bool = False,
    kv_gib: float = KV_GIB,
    threads: int | None = None,
    dtype: str = "bfloat16",
    where: str | None = None,
) -> Served:
    """What serves a deployment (None: `HERE`). `model` is a folder or a GGUF file, and stands before the deployment's own.

    InputError for what makes no sense, weights that are not here, and devices that are not served yet.
    """
    wanted = deployment or HERE
    if dtype not in BYTES:
        raise unknown("dtype", dtype, BYTES)
    if modelled:
        resolved = resolve(msgspec.structs.replace(wanted, model=model) if model else wanted, where)
        name = model or (BUILTIN if wanted.model == HERE.model else wanted.model)
        return Served(resolved, name, Paced(), Words(), None)
    folder, name = _weights(wanted, model, where)
    shape_in(folder)
    resolved = resolve(msgspec.structs.replace(wanted, model=str(folder / "config.json")), where)
    others = sorted({replica.device.name for replica in resolved.replicas} - {"cpu"})
    if others:
        what = f"device {others[0]} is not served yet, only cpu"
        raise InputError(f"{what}; --modelled serves any device, with answers of no meaning", where)
    # Late, because what is only modelled does without these libraries.
    from phasewise.engine.text import Tokenizer

    tokenizer = Tokenizer(folder)
    form = form_of(tokenizer.template(tools=True))
    factory = Torch(folder, dtype, threads or min(2, os.cpu_count() or 1))
    return Served(
        _bounded(resolved, kv_gib, dtype), name, factory, tokenizer, partial(ToolReader, form) if form else None
    )


def _weights(deployment: Deployment, model: str | None, where: str | None) -> tuple[Path, str]:
    """The folder of a model's weights, and what clients call it."""
    if model is not None:
        builtin = model.lower() == BUILTIN.lower() and not Path(model).exists()
        return resolve_model(model), BUILTIN if builtin else _named(Path(model))
    if deployment.model == HERE.model:
        return resolve_model(None), BUILTIN
    path = Path(deployment.model).expanduser()
    if path.name == "config.json":
        path = path.parent
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return resolve_model(path), _named(path)
    raise InputError(f"the weights of {deployment.model} are not here; give --model FOLDER or FILE.gguf", where)


def _named(path: Path) -> str:
    """What clients call a model that they are given as a path."""
    return os.path.basename(os.path.abspath(path.expanduser())).removesuffix(".gguf")


def _bounded(resolved: Resolved, kv_gib: float, dtype: str) -> Resolved:
    """With no more keys and values than a host has memory to spare."""
    deployment, model = resolved.deployment, resolved.model
    block_bytes = model.kv_bytes(deployment.block_tokens) * BYTES[dtype] // model.kv_dtype_bytes
    most = int(kv_gib * GIB) // block_bytes

    def bounded(i: int, replica: ResolvedReplica) -> ResolvedReplica:
        blocks = min(replica.blocks, most)
        watermark: float = catalog.build("batcher", resolved.batcher(i)).watermark
        usable = (blocks - int(watermark * blocks)) * deployment.block_tokens
        if usable < LEAST_CONTEXT:
            token_mib = block_bytes / deployment.block_tokens / 2**20
            what = f"--kv-gib {kv_gib:g} holds {max(usable, 0)} tokens, and a token takes {token_mib:.3g} MiB"
            raise InputError(f"{what}: give more")
        return msgspec.structs.replace(replica, blocks=blocks, max_context=min(replica.max_context, usable))

    replicas = tuple(bounded(i, replica) for i, replica in enumerate(resolved.replicas))
    wanted, there = sum(r.blocks for r in replicas) * block_bytes / GIB, _memory_bytes() / GIB
    if wanted > there:
        what = f"{wanted:.0f} GiB of keys and values, and this machine has {there:.0f} GiB of memory"
        raise InputError(f"--kv-gib {kv_gib:g} asks for {what}: give less")
    return msgspec.structs.replace(resolved, replicas=replicas)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
