"""Rows that the studio takes are on disk once and in order, whatever is sent twice, torn, wrong, or too much for the disk."""

import json
import re
import resource
import sys

import numpy as np
import pytest

from action_ddim.recordings.formats.studio import read_studio
from action_ddim.recordings.trace import Counts
from action_ddim.serving.studio.sessions import GapError, Said, Sessions

NAME = "20261125-120000-0123abcd"
HEADER = {"person": "ada", "device": "mouse", "width": 800, "height": 600}
ROWS = [[8.0 * i, i, 2 * i, int(3 <= i < 6), 0.5, 1] for i in range(12)]


@pytest.fixture
def sessions(tmp_path) -> Sessions:
    return Sessions(tmp_path)


def on_disk(sessions: Sessions) -> list:
    header, *rows = map(json.loads, (sessions.folder / f"{NAME}.jsonl").read_text().splitlines())
    assert header == {"format": "action-ddim studio 1", **HEADER}
    return rows


def test_rows_are_there_once_whatever_is_sent_again(sessions):
    draw = np.random.default_rng(0)
    there = 0
    while there < len(ROWS):
        first = int(draw.integers(0, there + 1))
        end = int(draw.integers(first, len(ROWS) + 1))
        there = max(there, end)
        store = sessions if draw.random() < 0.5 else Sessions(sessions.folder)  # as after a start of the server
        assert store.append(NAME, HEADER, first, ROWS[first:end]) == there
        assert [said.rows for said in sessions.said()] == [there]  # read on from where it was read to
    assert on_disk(sessions) == ROWS
    assert sessions.said() == [Said(NAME, 12, 1, 0.088)]


def test_rows_that_leave_a_gap_are_not_taken(sessions):
    with pytest.raises(GapError) as caught:
        sessions.append(NAME, HEADER, 3, ROWS[3:])
    assert caught.value.count == 0
    assert sessions.append(NAME, HEADER, 0, ROWS[:4]) == 4
    with pytest.raises(GapError) as caught:
        sessions.append(NAME, HEADER, 5, ROWS[5:])
    assert caught.value.count == 4
    assert on_disk(sessions) == ROWS[:4]


def test_a_session_that_was_deleted_begins_anew(sessions):
    sessions.append(NAME, HEADER, 0, ROWS[:5])
    assert sessions.said()
    (sessions.folder / f"{NAME}.jsonl").unlink()
    with pytest.raises(GapError) as caught:
        sessions.append(NAME, HEADER, 5, ROWS[5:])
    assert (caught.value.count, sessions.said()) == (0, [])
    assert sessions.append(NAME, HEADER, 0, ROWS[5:]) == 7
    assert on_disk(sessions) == ROWS[5:]
    assert sessions.said()[0].rows == 7


@pytest.mark.parametrize(
    ("person", "taken"), [("\u0639\u0644\u06cc\u200c\u0631", True), ("👩\u200d💻", True), ("a\tb", False), ("\ud800", False)]
)
def test_names_of_every_script_are_taken(sessions, person, taken):
    if not taken:
        with pytest.raises(ValueError, match="person is no name"):
            sessions.append(NAME, {**HEADER, "person": person}, 0, ROWS)
    else:
        sessions.append(NAME, {**HEADER, "person": person}, 0, ROWS)
        (trace,) = read_studio(sessions.folder / f"{NAME}.jsonl", Counts())
        assert trace.recording.user == person


@pytest.mark.parametrize("torn", ["[96", "", '{"format": "action-ddim st'])
def test_what_a_killed_server_half_wrote_is_written_again(sessions, torn):
    path = sessions.folder / f"{NAME}.jsonl"
    if torn.startswith("{"):
        path.write_text(torn)
    else:
        sessions.append(NAME, HEADER, 0, ROWS[:5])
        path.write_text(path.read_text() + torn)
    again = Sessions(sessions.folder)
    assert again.append(NAME, HEADER, 0, ROWS) == 12
    assert on_disk(again) == ROWS


def test_a_full_disk_takes_all_or_nothing(sessions):
    if sys.platform == "win32":
        pytest.skip("Windows limits no file")
    sessions.append(NAME, HEADER, 0, ROWS[:2])
    before = (sessions.folder / f"{NAME}.jsonl").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 30, hard))  # in the middle of the second row that follows
    try:
        with pytest.raises(OSError, match="too large"):
            sessions.append(NAME, HEADER, 2, ROWS[2:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (sessions.folder / f"{NAME}.jsonl").read_bytes() == before
    assert sessions.append(NAME, HEADER, 2, ROWS[2:]) == 12
    assert on_disk(sessions) == ROWS


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "../../20261125-120000-0123abcd"}, "session is no name"),
        ({"name": None}, "session is no name"),
        ({"first": -1}, "first is not a whole number"),
        ({"first": True}, "first is not a whole number"),
        ({"rows": "all"}, "rows is not a list"),
        ({"rows": [ROWS[0]] * 20001}, "rows is not a list of at most 20000"),
        ({"rows": [*ROWS, [1, 2]]}, "it is not [ms, x, y, down, pressure, seen]"),
        ({"header": {**HEADER, "width": "wide"}}, "width is not a number"),
        ({"header": []}, "it is not an object"),
    ],
)
def test_a_message_that_is_wrong_writes_nothing(sessions, changes, expected):
    words = {"name": NAME, "header": HEADER, "first": 0, "rows": ROWS, **changes}
    with pytest.raises(ValueError, match=re.escape(expected)):
        sessions.append(**words)
    assert not list(sessions.folder.rglob("*"))
