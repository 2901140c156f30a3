"""Descriptions in YAML: read in full, and refused by section with the nearest name."""

import pytest

from phasewise.core.errors import InputError
from phasewise.workload.arrivals import FixedGaps, Gamma, Poisson
from phasewise.workload.description import parse_description
from phasewise.workload.lengths import FixedLength, LogNormal, QuantileTable
from phasewise.workload.synth import Synthetic

FULL = """
name: chat
arrivals: {kind: gamma, rate: 5, cv: 2}
prompt: {kind: lognormal, median: 800, sigma: 1, min: 4, max: 8000}
output: {kind: quantiles, probabilities: [0, 0.5, 1], values: [1, 100, 900]}
correlation: 0.2
max_tokens: 1024
"""
SMALL = "arrivals: {kind: poisson, rate: 1e1}\nprompt: {kind: fixed, tokens: 5}\noutput: {kind: fixed, tokens: 9}\n"


def parse(text):
    return parse_description(text, "stem", "w.yaml")


def test_every_field_is_read():
    assert parse(FULL) == Synthetic(
        name="chat",
        arrivals=Gamma(rate=5.0, cv=2.0),
        prompt=LogNormal(sigma=1.0, median=800.0, min=4, max=8000),
        output=QuantileTable(probabilities=(0.0, 0.5, 1.0), values=(1.0, 100.0, 900.0)),
        correlation=0.2,
        max_tokens=1024,
    )


def test_defaults_and_a_rate_in_powers_of_ten():
    assert parse(SMALL) == Synthetic("stem", Poisson(rate=10.0), FixedLength(tokens=5), FixedLength(tokens=9))
    assert parse(SMALL.replace("poisson", "fixed")).arrivals == FixedGaps(rate=10.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "w.yaml: nothing where keys and values belong; give arrivals, prompt, output"),
        ("[1, 2]", "w.yaml: list [1, 2] where"),
        ("a: [", "w.yaml:1: not YAML"),
        ("a: 1\nb: {\nc", "w.yaml:3: not YAML"),
        ("x: 2023-99-99", "w.yaml: not YAML (month must be in 1..12)"),
        ("a: !!python/object:os.x {}", "w.yaml:1: not YAML"),
        ("\0", "w.yaml: not YAML"),
        ("- " * 100_000, "w.yaml: nested more than 10 deep"),
        ("[" * 100_000 + "]" * 100_000, "w.yaml: nested more than 10 deep"),
        (SMALL + "maxtokens: 3", "w.yaml: unknown field 'maxtokens'; did you mean 'max_tokens'?"),
        (SMALL + '"a\\nb": 3', "w.yaml: unknown field 'a b'"),
        (SMALL + "max_tokens: 0", "w.yaml: max_tokens 0 is out of range"),
        (SMALL + "max_tokens: many", "w.yaml: expected 'int | null', got 'str' at 'max_tokens'"),
        (SMALL + "correlation: 2", "w.yaml: correlation 2.0 is out of range; give -1 to 1"),
        (SMALL + "name: 5", "w.yaml: expected 'str', got 'int' at 'name'"),
        (SMALL.replace("prompt:", "promt:"), "w.yaml: unknown field 'promt'; did you mean 'prompt'?"),
        ("arrivals: {kind: poisson, rate: 1}", "w.yaml: no 'prompt'; a workload needs arrivals, prompt, output"),
        (SMALL.replace("rate", "rat"), "w.yaml: arrivals: unknown field 'rat'; did you mean 'rate'?"),
        (SMALL.replace("poisson", "poison"), "w.yaml: arrivals: unknown kind 'poison'; did you mean 'poisson'?"),
        (SMALL.replace("poisson", "[1]"), "w.yaml: arrivals: unknown kind '[1]'"),
        (SMALL.replace(", rate: 1e1", ""), "w.yaml: arrivals: object missing required field 'rate'"),
        (SMALL.replace("1e1", ".nan"), "w.yaml: arrivals: rate nan is not a rate"),
        (SMALL.replace("1e1", "-3"), "w.yaml: arrivals: rate -3.0 is not a rate"),
        (SMALL.replace("1e1", "[1]"), "w.yaml: arrivals: expected 'float', got 'array' at 'rate'"),
        (SMALL.replace("5", "5.5"), "w.yaml: prompt: expected 'int', got 'float' at 'tokens'"),
        (SMALL.replace("5", "true"), "w.yaml: prompt: expected 'int', got 'bool' at 'tokens'"),
        (SMALL.replace("9", "-9"), "w.yaml: output: tokens -9 is out of range"),
        (
            SMALL.replace("kind: fixed, ", ""),
            "w.yaml: prompt: no 'kind'; give a kind (fixed, lognormal, q",
        ),
        (SMALL.replace("{kind: fixed, tokens: 9}", "7"), "w.yaml: output: int 7 where keys and values belong"),
        (FULL.replace("100,", "x,"), "w.yaml: output: expected 'float', got 'str' at 'values[1]'"),
        (FULL.replace("0.5,", "1.5,"), "w.yaml: output: probability 1.0 is out of range; they must climb"),
    ],
)
def test_what_is_wrong_is_named(text, says):
    with pytest.raises(InputError) as error:
        parse(text)
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


def test_a_name_stays_on_one_line():
    assert parse(SMALL + 'name: "a\\n\\tb\\u0007"').name == "a b?"
