"""Times of single operators on one device, nanoseconds. It knows no layers and no requests; `roofline` joins them.

With Pi the data sheet's bf16 throughput, BW its memory bandwidth and eta the fitted share of `Efficiency`:

    gemm           t0 + (c^p + m^p)^(1/p),  c = 2*m*n*k / (eta Pi),  m = (m*k + k*n + m*n) * bytes / (eta BW)
    elementwise    t0 + bytes / (eta BW)
    all-reduce     t0 + 2*(N-1)*hop + 2*(N-1)/N * bytes / (eta link)
"""

from __future__ import annotations

from phasewise.core.spec import DeviceSpec
from phasewise.perf.efficiency import Efficiency


def flop_ns(device: DeviceSpec, share: float) -> float:
    """Nanoseconds that one floating-point operation takes at `share` of the data sheet's throughput."""
    return 1.0 / (device.bf16_tflops * 1e3 * share)


def byte_ns(device: DeviceSpec, share: float) -> float:
    """Nanoseconds that one byte from or to device memory takes at `share` of the data sheet's bandwidth."""
    return 1.0 / (device.memory_gb_s * share)


def gemm_ns(device: DeviceSpec, efficiency: Efficiency, m: int, n: int, k: int, dtype_bytes: int) -> float:
    """A matrix product of (m, k) activations with (k, n) weights."""
    compute = 2.0 * m * n * k * flop_ns(device, efficiency.gemm_compute)
    memory = float(m * k + k * n + m * n) * dtype_bytes * byte_ns(device, efficiency.gemm_bandwidth)
    larger, smaller = max(compute, memory), min(compute, memory)
    # The larger is factored out so that no power overflows; an infinite exponent leaves the larger alone.
    joined = larger * (1.0 + (smaller / larger) ** efficiency.gemm_overlap) ** (1.0 / efficiency.gemm_overlap)
    return efficiency.gemm_launch_us * 1e3 + (larger if efficiency.gemm_overlap == float("inf") else joined)


def elementwise_ns(device: DeviceSpec, efficiency: Efficiency, moved_bytes: float) -> float:
    """A kernel that only moves `moved_bytes` (reads and writes together): a norm, a rotation, an activation."""
    moved = moved_bytes * byte_ns(device, efficiency.elementwise_bandwidth)
    return efficiency.elementwise_launch_us * 1e3 + moved


def all_reduce_ns(device: DeviceSpec, efficiency: Efficiency, ranks: int, size_bytes: float) -> float:
    """A ring all-reduce of `size_bytes` over `ranks` devices; nothing for one device."""
    return 0.0 if ranks == 1 else 2.0 * _ring_ns(device, efficiency, ranks, size_bytes) + _start_ns(efficiency)


def all_gather_ns(device: DeviceSpec, efficiency: Efficiency, ranks: int, size_bytes: float) -> float:
    """A ring all-gather whose result is `size_bytes`: half the way of an all-reduce; nothing for one device."""
    return 0.0 if ranks == 1 else _ring_ns(device, efficiency, ranks, size_bytes) + _start_ns(efficiency)


def _start_ns(efficiency: Efficiency) -> float:
    return efficiency.all_reduce_launch_us * 1e3


def _ring_ns(device: DeviceSpec, efficiency: Efficiency, ranks: int, size_bytes: float) -> float:
    hops = (ranks - 1) * efficiency.all_reduce_hop_us * 1e3
    return hops + (ranks - 1) / ranks * size_bytes / (device.link_gb_s * efficiency.all_reduce_link)
