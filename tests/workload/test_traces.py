"""The CSV reader: the fast pass and the careful one agree, and every bad row is named."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.errors import InputError
from phasewise.workload.readers.csv import ARRIVAL, OUTPUT, PROMPT, careful, fast
from phasewise.workload.readers.formats import PLAIN
from phasewise.workload.readers.trace import read_trace

HEADER = "arrival_s,input_tokens,output_tokens\n"
GOOD = HEADER + "0.5,10,3\n0.5,20,4\n2.25,30,5\n"
ORDER = list(PLAIN.needed.items())


def write(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows_of(workload):
    return list(
        zip(
            workload.arrival_ns.tolist(),
            workload.prompt_tokens.tolist(),
            workload.truth.column().tolist(),
            strict=True,
        )
    )


EXPECTED = [(500_000_000, 10, 3), (500_000_000, 20, 4), (2_250_000_000, 30, 5)]


def test_reads_rows_in_order_and_names_their_lines(tmp_path):
    workload = read_trace(write(tmp_path, GOOD, "chat.csv"))
    assert rows_of(workload) == EXPECTED
    assert workload.name == "chat"
    assert workload.max_tokens is None
    assert workload.where(0) == f"{tmp_path}/chat.csv:2"
    assert workload.where(2) == f"{tmp_path}/chat.csv:4"


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        "\ufeff" + GOOD,
        GOOD + "\n\n  \n",
        GOOD.rstrip("\n"),
        GOOD.replace(",", " , "),
        GOOD.replace("30,5", "30.0,5e0"),
        "output_tokens,arrival_s,input_tokens\n3,0.5,10\n4,0.5,20\n5,2.25,30\n",
    ],
)
def test_the_same_trace_in_other_clothes(tmp_path, text):
    assert rows_of(read_trace(write(tmp_path, text))) == EXPECTED


def test_reads_gzip(tmp_path):
    workload = read_trace(write(tmp_path, gzip.compress(GOOD.encode()), "chat.csv.gz"))
    assert rows_of(workload) == EXPECTED
    assert workload.name == "chat"
    assert workload.where(1).endswith("chat.csv.gz:3")


def test_reads_hang_ups(tmp_path):
    text = "arrival_s,gone_s,input_tokens,output_tokens\n0.5,,10,3\n0.5, 0.75,20,4\n2.25,2.25,30,5\n"
    workload = read_trace(write(tmp_path, text))
    assert rows_of(workload) == EXPECTED
    assert workload.gone_ns == {1: 750_000_000, 2: 2_250_000_000}


BAD_ROWS = [
    ("3.0,1", "2 fields in '3.0,1'; the header names 3"),
    ("3.0,1,2,3", "4 fields"),
    ("", "blank row"),
    ("x,1,2", "arrival_s 'x' is not a number"),
    ("nan,1,2", "arrival_s 'nan' is not a time"),
    ("inf,1,2", "arrival_s 'inf' is not a time"),
    ("-1,1,2", "arrival_s '-1' is not a time"),
    ("1e10,1,2", "arrival_s '1e10' is not a time"),
    ("2.0,1,2", "arrival_s 2.0 comes before the row above (2.25); sort rows by arrival_s"),
    (",1,2", "arrival_s '' is not a number"),
    ("3.0,0,2", "input_tokens '0' is not a length; give a whole number of tokens, 1 to 10,000,000"),
    ("3.0,-7,2", "input_tokens '-7' is not a length"),
    ("3.0,1.5,2", "input_tokens '1.5' is not a length"),
    ("3.0,1,0", "output_tokens '0' is not a length"),
    ("3.0,1,10000001", "output_tokens '10000001' is not a length"),
    ("3.0,1,1e400", "output_tokens '1e400' is not a length"),
    ("3.0,1,nan", "output_tokens 'nan' is not a length"),
    ("3.0,1,ten", "output_tokens 'ten' is not a number"),
    ("3.0,1,1_0", "output_tokens '1_0' is not a number"),
    ("3.0,1,٣", "output_tokens '٣' is not a number"),
    ('3.0,1,"2"', "output_tokens '\"2\"' is not a number"),
    ("3.0,1,#2", "output_tokens '#2' is not a number"),
    ("3.0;1;2", "1 fields"),
]


@pytest.mark.parametrize("after", ["9.0,1,1\n", "9.0,1,1\n8.0,1,1\n"])
@pytest.mark.parametrize(("row", "says"), BAD_ROWS)
def test_a_bad_row_is_named_alone_or_before_another(tmp_path, row, says, after):
    path = write(tmp_path, GOOD + row + "\n" + after)
    with pytest.raises(InputError) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}:5: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("gone", "says"), [("0.1", "is before arrival_s"), ("soon", "not a number"), ("inf", "time")])
def test_a_bad_hang_up_is_named(tmp_path, gone, says):
    path = write(tmp_path, f"arrival_s,input_tokens,output_tokens,gone_s\n0.2,1,1,\n0.2,1,1,{gone}\n")
    with pytest.raises(InputError, match=rf"t\.csv:3: gone_s .*{says}"):
        read_trace(path)


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        ("", "t.csv", "t.csv: is empty; a trace is CSV text"),
        ("\n\n", "t.csv", "t.csv: is empty"),
        (HEADER, "t.csv", "t.csv: a header and no rows"),
        ("arrival_s,input_tokens\n0,1\n", "t.csv", "t.csv:1: no column 'output_tokens'"),
        ("0.0,374,44\n1.0,1,1\n", "t.csv", "t.csv:1: no column 'arrival_s' in '0.0,374,44'"),
        (HEADER.strip() + ",gone\n0,1,1,2\n", "t.csv", "t.csv:1: unknown column 'gone'; did you mean 'gone_s'?"),
        (HEADER.strip() + ",arrival_s\n0,1,1,2\n", "t.csv", "t.csv:1: two columns named 'arrival_s'"),
        (b"\x00\x01\x02", "t.csv", "t.csv: is binary"),
        (HEADER.encode() + b"0,1,1\n1,1,\xe9\n", "t.csv", "t.csv:3: byte 0xe9 is not UTF-8"),
        (gzip.compress(GOOD.encode()), "t.csv", "t.csv: is compressed; name it .csv.gz"),
        (GOOD, "t.csv.gz", "t.csv.gz: not a whole gzip file"),
        (gzip.compress(GOOD.encode())[:-9], "t.csv.gz", "t.csv.gz: not a whole gzip file"),
        (gzip.compress(b"x" * 400)[:12] + b"\xff" * 30, "t.csv.gz", "t.csv.gz: not a whole gzip file"),
    ],
)
def test_a_bad_file_is_named(tmp_path, data, name, says):
    path = write(tmp_path, data, name)
    with pytest.raises(InputError) as error:
        read_trace(path)
    assert f"{tmp_path}/{says}" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_a_file(tmp_path):
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        read_trace(tmp_path / "d.csv")
    with pytest.raises(InputError, match="no such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_trace("a\0.csv")


CELL = st.one_of(
    st.integers(-2, 40).map(str),
    st.floats(0, 50).map(repr),
    st.text('0123456789.eE+-_ \t"#naif', max_size=4),
)


@given(st.lists(st.lists(CELL, min_size=2, max_size=4).map(",".join), min_size=1, max_size=5).map("\n".join))
def test_whatever_the_fast_pass_takes_the_careful_one_takes_alike(body):
    if not body.strip() or body != body.rstrip():
        return
    found = fast(body, ORDER, PLAIN)
    if found is not None:
        again = careful(body, ORDER, PLAIN, "t.csv")
        assert {role: column.tolist() for role, column in found.items()} == {
            role: column.tolist() for role, column in again.items()
        }


@given(
    st.lists(
        st.tuples(st.floats(0, 1e9), st.integers(1, 10_000_000), st.integers(1, 10_000_000)), min_size=1, max_size=20
    )
)
def test_the_fast_pass_takes_every_sound_table(rows):
    rows = sorted(rows)
    body = "\n".join(f"{at!r},{prompt},{output}" for at, prompt, output in rows)
    found = fast(body, ORDER, PLAIN)
    assert found is not None
    assert found[ARRIVAL].tolist() == [round(at * 1e9) for at, _, _ in rows]
    assert found[PROMPT].tolist() == [prompt for _, prompt, _ in rows]
    assert found[OUTPUT].tolist() == [output for _, _, output in rows]


@pytest.mark.parametrize("body", ["-1,1,1\n2,1,1\n", "1e10,1,1\n", "nan,1,1\n", "inf,1,1\n"])
def test_a_bad_arrival_that_breaks_no_order(tmp_path, body):
    with pytest.raises(InputError, match=r"t\.csv:2: arrival_s .* is not a time"):
        read_trace(write(tmp_path, HEADER + body))
