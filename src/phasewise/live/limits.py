"""Who may ask, how often, and how much: keys, token buckets, and the sizes beyond which the gateway listens no more."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable

import msgspec

from phasewise.live.errors import Fault
from phasewise.live.service import Service


class Limits(msgspec.Struct, frozen=True):
    """What the gateway bears. Seconds are those that a client may take.

    `head_s` for the head of a request, `body_s` for its body, `stall_s` without reading what was sent to it, `idle_s` between
    two requests on one connection. `prompt_chars`: characters for each token of the context beyond which a prompt is not even
    encoded. `choices`: answers to one request. `waiting`: requests in the queue, beyond which new ones are sent away to come
    again after `retry_s`. `rate`: requests per second and key, `burst` of them at once (None: any).
    """

    body_bytes: int = 4 << 20
    head_bytes: int = 32 << 10
    head_s: float = 15.0
    body_s: float = 30.0
    stall_s: float = 60.0
    idle_s: float = 65.0
    prompt_chars: int = 64
    choices: int = 64
    waiting: int = 1024
    retry_s: float = 1.0
    rate: float | None = None
    burst: int = 10


class Bucket:
    """A token bucket: `burst` at once, `rate` a second over time."""

    def __init__(self, rate: float, burst: int, now_s: float) -> None:
        self._rate, self._burst = rate, burst
        self._level, self._at_s = float(burst), now_s

    def take(self, now_s: float) -> float:
        """Take one; returns 0, or after how many seconds there will be one to take."""
        self._level = min(self._burst, self._level + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._level < 1:
            return (1 - self._level) / self._rate
        self._level -= 1
        return 0.0


class Door:
    """Lets requests in. Keys are held as digests only; the number of a key (from 0, -1 without keys) names it in the log."""

    def __init__(self, keys: Iterable[str], limits: Limits, now_s: float) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._limits = limits
        self._buckets = {
            k: Bucket(limits.rate, limits.burst, now_s) for k in range(-1, len(self._digests)) if limits.rate
        }

    @property
    def locked(self) -> bool:
        """Whether a key is needed."""
        return bool(self._digests)

    def who(self, authorization: str | None) -> int:
        """The number of the key in an `Authorization` header. All keys are compared, each in constant time."""
        if not self._digests:
            return -1
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Fault(401, "an API key is needed: send 'Authorization: Bearer KEY'", code="missing_api_key")
        digest = hashlib.sha256(key.strip().encode()).digest()
        right = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(right):
            raise Fault(401, "the API key is not one that this server knows", code="invalid_api_key")
        return right.index(True)

    def admit(self, who: int, service: Service, now_s: float) -> None:
        """Raise the fault for a request that is not to be taken now."""
        limits = self._limits
        if service.draining:
            raise Fault(
                503, "the server is shutting down and takes no new requests", code="draining", retry_s=limits.retry_s
            )
        if not service.ready:
            raise Fault(503, "the model is not ready yet", code="not_ready", retry_s=limits.retry_s)
        bucket = self._buckets.get(who)
        if bucket is not None and (wait_s := bucket.take(now_s)):
            message = f"more than {limits.rate:g} requests a second with this key; try again in {math.ceil(wait_s)} s"
            raise Fault(429, message, code="rate_limit_exceeded", retry_s=wait_s)
        if (waiting := service.load().waiting) >= limits.waiting:
            message = f"{waiting} requests wait already, and the queue holds {limits.waiting}"
            raise Fault(503, message, code="queue_full", retry_s=limits.retry_s)
