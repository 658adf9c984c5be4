"""Events are the actions they were made of, to half a pixel, and a browser hears them as they were written."""

import ast
import importlib.util
import json
import runpy
import shutil
from collections import Counter

import numpy as np
import pytest

from action_ddim.serving.replay import Event, events, render
from augmentation.gestures import GestureConfig, generate

WIDTH, HEIGHT, RATE = 640, 480, 100
LENGTH = 50


@pytest.fixture(scope="module")
def actions() -> np.ndarray:
    """Ten gestures, the last of which stays pressed to its end."""
    actions = np.concatenate(list(generate(GestureConfig(10, sequence_length=LENGTH))))
    actions[-1, -5:, 2] = 1
    return actions


def to_actions(found: list[Event], num: int, pause: float) -> np.ndarray:
    """Play events back into actions, step by step."""
    actions, at, place, pressed = np.empty((num, LENGTH, 3)), 0, None, 0
    for number in range(num):
        for step in range(LENGTH):
            now = number * (LENGTH / RATE + pause) + step / RATE
            while at < len(found) and found[at].seconds < now + 1e-5:
                event = found[at]
                place = event.x, event.y
                pressed = {"move": pressed, "down": 1, "up": 0}[event.kind]
                at += 1
            actions[number, step] = *place, pressed
    assert at == len(found) - 1  # the release behind the last step
    return actions


def test_events_are_the_actions_to_half_a_pixel(actions):
    found = events(actions, WIDTH, HEIGHT, RATE, pause=0.2)
    played = to_actions(found, len(actions), pause=0.2)
    distance = abs(played[..., :2] - actions[..., :2] * (WIDTH, HEIGHT))
    assert distance.max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(played[..., 2], actions[..., 2])
    assert found[-1] == (9 * 0.7 + 0.5, "up", found[-2].x, found[-2].y)


def test_stroke_by_hand():
    x, y, press = [0, 0, 1, 1, 1], [0.5, 0.5, 0.5, 0.5, 1], [0, 1, 1, 0, 0]
    stroke = np.stack([x, y, press], axis=1)
    assert events(stroke, 100, 10, rate=10) == [
        (0.0, "move", 0, 5),
        (0.1, "down", 0, 5),
        (0.2, "move", 99, 5),
        (0.3, "up", 99, 5),
        (0.4, "move", 99, 9),
    ]


def test_rests_move_nothing(actions):
    found = events(actions, WIDTH, HEIGHT, RATE)
    pixels = np.rint(actions[..., :2] * (WIDTH, HEIGHT))
    moving = (np.diff(pixels, axis=1) != 0).any(axis=-1).sum()
    kinds = Counter(event.kind for event in found)
    assert kinds["move"] == moving + len(actions)
    assert kinds["down"] == kinds["up"] == (np.diff(actions[..., 2], axis=1, prepend=0) > 0).sum()


def test_lines_are_json(actions):
    found = events(actions, WIDTH, HEIGHT, RATE)
    lines = [json.loads(line) for line in render(found, "jsonl", WIDTH, HEIGHT).splitlines()]
    assert [Event(**line) for line in lines] == found


@pytest.mark.parametrize("form", ["playwright", "pyautogui"])
def test_script_is_python_and_holds_the_events(form, actions):
    found = events(actions, WIDTH, HEIGHT, RATE)
    script = render(found, form, WIDTH, HEIGHT)
    compile(script, form, "exec")
    (assigned,) = (node for node in ast.parse(script).body if isinstance(node, ast.Assign))
    assert [Event(*event) for event in ast.literal_eval(assigned.value)] == found


RECORD = """
<body style="margin: 0; height: 100vh"><script>
heard = [];
for (const [kind, said] of [["pointermove", "move"], ["pointerdown", "down"], ["pointerup", "up"]])
    addEventListener(kind, event => heard.push([event.timeStamp / 1000, said, event.clientX, event.clientY]));
</script>
"""


@pytest.mark.slow
def test_browser_hears_the_events(actions, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not importlib.util.find_spec("playwright") or not chromium:
        pytest.skip("needs playwright and a Chromium")
    from playwright.sync_api import sync_playwright

    found = events(actions[:2], WIDTH, HEIGHT, RATE)
    (tmp_path / "replay.py").write_text(render(found, "playwright", WIDTH, HEIGHT))
    replay = runpy.run_path(str(tmp_path / "replay.py"))["replay"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_content(RECORD)
        replay(page)
        heard = page.evaluate("heard")
        browser.close()
    assert [tuple(event[1:]) for event in heard] == [event[1:] for event in found]
    seconds = np.array([event[0] for event in heard])
    lateness = seconds - seconds[0] - [event.seconds for event in found]
    assert abs(lateness).max() < 0.5  # of about two seconds, on a machine that may be busy
