"""Rows dropped and mended, by hand: each reason, and that every row is accounted for."""

import numpy as np
import pytest

from action_ddim.recordings.cleaning import CHANGED, DROPPED, clean, pieces
from action_ddim.recordings.trace import Counts, Recording, make_trace, trace_of_strokes

MOUSE, PEN = Recording("m", "mouse"), Recording("p", "pen", strokes=True)


def mouse(time, x, press=None, **marks):
    marks = {name: np.array(mark, bool) for name, mark in marks.items()}
    return make_trace(MOUSE, time, x, np.full(len(time), 0.5), np.zeros(len(time)) if press is None else press, **marks)


def cleaned(*blocks, max_gap=2.0):
    counts = Counts()
    kept = [part for piece, _ in pieces(blocks, max_gap, counts) for part in clean(piece, max_gap, counts)]
    assert counts.rows == sum(map(len, kept)) + counts.dropped.total()  # nothing is silently lost
    assert counts.dropped.keys() <= DROPPED.keys()
    assert counts.changed.keys() <= CHANGED.keys()
    return kept, counts


def test_time_that_goes_back_or_stands():
    (piece,), counts = cleaned(mouse([0, 0.01, 0.005, 0.02, 0.02, 0.02, 0.03], [0.1, 0.2, 0.9, 0.3, 0.4, 0.5, 0.6]))
    assert piece.time.tolist() == [0, 0.01, 0.02, 0.03]
    assert piece.x.tolist() == [0.1, 0.2, 0.5, 0.6]  # of equal times the last: it is the later state
    assert counts.dropped == {"backward_time": 1, "equal_time": 2}


def test_a_clock_that_is_ahead_once_takes_no_other_row_along():
    (piece,), counts = cleaned(mouse([0, 1.5, 0.02, 0.03, 0.04], [0.1] * 5))
    assert piece.time.tolist() == [0, 0.02, 0.03, 0.04]
    assert counts.dropped == {"backward_time": 1}


def test_a_first_block_of_few_rows_does_not_tell_the_interval():
    whole = mouse(np.arange(3000) / 10, np.arange(3000) % 2)
    for first in (1, 2, 2000):
        blocks = whole[:first], whole[first:]
        assert {round(interval, 9) for _, interval in pieces(blocks, 2.0, Counts())} == {0.1}


def test_a_slow_device_is_told_from_a_pointer_that_rests():
    assert mouse(np.arange(10), np.arange(10)).typical_interval() == 1
    taps = mouse([0, 0.1, 3, 3.1, 6, 6.1], [0.1, 0.1, 0.5, 0.5, 0.9, 0.9], [1, 0] * 3)
    assert taps.typical_interval() == pytest.approx(1 / 60)  # nothing tells


def test_a_press_that_leaves_the_screen_ends_there_and_no_piece_goes_over_the_hole():
    time = np.arange(0, 8, 0.01)
    outside = (time >= 1) & (time < 7)
    (before, after), counts = cleaned(mouse(time, np.where(outside, 1.5, 0.5), (time >= 0.5) & (time < 1.2)))
    assert (before.time[-1], after.time[0]) == (0.99, 7)
    assert counts.dropped == {"outside_screen": 600}
    stroke = np.array([[0, 0.1, 0.1], [0.01, 0.1, 0.2], [1.5, 1.5, 0.2], [3, 0.5, 0.5], [3.01, 1.5, 0.5]])
    kept, counts = cleaned(trace_of_strokes(PEN, [stroke]))
    assert [piece.time.tolist() for piece in kept if len(piece)] == [[0, 0.01]]  # what is left of it later is no dot
    assert counts.dropped == {"outside_screen": 2, "alone": 1}
    near = mouse([0, 0.01, 0.5, 1.0, 1.01], [0.5, 0.5, 1.5, 0.5, 0.5], [1, 1, 0, 1, 1])
    (piece,), counts = cleaned(near)
    assert piece.lost.tolist() == [False, False, True, False]
    assert counts.changed == {"lost_release": 1}


def test_long_gaps_and_clocks_that_are_set_back_part_pieces():
    kept, counts = cleaned(mouse([0, 0.01, 2.02, 2.03], [0.1] * 4), mouse([10, 10.01, 3, 3.01], [0.1] * 4))
    assert [piece.time.tolist() for piece in kept] == [[0, 0.01], [2.02, 2.03], [10, 10.01], [3, 3.01]]
    assert not counts.dropped


