"""Time is an integer count of nanoseconds everywhere; seconds appear only at the edges (files, flags, tables)."""

NS_PER_S = 1_000_000_000


def to_ns(seconds: float) -> int:
    """Nearest whole nanosecond to `seconds`."""
    return round(seconds * NS_PER_S)


def to_s(ns: float) -> float:
    """Seconds for a count of nanoseconds."""
    return ns / NS_PER_S
