"""Links between replicas: what they carry, how much a prompt's keys and values weigh, how long an idle link takes for them.

The presets are in `data/links.toml`, each with its source. How transfers share a busy link is the simulator's (`sim.links`).

Splitwise (ISCA 2024, KV-cache transfer) sends keys and values after the prompt (serialised), or each layer's while the next is
computed (layer-wise), which leaves the last layer's and a measured constant. Its released simulator weighs a token by the
model's hidden width, which is right only without grouped queries, and takes 200 GiB/s for "200", which is what eight cards of
200 Gbit/s send; here bytes are those of the cache, and a link says whose rate it gives.
"""

from __future__ import annotations

import math
import tomllib
from functools import cache
from importlib.resources import files

import msgspec

from phasewise.core.errors import InputError, unknown
from phasewise.core.model import ModelSpec
from phasewise.core.spec import LAYER_WISE, SERIALISED, TRANSFERS, LinkSpec, Resolved
from phasewise.core.units import NS_PER_S


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of link: `gb_s` is one direction, 10^9 bytes a second, of each device of a replica (`per_device`) or of the
    whole replica; infinite: transfers take no time.

    `latency_us` is from the first byte sent to the first one there; `leftover_ms` what a layer-wise transfer takes besides.
    """

    name: str
    gb_s: float
    per_device: bool
    latency_us: float
    leftover_ms: float
    source: str

    def bytes_per_ns(self, devices: int) -> float:
        """What a replica of `devices` devices sends, and at the same time receives, at most."""
        return self.gb_s * devices if self.per_device else self.gb_s

    def after_ns(self, layer_wise: bool) -> int:
        """From the last byte sent to the whole at hand: the latency, and what a layer-wise transfer leaves over."""
        return round(self.latency_us * 1e3 + self.leftover_ms * 1e6 * layer_wise)


@cache
def presets() -> dict[str, Link]:
    """The links that come with the package, by name."""
    text = files("phasewise.perf").joinpath("data/links.toml").read_text(encoding="utf-8")
    return {
        name: msgspec.convert({"name": name, **values}, Link) for name, values in tomllib.loads(text)["links"].items()
    }


def resolve_link(spec: LinkSpec, where: str | None = "link") -> Link:
    """The link that `spec` means: its preset, with what differs from it. A `gb_s` of its own is for the whole replica.

    Raises InputError, led by `where`, for an unknown preset or transfer, and a number that makes no sense.
    """
    if spec.name not in presets():
        raise unknown("link", spec.name, presets(), where)
    if spec.transfer not in TRANSFERS:
        raise unknown("transfer", spec.transfer, TRANSFERS, where)
    if spec.gb_s is not None and not (math.isfinite(spec.gb_s) and spec.gb_s > 0):
        raise InputError(f"gb_s is {spec.gb_s}; give a number above 0, or name the link free", where)
    if spec.latency_us is not None and not (math.isfinite(spec.latency_us) and spec.latency_us >= 0):
        raise InputError(f"latency_us is {spec.latency_us}; give a number of at least 0", where)
    if spec.layer_wise_from < 0:
        raise InputError(f"layer_wise_from is {spec.layer_wise_from}; give a number of tokens, at least 0", where)
    link = presets()[spec.name]
    if spec.gb_s is not None:
        source = f"bandwidth as given; the rest of {link.name}: {link.source}"
        link = msgspec.structs.replace(link, gb_s=spec.gb_s, per_device=False, source=source)
    if spec.latency_us is not None:
        link = msgspec.structs.replace(link, latency_us=spec.latency_us)
    return link


def sends(resolved: Resolved) -> list[float]:
    """What each replica of a deployment can send at most, and at the same time take in, bytes/s (inf: no limit)."""
    link = resolve_link(resolved.deployment.link)
    return [link.bytes_per_ns(replica.tp * replica.pp) * NS_PER_S for replica in resolved.replicas]


def layer_wise(spec: LinkSpec, batch_tokens: int) -> bool:
    """Whether the prompts of a step of `batch_tokens` prompt tokens are sent layer by layer (Splitwise: large ones)."""
    if spec.transfer in (SERIALISED, LAYER_WISE):
        return spec.transfer == LAYER_WISE
    return batch_tokens >= spec.layer_wise_from


def handed_bytes(model: ModelSpec, tokens: int) -> int:
    """Bytes that hand over `tokens` cached tokens of one request, over all devices of a replica.

    Each key-value head and each latent vector is sent once, on however many devices a replica holds it; of a layer with a
    window only what the window still sees. Engines send whole blocks: less than one more.
    """
    return model.kv_bytes(tokens)


def visible_ns(
    nbytes: int, prompt_ns: int, layers: int, bytes_per_ns: float, layer_wise: bool, after_ns: int = 0
) -> int:
    """Nanoseconds from the end of a prompt until its keys and values are there, on a link with nothing else on it.

    Serialised: bytes / rate. Layer-wise, for a step of `prompt_ns` that computes `layers` equal layers one after the other:
    max(bytes / rate - prompt_ns * (1 - 1 / layers), bytes / layers / rate), as the first layer must be there before anything
    can be sent, and the last one before it can. `after_ns` (`Link.after_ns`) is added to either.
    """
    sent_ns = nbytes / bytes_per_ns
    if layer_wise:
        sent_ns = max(sent_ns - prompt_ns * (1 - 1 / layers), sent_ns / layers)
    return math.ceil(sent_ns) + after_ns
