"""The device catalogue: data-sheet values, other names, a user's own, and the error for an unknown one."""

from pathlib import Path

import msgspec
import pytest

from phasewise.core.errors import InputError
from phasewise.perf.hardware import device, device_aliases, device_names, device_origin, find_device

# memory GiB, GB/s, bf16, fp8 and fp4 TFLOP/s, TDP W, link GB/s: NVIDIA's and AMD's data sheets, written down apart from the
# catalogue. None: the sheet has no such rate.
SHEETS = {
    "a100": (80, 2039, 312, None, None, 400, 300),
    "a100-40gb": (40, 1555, 312, None, None, 400, 300),
    "a100-pcie": (80, 1935, 312, None, None, 300, 32),
    "a30": (24, 933, 165, None, None, 165, 32),
    "h100": (80, 3350, 989, 1978, None, 700, 450),
    "h100-pcie": (80, 2000, 756.5, 1513, None, 350, 64),
    "h200": (141, 4800, 989, 1978, None, 700, 450),
    "h800": (80, 3350, 989, 1978, None, 700, 200),
    "h20": (96, 4000, 148, 296, None, 400, 450),
    "l4": (24, 300, 121, 242, None, 72, 32),
    "b200": (180, 7700, 2250, 4500, 9000, 1000, 900),
    "rtx4090": (24, 1008, 165.2, 330.3, None, 450, 32),
    "mi300x": (192, 5300, 1307.4, 2614.9, None, 750, 448),
}
WANTED = ["a40", "a10g", "a6000", "gh200", "l40s", "rtx-pro-6000", "b300", "gb200", "gb300", "b60", "cpu"]


@pytest.mark.parametrize("name", SHEETS)
def test_data_sheets(name: str) -> None:
    spec = device(name)
    said = (
        spec.memory_gib,
        spec.memory_gb_s,
        spec.bf16_tflops,
        spec.fp8_tflops,
        spec.fp4_tflops,
        spec.tdp_w,
        spec.link_gb_s,
    )
    assert said == SHEETS[name]


def test_the_catalogue_holds_what_it_promises() -> None:
    assert set(device_names()) == {*SHEETS, *WANTED}


@pytest.mark.parametrize("name", device_names())
def test_every_entry_reads_and_says_where_it_is_from(name: str) -> None:
    spec = device(name)
    assert spec.name == name
    assert spec.source
    assert device_origin(name) == "built in"
    assert min(spec.memory_gib, spec.memory_gb_s, spec.bf16_tflops) > 0
    # Every sheet has between 30 and 450 operations to a byte; a slip of a unit would leave this range.
    assert 30 < spec.bf16_tflops * 1e3 / spec.memory_gb_s < 450
    assert spec.efficiency in {"a100", "h100"}
    assert spec.tdp_w is not None
    assert (spec.price_per_hour is None) == (spec.price_source is None)
    assert (spec.link is None) == (spec.link_gb_s == 0)
    assert 0 < (spec.idle_w or 1) < spec.tdp_w
    assert (spec.min_clock_mhz or 0) < (spec.max_clock_mhz or 1e9)
    assert spec.fp8_peak_tflops == (spec.fp8_tflops or spec.bf16_tflops)


def test_other_names_and_case() -> None:
    assert device("H100-SXM") == device("h100")
    assert device("a100-80gb") == device("a100")
    assert device_aliases("h100") == ["h100-80gb", "h100-sxm"]
    assert find_device("no-such") is None


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^deploy\.yaml: unknown device 'h1000'; did you mean 'h100'\?$"):
        device("h1000", "deploy.yaml")


MINE = 'memory_gib = 48.0\nmemory_gb_s = 900\nbf16_tflops = 200.0\nsource = "measured"\n'


def test_a_device_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE + 'efficiency = "h100"\n')
    spec = device(str(tmp_path / "mine.toml"))
    assert (spec.name, spec.memory_gb_s, spec.link_gb_s, spec.efficiency) == ("mine", 900.0, 0.0, "h100")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memory_gib = 48.0\n", "needs 'memory_gb_s'"),
        (MINE + "tdp = 300\n", "unknown key 'tdp'; did you mean 'tdp_w'"),
        (MINE + 'tdp_w = "300"\n', "Expected 'float | null', got 'str' - at '\\$.tdp_w'"),
        (MINE + "idle_w = -1.0\n", "idle_w is -1.0; give a number above 0"),
        (MINE.replace("900", "0"), "memory_gb_s is 0.0"),
        (MINE.replace("900", "inf"), "memory_gb_s is inf"),
        (MINE.replace("900", "nan"), "memory_gb_s is nan"),
        (MINE + 'efficiency = "h10"\n', "unknown efficiency 'h10'; did you mean 'h100'"),
        ("memory_gib = \n", "not valid TOML"),
    ],
)
def test_bad_files_say_which_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        device(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file() -> None:
    with pytest.raises(InputError, match=r"^no/such\.toml: cannot read the file"):
        device("no/such.toml")


def test_the_users_catalogue_adds_and_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "catalogue.toml"
    path.write_text("[devices.lab-gpu]\n" + MINE + "[devices.h100]\n" + MINE)
    monkeypatch.setenv("PHASEWISE_CATALOGUE", str(path))
    assert device("lab-gpu").memory_gb_s == device("h100").memory_gb_s == 900
    assert device_origin("lab-gpu") == str(path)
    assert {"lab-gpu", "h100", "a100"} <= set(device_names())
    assert msgspec.structs.replace(device("h100-sxm"), name="lab-gpu") == device("lab-gpu")
    with pytest.raises(InputError, match="did you mean 'lab-gpu'"):
        device("lab-gpus")
    path.write_text("[devices.lab-gpu]\n" + MINE.replace("900", '"fast"'))
    with pytest.raises(InputError, match=r"catalogue\.toml: devices\.lab-gpu: Expected 'float'"):
        device("lab-gpu")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[device.x]\n", "unknown section 'device'; did you mean 'devices'"),
        ("devices = 3\n", r"devices: expected tables such as \[devices\.NAME\]"),
        ("[devices]\nx = 3\n", r"devices\.x: expected a table of keys and values, got 3"),
        ("[", "not valid TOML"),
        (None, "cannot read the file"),
    ],
)
def test_a_bad_catalogue_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str
) -> None:
    path = tmp_path / "catalogue.toml"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("PHASEWISE_CATALOGUE", str(path))
    with pytest.raises(InputError, match=said) as caught:
        device_names()
    assert str(caught.value).startswith(str(path))


def test_the_catalogue_in_the_configuration_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHASEWISE_CATALOGUE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert find_device("lab-gpu") is None
    (tmp_path / "phasewise").mkdir()
    (tmp_path / "phasewise" / "catalogue.toml").write_text("[devices.lab-gpu]\n" + MINE)
    assert find_device("LAB-GPU") == "lab-gpu"
