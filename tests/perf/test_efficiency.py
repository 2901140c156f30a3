"""The fitted constants: who has them, who borrows them, and what the basis says."""

import msgspec
import pytest

from phasewise.core.spec import DeviceSpec
from phasewise.perf.efficiency import efficiency, ideal
from phasewise.perf.hardware import device, device_names


def test_the_basis_names_fitted_devices_only() -> None:
    basis = {name: efficiency(device(name)).basis for name in device_names()}
    fitted = {name for name, text in basis.items() if text == "roofline, fitted on A100/H100 kernels"}
    assert fitted == {"a100", "h100"}
    assert {text for name, text in basis.items() if name not in fitted} == {"roofline, data sheet only"}


def test_others_borrow_constants() -> None:
    h100, h200 = efficiency(device("h100")), efficiency(device("h200"))
    assert msgspec.structs.replace(h200, basis=h100.basis) == h100
    mine = efficiency(DeviceSpec("mine", 80.0, 2000.0, 300.0, 0.0, "made up"))
    assert mine.gemm_compute == efficiency(device("a100")).gemm_compute
    assert mine.basis == "roofline, data sheet only"


@pytest.mark.parametrize("name", ["a100", "h100"])
def test_fitted_constants_are_physical(name: str) -> None:
    fit = msgspec.structs.asdict(efficiency(device(name)))
    shares = [v for k, v in fit.items() if k.endswith(("_compute", "_bandwidth", "_link"))]
    launches = [v for k, v in fit.items() if k.endswith("launch_us")]
    assert len(shares) == 11
    assert all(0.2 < share < 1 for share in shares)
    assert len(launches) == 7
    assert all(1 < launch < 60 for launch in launches)
    assert fit["gemm_overlap"] >= 1
    assert 0.5 < fit["moe_overlap"] < 4
    assert 0 <= fit["host_s"] < 0.01


def test_the_ideal_device_costs_nothing_beyond_its_data_sheet() -> None:
    values = msgspec.structs.asdict(ideal())
    assert {v for k, v in values.items() if k.endswith(("_us", "_s", "_bytes"))} == {0.0}
    assert {v for k, v in values.items() if k.endswith("_overlap")} == {float("inf")}
    assert {v for k, v in values.items() if k.endswith(("_compute", "_bandwidth", "_link"))} == {1.0}
