"""Actions as timed pointer events in pixels, and as scripts that send them to a browser or to the desktop."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from action_ddim.actions import PRESS, PRESS_THRESHOLD


class Event(NamedTuple):
    """What a pointer does: `kind` is move, down or up, `seconds` counts from the start, `x` and `y` are pixels."""

    seconds: float
    kind: str
    x: int
    y: int


def events(actions: np.ndarray, width: int, height: int, rate: float, pause: float = 0.5) -> list[Event]:
    """Return the events of actions `(N, L, 3)` or `(L, 3)` on a screen.

    Step t of a sequence lies t / rate seconds after its start. It gives a move where it lies at another pixel than the step
    before, and a down or an up, after the move, where the press changes. A sequence begins with a move to where it starts, and
    one that ends pressed is released at its end.

    Args:
        width, height: Of the screen, pixels. Pixel k lies at k / width; what rounds to the far edge lies in the last pixel.
        rate: Steps a second.
        pause: Seconds between the end of a sequence and the start of the next.
    """
    actions = np.asarray(actions)
    actions = actions[None] if actions.ndim == 2 else actions
    pixels = np.rint(actions[..., :PRESS] * (width, height)).clip(0, (width - 1, height - 1)).astype(int)
    pressed = actions[..., PRESS] > PRESS_THRESHOLD
    found, length = [], actions.shape[1]
    for number, (places, presses) in enumerate(zip(pixels.tolist(), pressed.tolist(), strict=True)):
        start = number * (length / rate + pause)
        before, was_pressed = None, False
        for step, (place, is_pressed) in enumerate(zip(places, presses, strict=True)):
            seconds = round(start + step / rate, 6)
            if place != before:
                found.append(Event(seconds, "move", *place))
            if is_pressed != was_pressed:
                found.append(Event(seconds, "down" if is_pressed else "up", *place))
            before, was_pressed = place, is_pressed
        if was_pressed:
            found.append(Event(round(start + length / rate, 6), "up", *places[-1]))
    return found


PLAYWRIGHT = '''"""Replays {count} pointer events in a browser, on a page of {width} x {height} pixels.

    pip install playwright && playwright install chromium
    python FILE https://example.org
"""

import sys
import time

from playwright.sync_api import sync_playwright

EVENTS = [  # seconds, what, x, y
{events}
]


def replay(page):
    """Send the events to a page, each at its time."""
    started = time.perf_counter()
    for seconds, what, x, y in EVENTS:
        time.sleep(max(0.0, started + seconds - time.perf_counter()))
        if what == "move":
            page.mouse.move(x, y)
        elif what == "down":
            page.mouse.down()
        else:
            page.mouse.up()


if __name__ == "__main__":
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(headless=False)
        page = browser.new_page(viewport={{"width": {width}, "height": {height}}})
        page.goto(sys.argv[1] if len(sys.argv) > 1 else "about:blank")
        replay(page)
        browser.close()
'''
PYAUTOGUI = '''"""Replays {count} pointer events on this desktop, made for a screen of {width} x {height} pixels.

    pip install pyautogui
    python FILE
"""

import time

import pyautogui

EVENTS = [  # seconds, what, x, y
{events}
]


def replay():
    """Send the events, each at its time; a pointer that you push into a corner of the screen stops it."""
    pyautogui.PAUSE = 0
    started = time.perf_counter()
    for seconds, what, x, y in EVENTS:
        time.sleep(max(0.0, started + seconds - time.perf_counter()))
        if what == "move":
            pyautogui.moveTo(x, y)
        elif what == "down":
            pyautogui.mouseDown(x, y)
        else:
            pyautogui.mouseUp(x, y)


if __name__ == "__main__":
    width, height = pyautogui.size()
    if (width, height) != ({width}, {height}):
        raise SystemExit(f"the events are for {width} x {height} pixels; this screen has {{width}} x {{height}}")
    replay()
'''
SCRIPTS = {"playwright": PLAYWRIGHT, "pyautogui": PYAUTOGUI}
FORMATS = ("jsonl", *SCRIPTS)


def render(found: Sequence[Event], form: str, width: int, height: int) -> str:
    """Write events as one of `FORMATS`: an object a line, or a Python script that sends them."""
    if form == "jsonl":
        return "".join(json.dumps(event._asdict()) + "\n" for event in found)
    lines = "\n".join(f"    {tuple(event)}," for event in found)
    return SCRIPTS[form].format(count=len(found), width=width, height=height, events=lines)
