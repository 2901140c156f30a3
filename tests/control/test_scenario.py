"""Scenario files: every form of line, every complaint, and that a scenario is a function of its file."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from phasewise.control.faultlines import LINES
from phasewise.control.scenario import read_scenario, scenario_from
from phasewise.core.errors import InputError
from phasewise.core.fault import MESSAGES, Cuts, Dies, Drains, Fault, Mangles, Scenario, Slows, Starts, Switches
from phasewise.core.units import NS_PER_S
from worlds import toy_resolved

ROOT = Path(__file__).parents[2]
S = NS_PER_S
ROLES = ["prefill", "prefill", "decode", "decode", "decode", "mixed"]


def fleet(tmp_path: Path, text: str, roles: list[str] = ROLES) -> Scenario:
    path = tmp_path / "night.yaml"
    path.write_text(text)
    resolved = toy_resolved(replicas=len(roles))
    replicas = tuple(msgspec.structs.replace(r, role=role) for r, role in zip(resolved.replicas, roles, strict=True))
    return read_scenario(path, msgspec.structs.replace(resolved, replicas=replicas))


def faults(tmp_path: Path, *lines: str) -> list[Fault]:
    return list(fleet(tmp_path, "faults:\n" + "".join(f"  - {line}\n" for line in lines)).faults)


FORMS: list[tuple[str, list[Fault]]] = [
    ("{replica: 2, dies_at_s: 30, back_after_s: 60}", [Dies(30 * S, 2, 90 * S)]),
    ("{replica: 0, dies_at_s: 0.5}", [Dies(S // 2, 0)]),
    ("{replica: 5, dies_at_s: 1, back_after_s: 0}", [Dies(S, 5, S)]),
    ("{replica: prefill, dies_at_s: 1}", [Dies(S, 0), Dies(S, 1)]),
    ("{replica: any, drains_at_s: 2}", [Drains(2 * S, i) for i in range(6)]),
    ("{replica: 1, slows_at_s: 10, factor: 2, for_s: 30}", [Slows(10 * S, 1, 2.0, 40 * S)]),
    ("{replica: mixed, slows_at_s: 0, factor: 0.5}", [Slows(0, 5, 0.5)]),
    ("{replica: 4, drains_at_s: 100}", [Drains(100 * S, 4)]),
    ("{replica: 5, starts_at_s: 60}", [Starts(60 * S, 5)]),
    ("{replica: 3, becomes: mixed, at_s: 20}", [Switches(20 * S, 3, "mixed")]),
    ("{link: [0, 3], lost_at_s: 5, for_s: 10}", [Cuts(5 * S, 0, 3, None, 15 * S)]),
    ("{link: [any, any], slows_at_s: 5, factor: 10, for_s: 10}", [Cuts(5 * S, None, None, 10.0, 15 * S)]),
    ("{link: [any, 2], lost_at_s: 5}", [Cuts(5 * S, None, 2)]),
    ("{link: [prefill, 1], lost_at_s: 5}", [Cuts(5 * S, 0, 1)]),
    ("{link: [1, decode], slows_at_s: 5, factor: 3}", [Cuts(5 * S, 1, i, 3.0) for i in (2, 3, 4)]),
    ("{message: submit, lost: 0.01}", [Mangles("submit", 0.01)]),
    ("{message: report, lost: 1, from_s: 1, until_s: 2}", [Mangles("report", 1.0, None, S, 2 * S)]),
    (
        "{message: any, delayed_s: 0.5, share: 0.05, from_s: 10, until_s: 20}",
        [Mangles(None, 0.05, S // 2, 10 * S, 20 * S)],
    ),
    ("{message: promptdone, delayed_s: 2}", [Mangles("promptdone", 1.0, 2 * S)]),
]


@pytest.mark.parametrize(("line", "wanted"), FORMS)
def test_every_written_form(line: str, wanted: list[Fault], tmp_path: Path) -> None:
    found = faults(tmp_path, line)
    assert found == wanted
    # Equal is not enough: 2 == 2.0, and a reader of the log is promised a float.
    assert [msgspec.to_builtins(fault) for fault in found] == [msgspec.to_builtins(fault) for fault in wanted]
    assert all(type(fault.factor) is float for fault in found if isinstance(fault, Slows))


def test_random_forms(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        "{replica: decode, mean_time_to_failure_s: 100, back_after_s: 20, from_s: 50, until_s: 2000}",
        "{replica: 0, mean_time_to_failure_s: 10, until_s: 10000}",
        "{replica: any, mean_time_to_slow_s: 100, factor: 3, for_s: 20, until_s: 1000}",
        "{replica: 1, mean_time_to_slow_s: 10, factor: 5, until_s: 10000}",
    )
    dies = [fault for fault in found if isinstance(fault, Dies)]
    assert {fault.replica for fault in dies} == {0, 2, 3, 4}
    assert [fault.back_ns for fault in dies if fault.replica == 0] == [None]
    again = [fault for fault in dies if fault.replica != 0]
    assert len(again) > 20
    assert all(50 * S < fault.at_ns < 2_000 * S and fault.back_ns == fault.at_ns + 20 * S for fault in again)
    slow = [fault for fault in found if isinstance(fault, Slows) and fault.factor == 3.0]
    assert {fault.replica for fault in slow} == set(range(6))
    assert all(fault.at_ns < 1_000 * S and fault.until_ns == fault.at_ns + 20 * S for fault in slow)
    assert [(f.replica, f.until_ns) for f in found if isinstance(f, Slows) and f.factor == 5.0] == [(1, None)]
    assert len(dies) + len(slow) + 1 == len(found)


COMPLAINTS = [
    ("{replica: 6, dies_at_s: 1}", "faults[0]: replica is 6; give 0 to 5"),
    ("{replica: -1, dies_at_s: 1}", "replica is -1; give 0 to 5"),
    ("{replica: '2', dies_at_s: 1}", "replica is text '2'; write 2"),
    (
        "{replica: decod, dies_at_s: 1}",
        "replica is text 'decod'; give a number, any, or a role (prefill, decode, mixed)",
    ),
    ("{replica: 1.5, dies_at_s: 1}", "replica: expected a whole number or text, got 1.5"),
    ("{replica: true, dies_at_s: 1}", "replica: expected a whole number or text, got true"),
    ("{replica: 1, dies_at_s: -1}", "dies_at_s is -1; give seconds, 0 or more"),
    ("{replica: 1, dies_at_s: 2000000000}", "dies_at_s is 2000000000; give seconds, 0 or more, at most 1000000000"),
    ("{replica: 1, dies_at_s: soon}", "dies_at_s: expected a number, got text 'soon'"),
    ("{replica: 1, dies_at_s: 1e1}", "dies_at_s: expected a number, got text '1e1'; write 10"),
    ("{replica: 1, dies_at_s: .nan}", "dies_at_s: expected a finite number, got nan"),
    ("{replica: 1, dies_at_s: 1, back_after_s: -2}", "back_after_s is -2; give seconds, 0 or more"),
    ("{replica: 1, dies_at_s: 1, for_s: 2}", "unknown key 'for_s'"),
    ("{replica: 1, die_at_s: 1}", "unknown key 'die_at_s'; did you mean 'dies_at_s'?"),
    ("{link: [0, 1], slow_at_s: 1, factor: 2}", "unknown key 'slow_at_s'; did you mean 'slows_at_s'?"),
    ("{1: 2}", "unknown key '1'"),
    ("{replica: 1, slows_at_s: 1}", "no 'factor', which is needed"),
    ("{replica: 1, slows_at_s: 1, factor: 0}", "factor is 0; give a number above 0"),
    ("{replica: 1, slows_at_s: 1, factor: -2.5}", "factor is -2.5; give a number above 0"),
    ("{replica: 1, slows_at_s: 1, factor: 2, for_s: 0}", "for_s is 0; give seconds above 0"),
    ("{replica: any, mean_time_to_failure_s: 10}", "no 'until_s', which is needed"),
    ("{replica: any, mean_time_to_failure_s: 0, until_s: 5}", "mean_time_to_failure_s is 0; give seconds above 0"),
    (
        "{replica: 1, mean_time_to_failure_s: 1, until_s: 5, from_s: 5}",
        "until_s is 5; give seconds above from_s, which is 5",
    ),
    ("{replica: 1, mean_time_to_failure_s: 1, until_s: 5, back_after_s: -1}", "back_after_s is -1; give seconds, 0"),
    (
        "{replica: any, mean_time_to_failure_s: 1, until_s: 600000}",
        "about 3,600,000 faults; at most 100,000: give longer",
    ),
    ("{replica: 1, mean_time_to_slow_s: 1, until_s: 5}", "no 'factor', which is needed"),
    ("{replica: 1, mean_time_to_slow_s: 1, until_s: 5, factor: 0}", "factor is 0; give a number above 0"),
    ("{replica: 1, mean_time_to_slow_s: 1, until_s: 5, factor: 2, for_s: 0}", "for_s is 0; give seconds above 0"),
    ("{replica: 1, drains_at_s: -1}", "drains_at_s is -1; give seconds, 0 or more"),
    ("{replica: 1, starts_at_s: -1}", "starts_at_s is -1; give seconds, 0 or more"),
    ("{replica: 1, becomes: mixed}", "no 'at_s', which is needed"),
    ("{replica: 1, becomes: mixd, at_s: 1}", "unknown role 'mixd'; did you mean 'mixed'?"),
    ("{replica: 1, becomes: '', at_s: 1}", "becomes: is empty; give a name"),
    ("{link: 3, lost_at_s: 1}", "link is 3; give two replicas, from and to, such as [0, 3] or [any, 2]"),
    ("{link: [1], lost_at_s: 1}", "link is [1]; give two replicas"),
    ("{link: [1, true], lost_at_s: 1}", "link is [1, True]; give two replicas"),
    ("{link: [1, 9], lost_at_s: 1}", "replica is 9; give 0 to 5"),
    ("{link: [2, 2], lost_at_s: 1}", "a link from replica 2 to itself; give two replicas"),
    ("{link: [2, 1], slows_at_s: 1, factor: 0}", "factor is 0; give a number above 0"),
    ("{link: [2, 1], lost_at_s: -1}", "lost_at_s is -1; give seconds, 0 or more"),
    ("{link: [2, 1], lost_at_s: 1, for_s: -1}", "for_s is -1; give seconds above 0"),
    ("{message: submits, lost: 0.1}", "unknown message 'submits'; did you mean 'submit'?"),
    ("{message: submit, lost: 0}", "lost is 0; give the share of messages, above 0 and at most 1"),
    ("{message: submit, lost: 1.5}", "lost is 1.5; give the share of messages, above 0 and at most 1"),
    ("{message: submit, delayed_s: 1, share: 5}", "share is 5; give the share of messages"),
    ("{message: submit, delayed_s: 0}", "delayed_s is 0; give seconds above 0"),
    ("{message: submit, lost: 0.1, from_s: 3, until_s: 2}", "until_s is 2; give seconds above from_s, which is 3"),
    ("{message: submit, lost: 0.1, from_s: -3}", "from_s is -3; give seconds, 0 or more"),
    ("{message: submit, lost: 0.1, share: 0.2}", "unknown key 'share'"),
    ("3", "expected a fault such as {replica: 2, dies_at_s: 30}, got 3"),
    ("{}", "a fault with nothing that it is about; give one of replica, link, message"),
    ("{dies_at_s: 3}", "a fault with nothing that it is about; give one of replica, link, message"),
    (
        "{replica: 1, message: submit, lost: 1}",
        "a fault with 'replica' and 'message'; give one of replica, link, message",
    ),
    (
        "{replica: 1}",
        "a replica with nothing that happens to it; give one of dies_at_s, mean_time_to_failure_s, slows_at_s, "
        "mean_time_to_slow_s, drains_at_s, starts_at_s, becomes",
    ),
    ("{replica: 1, lost_at_s: 2}", "a replica with 'lost_at_s'; give one of dies_at_s,"),
    ("{link: [0, 1], for_s: 2}", "a link with nothing that happens to it; give one of lost_at_s, slows_at_s"),
    (
        "{message: submit, lost: 0.1, delayed_s: 2}",
        "a message with 'lost' and 'delayed_s'; give one of lost, delayed_s, each on a line of its own",
    ),
]


@pytest.mark.parametrize(("line", "complaint"), COMPLAINTS)
def test_a_bad_line_is_one_line_with_its_place(line: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(complaint)) as error:
        faults(tmp_path, line)
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 'night.yaml'}: " + ("about" if "about 3,6" in said else "faults[0]: "))
    assert "\n" not in said


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (
            ["{replica: 1, dies_at_s: 5}", "{replica: 1, dies_at_s: 9}"],
            "faults[1]: replica 1 is down from 5 s for good",
        ),
        (
            ["{replica: any, dies_at_s: 6}", "{replica: 2, dies_at_s: 5.5, back_after_s: 2}"],
            "faults[0]: replica 2 is down from 5.5 s until 7.5 s; give another time",
        ),
        (
            ["{replica: 1, dies_at_s: 5, back_after_s: 4}", "{replica: 1, dies_at_s: 9}"],
            "faults[1]: replica 1 is down from 5 s until 9 s",
        ),
        (["{replica: 1, dies_at_s: 5}", "{replica: 1, drains_at_s: 9}"], "faults[1]: replica 1 is down from 5 s"),
        (
            ["{replica: 1, dies_at_s: 5}", "{replica: 1, becomes: mixed, at_s: 9}"],
            "faults[1]: replica 1 is down from 5 s",
        ),
        (
            ["{replica: 1, starts_at_s: 5}", "{replica: any, starts_at_s: 9}"],
            "faults[1]: replica 1 starts at 5 s already",
        ),
        (
            ["{replica: 1, dies_at_s: 5}", "{replica: 1, starts_at_s: 5}"],
            "faults[0]: replica 1 is not there before it starts; give more than 5 s",
        ),
        (["{replica: 1, starts_at_s: 5}", "{replica: 1, drains_at_s: 4}"], "faults[1]: replica 1 is not there before"),
    ],
)
def test_a_replica_that_is_not_there_is_left_alone(lines: list[str], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(complaint)):
        faults(tmp_path, *lines)


def test_a_replica_that_is_back_may_die_again(tmp_path: Path) -> None:
    lines = [
        "{replica: 1, starts_at_s: 4}",
        "{replica: 1, dies_at_s: 5, back_after_s: 4}",
        "{replica: 1, dies_at_s: 9.1}",
    ]
    assert len(faults(tmp_path, *lines, "{replica: 0, dies_at_s: 9}")) == 4


def test_random_failures_make_way_for_written_ones(tmp_path: Path) -> None:
    """In whichever order the lines stand; the other replicas are as they would be without."""
    by_chance = "{replica: any, mean_time_to_failure_s: 50, back_after_s: 10, until_s: 1000}"
    written = "{replica: 2, dies_at_s: 300, back_after_s: 400}"
    found = faults(tmp_path, written, by_chance)
    assert found == faults(tmp_path, by_chance, written)
    assert found[0] == Dies(300 * S, 2, 700 * S)
    mine = [fault for fault in found[1:] if isinstance(fault, Dies) and fault.replica == 2]
    assert len(mine) > 5
    assert not any(290 * S <= fault.at_ns <= 700 * S for fault in mine)
    alone = faults(tmp_path, by_chance)
    assert any(300 * S <= fault.at_ns <= 700 * S for fault in alone if isinstance(fault, Dies) and fault.replica == 2)
    others = [[f for f in run if isinstance(f, Dies) and f.replica != 2] for run in (found, alone)]
    assert others[0] == others[1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a scenario has keys and values: name, seed, faults"),
        ("- 3", "a scenario has keys and values"),
        (
            "seed: 3",
            "no list of 'faults', which is needed; give lines such as {replica: 2, dies_at_s: 30}, or [] for none",
        ),
        ("faults:", "no list of 'faults', which is needed"),
        ("faults: {replica: 1, dies_at_s: 3}", "no list of 'faults', which is needed"),
        ("fault: []", "unknown key 'fault'; did you mean 'faults'?"),
        ("seed: -1\nfaults: []", "seed is -1; give a whole number, 0 or more"),
        (
            "seed: 9223372036854775808\nfaults: []",
            "seed is 9223372036854775808; give a whole number, 0 or more and below 2^63",
        ),
        ("seed: true\nfaults: []", "seed is True; give a whole number"),
        ("seed: 1.5\nfaults: []", "seed is 1.5; give a whole number"),
        ("name: 3\nfaults: []", "name is 3; give text"),
        ("faults: [}", "not YAML"),
        ("faults: [{replica: 1, replica: 2, dies_at_s: 1}]", "key 'replica' stands here twice"),
    ],
)
def test_a_bad_file_is_one_line(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(complaint)) as error:
        fleet(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "night.yaml"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml"):
        read_scenario(tmp_path / "gone.yaml", 1)


def test_name_and_seed(tmp_path: Path) -> None:
    assert fleet(tmp_path, "faults: []") == Scenario((), 0, "night")
    assert fleet(tmp_path, "name: calm\nseed: 3\nfaults: []") == Scenario((), 3, "calm")


def test_a_count_is_a_fleet_without_roles(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("faults: [{replica: mixed, dies_at_s: 1}]")
    assert read_scenario(path, 3).faults == tuple(Dies(S, i) for i in range(3))
    path.write_text("faults: [{replica: decode, dies_at_s: 1}]")
    with pytest.raises(InputError, match="no replica is for decode; there are 3 mixed"):
        read_scenario(path, 3)
    path.write_text("faults: [{replica: 1, dies_at_s: 1}]")
    with pytest.raises(InputError, match="replica is 1; give 0, the only one"):
        read_scenario(path, 1)


def test_too_many_links_are_refused() -> None:
    line = {"link": ["prefill", "decode"], "lost_at_s": 1}
    with pytest.raises(InputError, match="250,000 links; say 'any' for one of the ends"):
        scenario_from({"faults": [line]}, ["prefill", "decode"] * 500, "s.yaml")


def test_the_seed_decides_what_chance_decides(tmp_path: Path) -> None:
    text = "seed: %d\nfaults: [{replica: any, mean_time_to_failure_s: 10, back_after_s: 1, until_s: 100}]"
    one, same, other = (fleet(tmp_path, text % seed) for seed in (1, 1, 2))
    assert one == same
    assert one.faults != other.faults
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Scenario) == one


EXAMPLES = sorted((ROOT / "examples" / "faults").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_is_read(path: Path) -> None:
    found = read_scenario(path, 4)
    assert found.name == path.stem
    assert {type(fault) for fault in found.faults} >= {Dies, Slows, Mangles}


def test_the_page_of_the_guide_is_read_and_says_everything(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "guide" / "faults.md").read_text()
    text, *_ = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert {type(fault) for fault in fleet(tmp_path, text).faults} == {
        Dies,
        Slows,
        Cuts,
        Drains,
        Starts,
        Switches,
        Mangles,
    }
    said = set(re.findall(r"`(\w+)`", page))
    assert said >= set(MESSAGES)
    for about, forms in LINES.items():
        assert about in said
        for key, form in forms.items():
            assert key in text
            assert said >= set(form.__struct_fields__)
    assert EXAMPLES[0].name in page
