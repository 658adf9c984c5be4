"""Every format and every trap of it, on files written by hand: what the reader gives, row by row."""

import json

import numpy as np
import pytest

from action_ddim.errors import UserError
from action_ddim.recordings.formats import detect
from action_ddim.recordings.formats.columns import Columns
from action_ddim.recordings.trace import Counts

BALABIT = """record timestamp,client timestamp,button,state,x,y
0.0,0.0,NoButton,Move,100,200
0.1,0.1,Left,Pressed,100,200
0.2,0.2,NoButton,Drag,110,200
0.3,0.3,Left,Released,110,210
0.4,0.4,Scroll,Down,0,0
0.5,0.5,NoButton,Move,65535,65535
0.6,0.6,Right,Pressed,50,60
0.7,0.8,NoButton,Move,50,70
"""
SAPIMOUSE = """client timestamp,button,state,x,y
47,NoButton,Move,895,705
6244,Left,Pressed,1236,777
6252,Left,Released,1236,777
"""
OMNIGLOT = "START\n15.5,-30.5,0\n106.0,-31.0,40\nBREAK\n20.0,-1.0,3210\nBREAK\n"
STROKES = [[{"y": 2, "x": 1, "time": 1000}, {"x": 3, "y": 4, "time": 1016}], [{"x": 5, "y": 6, "time": 2000}]]
DETEXIFY = {"total_rows": 1, "rows": [{"id": "a", "doc": {"data": [[{"x": 1, "y": 2, "t": 5}]]}}]}
FUTO = {"id": 1, "session": "s", "word": "Hi", "canvas_width": 422, "data": [{"t": 10, "x": 0.25, "y": -0.01}]}
SVC_INT = "2\n4000 7000 354642400 1 1190 720 10\n4100 7500 354642408 0 1180 700 0\n"
SVC_FLOAT = "2\n52.81 81.31 0.000000 1 510.0 520.0 0.0\n52.83 81.30 0.007000 1 510.0 520.0 0.01\n"
CSV = "time,x,y,press\n0,1,2,0\n8,3,4,1\n16,5,6,0.5\n"


DEFAULT = Columns()


def read(tmp_path, name, text, columns=DEFAULT, counts=None):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    found = detect.detect(path, columns)
    assert found
    return found, list(detect.read(path, found, columns, counts or Counts()))


def test_balabit_takes_client_time_and_the_rows_own_state(tmp_path):
    counts = Counts()
    found, (trace,) = read(tmp_path, "user7/session_0", BALABIT, counts=counts)
    assert (found, trace.recording.user, trace.recording.session) == ("balabit", "user7", "session_0")
    assert np.allclose(trace.time, [0, 0.1, 0.2, 0.3, 0.6, 0.8])
    assert trace.x.tolist() == [100, 100, 110, 110, 50, 50]
    assert trace.press.tolist() == [False, True, True, False, True, False]
    assert trace.lost.tolist() == [False] * 5 + [True]  # Move after Right, Pressed
    assert counts.dropped == {"scroll": 1, "off_screen_mark": 1}
    assert counts.rows == 2  # of which the reader alone knows; the others are counted with what it gives


def test_sapimouse_is_in_ms_from_any_start(tmp_path):
    found, (trace,) = read(tmp_path, "user1/session_1min.csv", SAPIMOUSE)
    assert found == "sapimouse"
    assert trace.time.tolist() == [0, 6.197, 6.205]
    assert trace.press.tolist() == [False, True, False]
    assert not trace.lost.any()


def test_omniglot_turns_y_and_parts_strokes(tmp_path):
    found, (trace,) = read(tmp_path, "Tagalog/character05/0897_01.txt", OMNIGLOT)
    assert (found, trace.recording.user, trace.recording.screen) == ("omniglot", "Tagalog/01", (105, 105))
    assert trace.y.tolist() == [30.5, 31, 1]
    assert trace.time.tolist() == [0, 0.04, 3.21]
    assert trace.unseen.tolist() == [True, False, True]
    assert trace.press.all()


def test_strokes_json_in_any_order_of_keys(tmp_path):
    found, (trace,) = read(tmp_path, "a.json", json.dumps(STROKES))
    assert found == "strokes-json"
    assert trace.time.tolist() == [0, 0.016, 1]
    assert (trace.x.tolist(), trace.y.tolist()) == ([1, 3, 5], [2, 4, 6])
    assert trace.unseen.tolist() == [True, False, True]


