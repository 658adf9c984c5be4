import pytest

from action_ddim.masks import build_mask


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"start": True}, ["xy.", "...", "...", "..."]),
        ({"end": True}, ["...", "...", "...", "xy."]),
        ({"waypoints": [1, -2]}, ["...", "xy.", "xy.", "..."]),
        ({"prefix": 2}, ["xyp", "xyp", "...", "..."]),
        ({"press": True}, ["..p", "..p", "..p", "..p"]),
        ({"start": True, "prefix": 1, "end": True, "press": True}, ["xyp", "..p", "..p", "xyp"]),
    ],
)
def test_words_say_what_is_known(words, expected):
    mask = build_mask(4, **words)
    assert mask.dtype == bool
    assert ["".join(name if known else "." for name, known in zip("xyp", row, strict=True)) for row in mask] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "nothing is known"),
        ({"waypoints": [1, 4]}, "waypoint 4 lies outside the 4 steps"),
        ({"waypoints": [-5]}, "waypoint -5 lies outside"),
        ({"prefix": 5}, "prefix is 5"),
        ({"prefix": -1}, "prefix is -1"),
    ],
)
def test_words_that_fit_no_action_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        build_mask(4, **words)
