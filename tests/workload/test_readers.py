"""Published formats: told apart by their first line, read to the last digit, and every bad row named."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phasewise.core.errors import InputError
from phasewise.core.spec import RequestClass
from phasewise.workload import load, read_trace
from phasewise.workload.readers.csv import careful, fast
from phasewise.workload.readers.formats import AZURE, BURSTGPT, MILLIS, PLAIN
from phasewise.workload.readers.text import stamp

AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.017335+00:00,2399,6
2024-05-10 00:00:01+00:00,76,15
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,0,417,API log
118,GPT-4,417,276,693,API log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 1500, "output_length": 52, "hash_ids": [46, 47, 48]}
{"timestamp": 3000, "input_length": 1030, "output_length": 26, "hash_ids": [46, 47, 49]}
{"timestamp": 3000, "input_length": 5, "output_length": 0, "hash_ids": [50]}
{"timestamp": 27482, "input_length": 7, "output_length": 3}
"""


def write(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def columns(w):
    return w.arrival_ns.tolist(), w.prompt_tokens.tolist(), w.truth.column().tolist()


def test_azure_2023_to_the_last_digit(tmp_path):
    w = read_trace(write(tmp_path, AZURE_2023))
    assert columns(w) == ([0, 4_314_579_000, 4_541_877_000], [374, 396, 879], [44, 109, 55])
    assert w.where(2).endswith("t.csv:4")
    assert w.notes == ()


def test_azure_2024_with_zones(tmp_path):
    w = read_trace(write(tmp_path, AZURE_2024))
    assert columns(w) == ([0, 7_405_000, 990_070_000], [2162, 2399, 76], [5, 6, 15])
    mixed = AZURE_2024.replace("00:00:01+00:00", "02:00:01+02:00")  # the same instant in another zone
    assert columns(read_trace(write(tmp_path, mixed))) == columns(w)
    assert columns(read_trace(write(tmp_path, AZURE_2024.replace("+00:00", "Z")))) == columns(w)


def test_a_stamp_is_read_in_whole_nanoseconds():
    assert stamp("TIMESTAMP", "2023-11-16 18:15:46.680590012") == 1_700_158_546_680_590_012
    assert stamp("TIMESTAMP", "2023-11-16T18:15:46") == 1_700_158_546_000_000_000
    assert stamp("TIMESTAMP", "2023-11-16 18:15:46-05:30") == (1_700_158_546 + 19_800) * 10**9


@given(
    st.lists(st.integers(0, 7_000_000_000 * 10**9), min_size=1, max_size=8),
    st.integers(0, 9),
    st.sampled_from(["", "Z", "+00:00", "-07:00", "+0530"]),
)
def test_stamps_whole_and_one_by_one(at_ns, digits, zone):
    at_ns = sorted(at_ns)
    fields = [str(np.datetime64(t, "ns"))[: 19 + (digits + 1 if digits else 0)] + zone for t in at_ns]
    rows = "\n".join(f"{field},1,2" for field in fields)
    order = list(AZURE.needed.items())
    found, again = fast(rows, order, AZURE), careful(rows, order, AZURE, "t.csv")
    assert found is not None
    assert found[0].tolist() == again[0].tolist()
    east_s = {"": 0, "Z": 0, "+00:00": 0, "-07:00": -25_200, "+0530": 19_800}[zone]
    step = 10 ** (9 - digits)
    assert again[0].tolist() == [t // step * step - east_s * 10**9 for t in at_ns]


def test_burstgpt_classes_and_failures(tmp_path):
    path = write(tmp_path, BURST)
    w = read_trace(path)
    assert columns(w) == ([5 * 10**9, 45 * 10**9, 118 * 10**9], [472, 1087, 417], [18, 230, 276])
    assert w.classes == (RequestClass("ChatGPT, Conversation log"), RequestClass("GPT-4, API log"))
    assert [r.kind for r in w.requests()] == ["ChatGPT, Conversation log"] * 2 + ["GPT-4, API log"]
    assert w.notes == (f"{path}: 1 of 4 rows have no prompt or no answer (failed): left out",)
    assert w.where(2) == f"{path}:5"  # the dropped row keeps its line
    assert w.head(3).where(2) == f"{path}:5"
    assert w.rows(2, 3).where(0) == f"{path}:5"


def test_mooncake_keeps_its_blocks(tmp_path):
    for name, data in (("m.jsonl", MOONCAKE), ("m.jsonl.gz", gzip.compress(MOONCAKE.encode()))):
        w = read_trace(write(tmp_path, data, name))
        assert w.name == "m"
        assert columns(w) == ([0, 3 * 10**9, 27_482_000_000], [1500, 1030, 7], [52, 26, 3])
        assert [r.prefix_ids for r in w.requests()] == [(46, 47, 48), (46, 47, 49), ()]
        assert {r.prefix_tokens for r in w.requests()} == {512}
        assert [w.where(i)[-2:] for i in range(3)] == [":1", ":2", ":4"]
        assert "1 of 4 rows" in w.notes[0]
    assert load(tmp_path / "m.jsonl", requests=2).describe()["prefix_block_tokens"] == 512


def test_mooncake_again_as_csv(tmp_path):
    rows = [json.loads(line) for line in MOONCAKE.splitlines() if '"output_length": 0' not in line]
    lines = [
        f"{r['timestamp']},{r['input_length']},{r['output_length']},{' '.join(map(str, r.get('hash_ids', [])))}"
        for r in rows
    ]
    text = "arrival_ms,input_tokens,output_tokens,prefix_block_ids\n" + "\n".join(lines)
    csv, jsonl = read_trace(write(tmp_path, text)), read_trace(write(tmp_path, MOONCAKE, "m.jsonl"))
    assert csv.digest() == jsonl.digest()


def test_the_plain_format_may_name_classes(tmp_path):
    text = "arrival_s,input_tokens,output_tokens,class\n0,1,2,b\n1,1,2,\n2,1,2,a\n"
    w = read_trace(write(tmp_path, text))
    assert [r.kind for r in w.requests()] == ["b", "", "a"]
    assert [c.name for c in w.classes] == ["a", "b"]


BAD = [
    (AZURE_2023, "2023-11-16 18:15:52,1", ":5: 2 fields in"),
    (AZURE_2023, "2023-11-16 18:15:49.1,1,1", ":5: TIMESTAMP 2023-11-16 18:15:49.1 comes before the row above (2023"),
    (
        AZURE_2023,
        "2023-13-16 18:15:59,1,1",
        ":5: TIMESTAMP '2023-13-16 18:15:59' is not a time stamp; give one such as",
    ),
    (AZURE_2023, "2023-11-16,1,1", ":5: TIMESTAMP '2023-11-16' is not a time stamp"),
    (AZURE_2023, "1700158600,1,1", ":5: TIMESTAMP '1700158600' is not a time stamp"),
    (AZURE_2023, "NaT,1,1", ":5: TIMESTAMP 'NaT' is not a time stamp"),
    (AZURE_2023, "2462-11-16 18:15:59,1,1", ":5: TIMESTAMP '2462-11-16 18:15:59' is not a time stamp"),
    (AZURE_2023, "2023-11-16 18:15:59,1.5,1", ":5: ContextTokens '1.5' is not a length"),
    (AZURE_2023, "2023-11-16 18:15:59,-1,1", ":5: ContextTokens '-1' is not a length"),
    (BURST, "119,GPT-4,4,five,9,API log", ":6: Response tokens 'five' is not a number"),
    (BURST, "117,GPT-4,4,5,9,API log", ":6: Timestamp 117 comes before the row above (118); sort rows by Timestamp"),
    (BURST, "119,GPT-4,4,5,9,API\x07log", ":6: Log Type 'API\\x07log' is not a name"),
    (MOONCAKE, "", ":5: blank row"),
    (MOONCAKE, '{"timestamp": 3, "input_length": 1, "output_length": 1}', ":5: timestamp 3 comes before the row above"),
    (
        MOONCAKE,
        '{"timestamp": 90000, "input_length": 1}',
        "missing required field 'output_length'; a row is {timestamp",
    ),
    (MOONCAKE, '{"timestamp": 9e19, "input_length": 1, "output_length": 1}', ":5: timestamp 9e+19 is not a time"),
    (MOONCAKE, '{"timestamp": 9e4, "input_length": 1, "output_length": -1}', ":5: output_length -1 is not a length"),
    (MOONCAKE, '{"timestamp": 9e4, "input_length": 1, "output_length": 1, "hash": [1]}', "unknown field 'hash'"),
    (MOONCAKE, '{"timestamp": 9e4, "input_length": 1, "output_length": 1, "hash_ids": [-1]}', ":5: hash_ids below 0"),
    (
        MOONCAKE,
        '{"timestamp": 9e4, "input_length": 513, "output_length": 1, "hash_ids": [1,2,3]}',
        ":5: 3 block ids for 513 tokens; at most 2 blocks of 512",
    ),
    (MOONCAKE, "0,1,2", ":5: '0,1,2'"),
    (
        "arrival_s,input_tokens,output_tokens,prefix_block_ids\n0,9,9,1\n",
        "1,512,9,1 2",
        ":3: 2 block ids for 512 tokens; at most 1 blocks of 512",
    ),
    (
        "arrival_s,input_tokens,output_tokens,prefix_block_ids\n0,9,9,1\n",
        "1,512,9,x",
        ":3: prefix_block_ids holds 'x'",
    ),
    (
        "arrival_ms,input_tokens,output_tokens\n0,9,9\n",
        "-1,5,9",
        ":3: arrival_ms '-1' is not a time; give milliseconds",
    ),
]


@pytest.mark.parametrize(("text", "row", "says"), BAD)
def test_a_bad_row_is_named(tmp_path, text, row, says):
    last = text.splitlines()[-1]
    path = write(tmp_path, text + row + "\n" + last + "\n")
    with pytest.raises(InputError) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}:")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "TIMESTAMP,ContextTokens\n",
            ":1: no column 'GeneratedTokens' in 'TIMESTAMP,ContextTokens'; an Azure trace has",
        ),
        ("Timestamp,Model,Request tokens\n", ":1: no column 'Response tokens' in"),
        (BURST.replace("Log Type", "Log Typ"), ":1: no column 'Log Type'"),
        (BURST.replace("Log Type\n", "Log Type,Session\n"), ":1: unknown column 'Session'"),
        ("t_s,rate_rps,active_clients\n0,1,1\n", ":1: is a curve of rates, not a trace; name it in a description"),
        ("side,tokens_from,tokens_below,probability\n", ":1: is a histogram of lengths, not a trace"),
        ("input_tokens,output_tokens\n3,4\n", ":1: is lengths without arrivals; name it in a description"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,5,0\n",
            ": no row has both a prompt and an answer",
        ),
    ],
)
def test_a_bad_header_is_named(tmp_path, text, says):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}{says}")