def test_strokes_json_of_a_couchdb_view_with_a_comment(tmp_path):
    found, (trace,) = read(tmp_path, "b.json", "// curl https://example.org\n" + json.dumps(DETEXIFY, indent=1))
    assert found == "strokes-json"
    assert (trace.time.tolist(), trace.recording.part) == ([0], "a")


def test_futo_is_a_word_a_line_in_fractions(tmp_path):
    found, traces = read(tmp_path, "a.jsonl", f"{json.dumps(FUTO)}\n\n{json.dumps({**FUTO, 'data': []})}\n")
    assert found == "futo"
    assert [len(trace) for trace in traces] == [1, 0]
    assert (traces[0].y.tolist(), traces[0].recording.screen, traces[0].recording.user) == ([-0.01], (1, 1), "s")
    assert traces[0].recording != traces[1].recording  # two words are two pieces


@pytest.mark.parametrize(("text", "step", "press"), [(SVC_INT, 0.008, [True, False]), (SVC_FLOAT, 0.007, [True, True])])
def test_svc_in_device_units_or_mm(tmp_path, text, step, press):
    found, (trace,) = read(tmp_path, "a.svc", text)
    assert found == "svc"
    assert np.allclose(trace.time, [0, step])
    assert trace.press.tolist() == press
    assert trace.recording.upwards
    assert (trace.y < 0).all()


def test_csv_press_is_a_number_or_a_word(tmp_path):
    _, (trace,) = read(tmp_path, "a.csv", CSV)
    assert trace.press.tolist() == [False, True, True]  # a pressure of a half is a press
    words = CSV.replace(",0\n", ",UP\n").replace(",1\n", ",down\n").replace(",0.5\n", ",\n")
    _, (trace,) = read(tmp_path, "b.csv", words)
    assert trace.press.tolist() == [False, True, False]


def test_csv_of_other_names_and_units(tmp_path):
    text = "uid;t;px;py;down;run\nann;1000;0.5;0.25;1;a\nann;2000;0.75;0.5;0;b\nbob;2000;0;0;0;a\n"
    columns = Columns("t", "px", "py", "down", "uid", "run", time_unit="us", place_unit="fraction", delimiter=";")
    found, traces = read(tmp_path, "a.csv", text, columns)
    assert found == "csv"
    assert [(trace.recording.user, trace.recording.session) for trace in traces] == [("ann", "a"), ("ann", "b"), ("bob", "a")]
    assert [trace.recording.screen for trace in traces] == [(1, 1)] * 3
    _, (trace,) = read(tmp_path, "b.csv", "t;px;py;down\n0;0;0;0\n500000;1;1;1\n", Columns("t", "px", "py", "down", **{
        "time_unit": "us", "place_unit": "fraction", "delimiter": ";"}))  # fmt: skip
    assert trace.time.tolist() == [0, 0.5]


def test_csv_with_spaces_after_the_commas(tmp_path):
    _, (trace,) = read(tmp_path, "b.csv", "time,x, x,y,press\n0,0,7,1,0\n")
    assert trace.x.tolist() == [0]  # the column of that very name
    found, (trace,) = read(tmp_path, "a.csv", "time, x, y, press\n0, 0.5, 1, down\n8, 2, 3, 0\n")
    assert found == "csv"
    assert (trace.x.tolist(), trace.y.tolist(), trace.press.tolist()) == ([0.5, 2], [1, 3], [True, False])