def test_blocks_of_one_recording_are_one_piece_and_of_two_are_two():
    whole = mouse(np.arange(6) / 100, np.arange(6) / 10)
    (joined,), _ = cleaned(whole[:2], whole[2:5], whole[5:])
    assert all((a == b).all() for a, b in zip(joined.columns, whole.columns, strict=True))
    other = make_trace(Recording("n", "mouse"), whole.time + 0.06, whole.x, whole.y, whole.press)
    kept, _ = cleaned(whole, other)
    assert [piece.recording.file for piece in kept] == ["m", "n"]


def test_a_piece_that_never_ends_is_handed_out_in_parts(monkeypatch):
    monkeypatch.setattr("action_ddim.recordings.cleaning.MAX_PIECE_ROWS", 4)
    whole = mouse(np.arange(10) / 100, np.arange(10) / 10)
    kept, _ = cleaned(*(whole[first : first + 2] for first in range(0, 10, 2)))
    assert [len(piece) for piece in kept] == [4, 4, 2]


def test_places_outside_the_screen():
    (piece,), counts = cleaned(mouse([0, 0.01, 0.02, 0.03], [-0.05, 0.5, 1.2, 1.0]))
    assert piece.x.tolist() == [0, 0.5, 1]
    assert (counts.dropped, counts.changed) == ({"outside_screen": 1}, {"clipped": 1})


def test_what_is_not_a_number():
    _, counts = cleaned(mouse([0, np.nan, 0.02, 0.03], [0.1, 0.2, np.inf, 0.4]))
    assert counts.dropped == {"not_a_number": 2}
    x = np.arange(100.0)
    x[1::2] = np.nan
    ((_, interval),) = pieces([mouse(0.004 * np.arange(100), x)], 2.0, Counts())
    assert interval == pytest.approx(0.008)  # of the rows that are there


@pytest.mark.parametrize("at", [0, 3, 6])
def test_a_place_that_was_never_there(at):
    x = np.linspace(0.1, 0.16, 7)
    x[at] = 0.9
    (piece,), counts = cleaned(mouse(np.arange(7) / 100, x))
    assert counts.dropped == {"too_fast": 1}
    assert 0.9 not in piece.x


def test_a_flick_and_a_point_of_two_strokes_are_no_spikes():
    _, counts = cleaned(mouse(np.arange(5) / 100, [0.1, 0.1, 0.5, 0.9, 0.9]))
    assert not counts.dropped
    dot = trace_of_strokes(PEN, [np.array([[0, 0.1, 0.1]]), np.array([[0.005, 0.9, 0.9]]), np.array([[0.01, 0.1, 0.1]])])
    (piece,), counts = cleaned(dot)
    assert len(piece) == 3
    assert counts.changed == {"one_point_stroke": 3}


def test_lone_rows():
    kept, counts = cleaned(mouse([0, 5, 10], [0.1, 0.2, 0.3], [0, 1, 0]))
    assert [len(piece) for piece in kept] == [0, 1, 0]  # a press alone is a click
    assert counts.dropped == {"alone": 2}


def test_a_first_point_of_a_stroke_at_another_time_is_no_dot():
    stroke = np.array([[-3e5, 0.9, 0.9], [0, 0.1, 0.1], [0.016, 0.2, 0.1]])
    (piece,), counts = cleaned(trace_of_strokes(PEN, [stroke]))
    assert piece.x.tolist() == [0.1, 0.2]
    assert counts.dropped == {"alone": 1}


def test_a_release_that_no_row_tells():
    _, counts = cleaned(mouse([0, 0.01, 0.02], [0.1] * 3, [0, 1, 0], lost=[0, 0, 1]))
    assert counts.changed == {"lost_release": 1}


def test_a_dropped_row_hands_on_what_it_said():
    """The first row of a stroke, dropped, leaves the next one first: the way to it was not seen."""
    strokes = [np.array([[0, 0.1, 0.1], [0.01, 0.1, 0.2]]), np.array([[0.5, 0.8, 0.8], [0.5, 0.8, 0.8], [0.51, 0.8, 0.9]])]
    (piece,), counts = cleaned(trace_of_strokes(PEN, strokes))
    assert piece.unseen.tolist() == [True, False, True, False]
    assert counts.dropped == {"equal_time": 1}
