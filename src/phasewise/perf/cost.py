"""What a deployment takes: how many devices, and what they cost to rent. It knows no load and no capacity."""

from __future__ import annotations

from phasewise.core.spec import Deployment, Resolved


def devices(deployment: Deployment) -> int:
    """Devices of all groups together: count x tp x pp."""
    return sum(group.count * group.tp * group.pp for group in deployment.replicas)


def price_per_hour(resolved: Resolved) -> float | None:
    """US dollars an hour for all devices, by their data sheets; None if one of them has no price."""
    prices = [(replica.device.price_per_hour, replica.tp * replica.pp) for replica in resolved.replicas]
    total = sum((price or 0.0) * count for price, count in prices)
    return None if any(price is None for price, _ in prices) else total
