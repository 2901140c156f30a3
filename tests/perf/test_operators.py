"""Single operators against hand-computed times on a device of round numbers."""

import msgspec
import pytest

from phasewise.core.spec import DeviceSpec
from phasewise.perf.efficiency import ideal
from phasewise.perf.operators import all_gather_ns, all_reduce_ns, elementwise_ns, gemm_ns

# 1 TFLOP/s is 1000 operations a nanosecond, 1 GB/s a byte a nanosecond.
ROUND = DeviceSpec("round", 1.0, 10.0, 1.0, 2.0, "made up")


def test_a_small_product_is_bound_by_weights_and_a_large_one_by_arithmetic() -> None:
    memory = (1 * 100 + 100 * 200 + 1 * 200) * 2 / 10
    assert gemm_ns(ROUND, ideal(), 1, 200, 100, 2) == pytest.approx(memory)
    compute = 2 * 1000 * 200 * 100 / 1000
    assert compute > (1000 * 100 + 100 * 200 + 1000 * 200) * 2 / 10 / 2
    slow = msgspec.structs.replace(ideal(), gemm_compute=0.1)
    assert gemm_ns(ROUND, slow, 1000, 200, 100, 2) == pytest.approx(compute / 0.1)


def test_overlap_runs_from_the_sum_to_the_larger() -> None:
    compute, memory = 2 * 100 * 200 * 100 / 1000, (100 * 100 + 100 * 200 + 100 * 200) * 2 / 10
    times = {
        p: gemm_ns(ROUND, msgspec.structs.replace(ideal(), gemm_overlap=p), 100, 200, 100, 2)
        for p in (1.0, 2.0, float("inf"))
    }
    assert times[1.0] == pytest.approx(compute + memory)
    assert times[2.0] == pytest.approx((compute**2 + memory**2) ** 0.5)
    assert times[float("inf")] == pytest.approx(max(compute, memory))


def test_launch_times_are_added() -> None:
    fit = msgspec.structs.replace(ideal(), gemm_launch_us=3.0, elementwise_launch_us=2.0, elementwise_bandwidth=0.5)
    assert gemm_ns(ROUND, fit, 1, 200, 100, 2) == pytest.approx(gemm_ns(ROUND, ideal(), 1, 200, 100, 2) + 3000)
    assert elementwise_ns(ROUND, fit, 50.0) == pytest.approx(2000 + 50 / 10 / 0.5)


def test_a_ring_of_four() -> None:
    fit = msgspec.structs.replace(ideal(), all_reduce_launch_us=4.0, all_reduce_hop_us=0.1, all_reduce_link=0.5)
    assert all_reduce_ns(ROUND, fit, 4, 800.0) == pytest.approx(4000 + 2 * 3 * 100 + 2 * 3 / 4 * 800 / (2 * 0.5))
    assert all_gather_ns(ROUND, fit, 4, 800.0) == pytest.approx(4000 + 3 * 100 + 3 / 4 * 800 / (2 * 0.5))
    assert all_reduce_ns(ROUND, fit, 1, 800.0) == all_gather_ns(ROUND, fit, 1, 800.0) == 0