CELL = st.one_of(
    st.integers(-2, 40).map(str),
    st.sampled_from(["", " ", "a", "0 1", "1 2 3", "nan", "1_0", "٣", "5.0", "2023-11-16 18:15:46", "-1", "\x07"]),
)


@pytest.mark.parametrize("form", [PLAIN, MILLIS, AZURE, BURSTGPT], ids=["plain", "millis", "azure", "burstgpt"])
@given(data=st.data())
def test_whatever_the_fast_pass_takes_the_careful_one_takes_alike(form, data):
    columns = list({**form.needed, **form.optional}.items())
    width = data.draw(st.sampled_from([len(form.needed), len(columns)]))
    order = columns[:width]
    cells = st.lists(CELL, min_size=width, max_size=width).map(",".join)
    body = "\n".join(data.draw(st.lists(cells, min_size=1, max_size=4)))
    if not body.strip() or body != body.rstrip():
        return
    found = fast(body, order, form)
    if found is not None:
        again = careful(body, order, form, "t.csv")
        assert found.keys() == again.keys()
        for role, column in found.items():
            if hasattr(column, "offsets"):
                assert list(column.tuples(0, len(column))) == list(again[role].tuples(0, len(column)))
            elif column is not None:
                assert list(column) == list(again[role])


def rows_at(times):
    return "arrival_s,input_tokens,output_tokens\n" + "".join(f"{t},5,5\n" for t in times)


