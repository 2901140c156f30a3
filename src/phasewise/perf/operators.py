"""Times of single operators on one device, nanoseconds. It knows no layers and no requests; `roofline` joins them.

With Pi the data sheet's bf16 throughput, BW its memory bandwidth and eta the fitted share of `Efficiency`:

    gemm           t0 + (c^p + m^p)^(1/p),  c = 2*m*n*k / (eta Pi),  m = (m*k + k*n + m*n) * bytes / (eta BW)
    experts        the same form with shares of its own; n tokens that take k of E experts each move the weights of
                   E * (1 - (1 - k/E)^n) experts and do the operations of n*k rows
    elementwise    t0 + bytes / (eta BW)
    all-reduce     t0 + 2*(N-1)*hop + 2*(N-1)/N * bytes / (eta link)

Weights in fp8 are multiplied at the fp8 throughput, their inputs in fp8 too (the kernel that quantises the inputs is left
out); without an fp8 unit, and for mxfp4, only the traffic shrinks. A router is taken to choose evenly and at random: that
a skewed one touches fewer experts when tokens are few, and overloads some when they are many, is left out.
"""

from __future__ import annotations

from phasewise.core.model import WEIGHT_BYTES, MoE
from phasewise.core.spec import DeviceSpec
from phasewise.perf.efficiency import Efficiency


def flop_ns(device: DeviceSpec, share: float) -> float:
    """Nanoseconds that one floating-point operation takes at `share` of the data sheet's bf16 throughput."""
    return 1.0 / (device.bf16_tflops * 1e3 * share)


def byte_ns(device: DeviceSpec, share: float) -> float:
    """Nanoseconds that one byte from or to device memory takes at `share` of the data sheet's bandwidth."""
    return 1.0 / (device.memory_gb_s * share)


def gemm_ns(
    device: DeviceSpec, efficiency: Efficiency, m: int, n: int, k: int, dtype_bytes: int, weights: str | None = None
) -> float:
    """A matrix product of (m, k) activations with (k, n) weights, which are stored as `weights` (None: as the activations)."""
    compute = 2.0 * m * n * k * flop_ns(device, efficiency.gemm_compute)
    moved = float(m * k + k * n + m * n) * dtype_bytes
    if weights is not None:
        compute = 2.0 * m * n * k * _product_ns(device, efficiency.gemm_compute, efficiency.gemm_fp8_compute, weights)
        inputs = _input_bytes(device, dtype_bytes, weights)
        moved = m * k * inputs + k * n * WEIGHT_BYTES[weights] + float(m * n) * dtype_bytes
    memory = moved * byte_ns(device, efficiency.gemm_bandwidth)
    return efficiency.gemm_launch_us * 1e3 + _joined(compute, memory, efficiency.gemm_overlap)


def experts_ns(
    device: DeviceSpec,
    efficiency: Efficiency,
    moe: MoE,
    tokens: int,
    hidden: int,
    ffn: int,
    matrices: int,
    dtype_bytes: int,
    weights: str,
) -> float:
    """The chosen experts of one layer for `tokens` tokens: `matrices` products each (3 if gated, else 2) between widths
    `hidden` and `ffn`, with the activation between them. The router and the shared experts are not in it."""
    rows = tokens * moe.per_token
    rate = _product_ns(device, efficiency.moe_compute, efficiency.moe_fp8_compute, weights)
    compute = 2.0 * rows * hidden * ffn * matrices * rate
    stored = moe.touched(tokens) * matrices * hidden * ffn * WEIGHT_BYTES[weights]
    moved = stored + float(rows * (2 * hidden + matrices * ffn)) * dtype_bytes
    memory = moved * byte_ns(device, efficiency.moe_bandwidth)
    return efficiency.moe_launch_us * 1e3 + _joined(compute, memory, efficiency.moe_overlap)


def _joined(compute: float, memory: float, overlap: float) -> float:
    """(c^p + m^p)^(1/p): the larger is factored out so that no power overflows; an infinite p leaves the larger alone."""
    larger, smaller = max(compute, memory), min(compute, memory)
    return larger if overlap == float("inf") else larger * (1.0 + (smaller / larger) ** overlap) ** (1.0 / overlap)


def _in_fp8(device: DeviceSpec, weights: str) -> bool:
    return weights == "fp8" and device.fp8_tflops is not None


def _product_ns(device: DeviceSpec, share: float, fp8_share: float, weights: str) -> float:
    """Nanoseconds of one operation on weights stored as `weights`."""
    if _in_fp8(device, weights):
        return 1.0 / (device.fp8_peak_tflops * 1e3 * fp8_share)
    return flop_ns(device, share)


def _input_bytes(device: DeviceSpec, dtype_bytes: int, weights: str) -> float:
    return 1.0 if _in_fp8(device, weights) else float(dtype_bytes)


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
