"""How far kernels stay below the data sheet: a dozen fitted constants a device. It knows no model and no step.

The constants come from `bench/efficiency.py`, which writes `data/efficiency.toml`; how they enter a time is written
in `operators` and `roofline`. A device without a fit of its own borrows the shares and launch times of the fitted
device that its data sheet names (H100 for Hopper and later, A100 for the others and for any device that names none, as
the more careful of the two), and its basis says that only its data sheet is its own.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from math import inf

import msgspec

from phasewise.core.spec import DeviceSpec

FITTED = "roofline, fitted on A100/H100 kernels"
DATA_SHEET = "roofline, data sheet only"


class Efficiency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares of the data sheet (0 to 1, fitted ones may pass 1) and fixed times (microseconds, seconds for `host_s`).

    `gemm_overlap` is the exponent p that joins compute and memory time, (c^p + m^p)^(1/p): 1 adds them, infinity
    takes the larger. `attention_bandwidth` is for reading keys and values, `attention_token_bandwidth` for the
    queries, outputs and new keys and values of prompt chunks, `attention_head_us` for each query head of each
    decoding sequence. `moe_*` are for all experts of one layer in one grouped product, as `gemm_*` for a plain one;
    `*_fp8_compute` are shares of the fp8 throughput. `latent_launch_us` and `latent_token_bytes` are the small kernels of
    one layer's latent attention, and the traffic of a token in them. `host_s` is the time of a step outside the device.
    """

    basis: str
    gemm_launch_us: float
    gemm_compute: float
    gemm_bandwidth: float
    gemm_overlap: float
    gemm_fp8_compute: float
    elementwise_launch_us: float
    elementwise_bandwidth: float
    attention_chunk_launch_us: float
    attention_compute: float
    attention_token_bandwidth: float
    attention_decode_launch_us: float
    attention_head_us: float
    attention_bandwidth: float
    moe_launch_us: float
    moe_compute: float
    moe_bandwidth: float
    moe_overlap: float
    moe_fp8_compute: float
    latent_launch_us: float
    latent_token_bytes: float
    all_reduce_launch_us: float
    all_reduce_hop_us: float
    all_reduce_link: float
    host_s: float


def ideal() -> Efficiency:
    """The data sheet taken at its word: every share 1, every fixed time 0, compute and memory fully overlapped."""
    values = {}
    for field in Efficiency.__struct_fields__[1:]:
        share = field.endswith(("_compute", "_bandwidth", "_link"))
        values[field] = inf if field.endswith("_overlap") else 1.0 if share else 0.0
    return Efficiency(DATA_SHEET, **values)


@cache
def _fits() -> dict[str, dict[str, float]]:
    text = files("phasewise.perf").joinpath("data/efficiency.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, dict[str, float]])


def efficiency(device: DeviceSpec) -> Efficiency:
    """The constants of `device`: its own fit, or those that it borrows. The basis says which."""
    fits = _fits()
    # A user's file may call its device as a fitted one is called; it has the fit only if it says so.
    own = device.name in fits and device.efficiency == device.name
    row = fits[device.name if own else device.efficiency or "a100"]
    return msgspec.convert({"basis": FITTED if own else DATA_SHEET, **row}, Efficiency)