def test_parquet_holds_what_csv_holds(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table(
        {"time": [0, 8, 16], "x": [1, 3, 5], "y": [2.0, 4, 6], "press": [False, True, True], "more": ["", "", ""]}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    assert detect.detect(tmp_path / "a.parquet", DEFAULT) == "parquet"
    (got,) = detect.read(tmp_path / "a.parquet", "parquet", DEFAULT, Counts())
    _, (same,) = read(tmp_path, "a.csv", CSV)
    assert all((a == b).all() for a, b in zip(got.columns, same.columns, strict=True))


def test_rows_that_are_cut_short_are_counted(tmp_path):
    counts = Counts()
    _, (trace,) = read(tmp_path, "a.csv", CSV + "24,7", counts=counts)
    assert len(trace) == 3
    assert (counts.rows, counts.dropped) == (1, {"malformed": 1})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", CSV + "24,seven,8,0\n", "Row #5: CSV conversion error to double: invalid value 'seven'"),
        ("a.csv", CSV + "24,7,8,perhaps\n", "column 'press' holds 'perhaps'; give numbers"),
        ("a.csv", "time,x,y,down\n1,2,3,0\n", "no column 'press', but time, x, y, down"),
        ("a.csv", SAPIMOUSE + "7000,Left,Held,1,2\n", "state 'Held'; known are Drag, Move, Pressed, Released"),
        ("a_01.txt", OMNIGLOT.replace("106.0", "1O6"), "line 3: '1O6 -31.0 40' are not 3 numbers"),
        ("a.json", json.dumps(STROKES)[:-1], "line 1: it is not JSON"),
        ("a.json", json.dumps(STROKES).replace('"time"', '"when"'), "no strokes of points with x, y and time: KeyError 'time'"),
        ("a.jsonl", json.dumps(FUTO) + "\n" + json.dumps(FUTO)[:-9] + "\n", "line 2: "),
        ("a.jsonl", json.dumps(FUTO).replace('"t"', '"when"'), "line 1: 'time' is wrong"),
        ("a.jsonl", json.dumps({**FUTO, "session": ["a"]}), "line 1: session ['a'] is wrong"),
        ("a.json", '[{"x": 1, "y": ' + "[" * 100_000, "no strokes of points with x, y and time: RecursionError"),
        ("a.svc", SVC_INT.replace("2\n", "3\n", 1), "line 1: it says 3 rows, and 2 follow"),
        ("a.svc", SVC_INT.replace("4100", "x"), "line 3: 'x 7500"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_line_and_reason(tmp_path, name, text, expected):
    with pytest.raises(UserError) as error:
        read(tmp_path, name, text)
    assert str(tmp_path / name) in str(error.value)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_session_that_comes_back_is_refused(tmp_path):
    text = "time,x,y,press,user\n0,1,1,0,ann\n8,1,1,0,bob\n16,1,1,0,ann\n"
    with pytest.raises(UserError, match="rows of ann come back after others; sort the file"):
        read(tmp_path, "a.csv", text, Columns(user_column="user"))


def test_a_file_of_another_kind_has_no_format(tmp_path):
    for name, content in {
        "a.md": b"# Readme\n",
        "a.json": b'{"name": "qwerty"}',
        "a.png": b"\x89PNG\r\n\x1a\n\0\0",
        "a": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert detect.detect(tmp_path / name, DEFAULT) is None


STUDIO = """{"format": "action-ddim studio 1", "person": "ada", "device": "touch", "width": 200, "height": 100.5}
[10, 20, 30, 1, 0.5, 0]
[18.5, 40, -3, 1, 1, 1]
[26, 40, 30, 0, 0, 1]
"""


def test_studio_rows_are_of_a_person_a_device_and_a_canvas(tmp_path):
    found, (trace,) = read(tmp_path, "20261125-120000-0123abcd.jsonl", STUDIO)
    recording = trace.recording
    assert (found, recording.device, recording.user, recording.session) == (
        "studio",
        "touch",
        "ada",
        "20261125-120000-0123abcd",
    )
    assert recording.screen == (200, 100.5)
    assert trace.time.tolist() == [0.01, 0.0185, 0.026]
    assert (trace.x.tolist(), trace.y.tolist()) == ([20, 40, 40], [30, -3, 30])
    assert (trace.press.tolist(), trace.unseen.tolist()) == ([True, True, False], [True, False, False])


def test_studio_row_that_was_being_written_is_counted(tmp_path):
    counts = Counts()
    _, (trace,) = read(tmp_path, "a.jsonl", STUDIO + "[30, 4", counts=counts)
    assert len(trace) == 3
    assert (counts.rows, dict(counts.dropped)) == (1, {"malformed": 1})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[18.5, 40, -3, 1, 1, 1]", "[18.5, 40, -3, 1, 1]", "line 3: it is not [ms, x, y, down, pressure, seen]"),
        ("[18.5,", "[NaN,", "line 3: nan is not a number from 0"),
        ("[18.5,", f"[{'9' * 400},", "line 3: 99"),
        ("1, 0.5, 0]", "0.5, 0.5, 0]", "line 2: down and seen are 0 or 1"),
        ("[26,", "26,", "line 4: Extra data"),
        ("touch", "eye", "line 1: device is 'eye'; known are mouse, touch, pen"),
        ("ada", "", "line 1: person is no name"),
        ("200", "0", "line 1: width is not a number from 1"),
    ],
)
def test_studio_line_that_is_wrong_is_named(tmp_path, old, new, expected):
    with pytest.raises(UserError, match="no session of the studio") as caught:
        read(tmp_path, "a.jsonl", STUDIO.replace(old, new))
    assert f"a.jsonl, {expected}" in str(caught.value)
