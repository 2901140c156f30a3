"""The device catalogue: data-sheet values, other names, and the error for an unknown one."""

import pytest

from phasewise.core.errors import InputError
from phasewise.perf.hardware import borrowed_efficiency, device, device_names


def test_data_sheets_of_the_two_fitted_devices() -> None:
    a100, h100 = device("a100"), device("h100")
    assert (a100.memory_gib, a100.memory_gb_s, a100.bf16_tflops, a100.link_gb_s) == (80, 2039, 312, 300)
    assert (h100.memory_gib, h100.memory_gb_s, h100.bf16_tflops, h100.link_gb_s) == (80, 3350, 989, 450)


@pytest.mark.parametrize("name", device_names())
def test_every_entry_reads_and_says_where_it_is_from(name: str) -> None:
    spec = device(name)
    assert spec.name == name
    assert spec.source
    assert min(spec.memory_gib, spec.memory_gb_s, spec.bf16_tflops) > 0
    # Every data sheet has between 80 and 450 operations to a byte; a slip of a unit would leave this range.
    assert 80 < spec.bf16_tflops * 1e3 / spec.memory_gb_s < 450
    assert borrowed_efficiency(name) in {"a100", "h100"}


def test_other_names_and_case() -> None:
    assert device("H100-SXM") == device("h100")
    assert device("a100-80gb") == device("a100")
    assert borrowed_efficiency("of-my-own") is None


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^deploy\.yaml: unknown device 'h1000'; did you mean 'h100'\?$"):
        device("h1000", "deploy.yaml")
