"""Resolving: every name looked up, every default filled in, and one line for whatever makes no sense."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from phasewise.control.resolve import resolve
from phasewise.core.errors import InputError
from phasewise.core.spec import Deployment, LinkSpec, PolicySpec, ReplicaSpec, Slo
from phasewise.sim.simulate import simulate
from phasewise.workload.source import load

PLAIN = Deployment("meta-llama/Llama-3.1-8B", (ReplicaSpec("h100", 2), ReplicaSpec("l4")))


def test_everything_is_filled_in_and_nothing_written_into() -> None:
    resolved = resolve(PLAIN)
    defaults = {"token_budget": 512, "max_seqs": 128, "watermark": 0.01, "chunked": True, "hybrid": True}
    assert resolved.deployment.batcher.params == defaults | {
        "chunk_stages": 0,
        "chunk_low": 128,
        "chunk_span": 4096,
        "tbt_s": None,
    }
    assert PLAIN.batcher.params == {}
    assert [r.device.name for r in resolved.replicas] == ["h100", "h100", "l4"]
    assert resolved.basis == "roofline, data sheet only"
    assert resolve(msgspec.structs.replace(PLAIN, replicas=PLAIN.replicas[:1])).basis.startswith("roofline, fitted")


def test_the_context_is_what_the_memory_above_the_watermark_holds() -> None:
    """An L4 has 24 GiB: what Llama-3.1-8B leaves of it is far less than its context of 131,072 tokens."""
    small = resolve(PLAIN).replicas[2]
    kept_free = int(0.01 * small.blocks)
    assert small.max_context == (small.blocks - kept_free) * 16 < 131_072
    assert resolve(PLAIN).replicas[0].max_context == 131_072


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_context": 1}, "max_context is 1"),
        ({"max_context": 1 << 20}, "serves 2 to 131072"),
        ({"max_context": 131_072}, "the KV memory of l4"),
        ({"block_tokens": 0}, "block_tokens is 0"),
        ({"tile": -1}, "tile is -1"),
        ({"host_s": -0.1}, "host_s is -0.1"),
        ({"wire_s": float("nan")}, "wire_s is nan"),
        ({"slo": Slo(ttft_s=0)}, "slo.ttft_s is 0"),
        ({"replicas": ()}, "no replicas"),
        ({"replicas": (ReplicaSpec("h100", 0),)}, "a group of 0 replicas"),
        ({"replicas": (ReplicaSpec("h100", memory_utilisation=1.5),)}, "memory_utilisation"),
        ({"replicas": (ReplicaSpec("h100", tp=3),)}, "tp"),
        ({"replicas": (ReplicaSpec("hundred"),)}, "unknown device"),
        ({"model": "llama"}, "unknown model"),
        ({"batcher": PolicySpec("orka")}, "unknown batcher"),
        ({"router": PolicySpec("round-robin", {"x": 1})}, "has no parameters"),
        ({"batcher": PolicySpec("vllm-v1", {"max_seqs": 4096})}, "must be at least max_seqs"),
    ],
)
def test_what_makes_no_sense_is_one_line_that_names_the_file(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=r"^my\.yaml: ") as error:
        resolve(msgspec.structs.replace(PLAIN, **change), "my.yaml")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_prefix_cache_is_the_batchers_default_and_refused_where_it_cannot_be() -> None:
    def cached(batcher: str, wanted: bool | None = None) -> bool | None:
        asked = msgspec.structs.replace(PLAIN, batcher=PolicySpec(batcher), prefix_cache=wanted)
        return resolve(asked).deployment.prefix_cache

    assert (cached("vllm-v1"), cached("sarathi"), cached("orca")) == (True, False, False)
    assert (cached("vllm-v1", False), cached("sarathi", True)) == (False, True)
    with pytest.raises(InputError, match=r"batcher orca keeps no prefixes; .* take one of sarathi, vllm-v1"):
        cached("orca", True)


def test_the_reference_of_slowdowns_is_the_device_that_is_named() -> None:
    """The unloaded times of a fleet of H100s against an A100 are those of the A100 itself, with the first replica's tp."""
    work = load("azure-conv", rate=1.0, requests=20)
    groups = (ReplicaSpec("h100", tp=2), ReplicaSpec("l4", tp=4))
    named = simulate(Deployment(PLAIN.model, groups, reference="a100-80gb"), work).header
    own = simulate(Deployment(PLAIN.model, groups), work).header
    alone = simulate(Deployment(PLAIN.model, (ReplicaSpec("a100-80gb", tp=2),)), work).header
    at = [(prompt, time) for prompt, time in named.reference_ttft if prompt <= 131_072]
    assert dict(at) == dict(alone.reference_ttft)
    assert named.reference_decode == alone.reference_decode != own.reference_decode
    assert own.resolved.reference is None


def test_a_reference_that_nobody_knows() -> None:
    with pytest.raises(InputError, match=r"d.yaml: reference: unknown device 'a10000'; did you mean"):
        resolve(msgspec.structs.replace(PLAIN, reference="a10000"), "d.yaml")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"replicas": (ReplicaSpec("h100", role="prefil"),)}, "unknown role 'prefil'; did you mean 'prefill'?"),
        ({"replicas": (ReplicaSpec("h100", role="decode"),)}, "every replica is for decode, and none computes prompts"),
        (
            {"replicas": (ReplicaSpec("h100", 2, role="prefill"),)},
            "every replica is for prefill, and none decodes answers",
        ),
        (
            {"replicas": (ReplicaSpec("h100"), ReplicaSpec("h100", 0))},
            "replicas[1] is a group of 0 replicas; give 1 to",
        ),
        ({"replicas": (ReplicaSpec("h100", host_gib=-1.0),)}, "host_gib is -1.0; give GiB of host memory"),
        ({"link": LinkSpec("infiniband")}, "link: unknown link 'infiniband'; did you mean 'infiniband-"),
        ({"link": LinkSpec(gb_s=0.0)}, "link: gb_s is 0.0; give a number above 0"),
        ({"link": LinkSpec(transfer="lazy")}, "link: unknown transfer 'lazy'"),
        ({"patience_s": 0.0}, "patience_s is 0.0; an answer takes 2 x wire_s: give more"),
        ({"cold_start_s": -1.0}, "cold_start_s is -1.0; give seconds, 0 or more"),
    ],
)
def test_what_makes_no_sense_of_a_fleet_is_said(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(msgspec.structs.replace(PLAIN, **changes))
    assert complaint in str(caught.value)


def test_each_group_has_its_batcher() -> None:
    own = PolicySpec("vllm-v1", {"max_seqs": 8})
    groups = (ReplicaSpec("h100", 2, role="prefill"), ReplicaSpec("h100", role="decode", batcher=own))
    resolved = resolve(msgspec.structs.replace(PLAIN, replicas=groups))
    assert [resolved.batcher(i).name for i in range(3)] == ["sarathi", "sarathi", "vllm-v1"]
    assert resolved.batcher(2).params["max_seqs"] == 8
    assert [(r.role, r.group) for r in resolved.replicas] == [("prefill", 0), ("prefill", 0), ("decode", 1)]