def test_milliseconds_where_seconds_are_meant_get_one_note(tmp_path):
    rng = np.random.default_rng(3)
    millis = np.cumsum(rng.exponential(200, 500)).astype(int)  # 5 requests/s
    w = read_trace(write(tmp_path, rows_at(millis)))
    assert len(w.notes) == 1
    assert "if they are milliseconds, name the column arrival_ms" in w.notes[0]
    assert int(w.arrival_ns[-1]) == int(millis[-1]) * 10**9  # read as they stand all the same
    assert read_trace(write(tmp_path, rows_at(millis).replace("arrival_s", "arrival_ms"))).notes == ()


def test_unix_times_get_one_note_and_are_counted_from_the_first(tmp_path):
    text = "arrival_s,input_tokens,output_tokens,gone_s\n1700158546.5,5,5,\n1700158547,5,5,1700158549.25\n"
    path = write(tmp_path, text)
    w = read_trace(path)
    assert w.arrival_ns.tolist() == [0, 500_000_000]
    assert w.gone_ns[1] == pytest.approx(2_750_000_000, abs=300)  # a float of so many seconds knows no better
    assert w.notes == (f"{path}: arrivals begin at 1700158546 s, a Unix time; counted from the first row's",)
    late = write(tmp_path, "arrival_s,input_tokens,output_tokens\n0,9,9\n1700158600,5,9\n")
    with pytest.raises(InputError, match=r"t\.csv:3: arrives more than 10\^9 s after the start; count from there"):
        read_trace(late)
    millis = "arrival_ms,input_tokens,output_tokens\n1700158546500,5,5\n1700158547000,5,5\n"
    assert read_trace(write(tmp_path, millis)).arrival_ns.tolist() == [0, 500_000_000]


@pytest.mark.parametrize(
    "times",
    [
        np.cumsum(np.random.default_rng(1).exponential(0.2, 500)).round(3),  # seconds with a fraction
        np.cumsum(np.random.default_rng(1).exponential(5, 500)).astype(int),  # whole seconds at 0.2/s
        np.arange(500) * 3600,  # on the hour
        1_000_000 + np.arange(500),  # far from 0
        np.cumsum(np.random.default_rng(1).exponential(500, 50)).astype(int),  # too few to tell
        np.zeros(500, int),
    ],
)
def test_honest_seconds_get_none(tmp_path, times):
    assert read_trace(write(tmp_path, rows_at(times))).notes == ()
