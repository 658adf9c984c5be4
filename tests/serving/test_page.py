"""The studio's page in a real Chromium: what the pointer did is on disk, whatever happens, and becomes a model that draws."""

import json
import math
import os
import shlex
import shutil
import signal
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from playwright import sync_api as playwright

from action_ddim.cli.main import main
from action_ddim.serving.replay import events, render
from tests.conftest import wait_for
from tests.serving.conftest import HEADER, NAME, drawn_rows

pytestmark = pytest.mark.slow

# Counts, apart from the page's own code and across its reloads, the places that the browser told while it was recording.
COUNTER = """
window.addEventListener("pointerdown", count, true);
window.addEventListener("pointermove", count, true);
window.addEventListener("pointerup", count, true);
function count(event) {
  if (event.target.id !== "pad" || document.getElementById("toggle").ariaPressed !== "true") return;
  const parts = event.type === "pointermove" ? event.getCoalescedEvents().length || 1 : 1;
  const key = "counted " + (sessionStorage.tab ??= Math.random());
  localStorage[key] = Number(localStorage[key] ?? 0) + parts;
}
"""


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: Playwright's own, or the system's."""
    with playwright.sync_playwright() as driver:
        for path in (None, shutil.which("chromium"), shutil.which("google-chrome")):
            try:
                launched = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
            except playwright.Error:
                continue
            yield launched
            launched.close()
            return
        pytest.skip("no Chromium (playwright install chromium)")


@pytest.fixture
def context(browser):
    """A fresh profile, whose pages throw nothing."""
    thrown = []
    made = browser.new_context(viewport={"width": 1000, "height": 800}, has_touch=True)
    made.add_init_script(COUNTER)
    made.on("weberror", lambda error: thrown.append(error.error.stack or str(error.error)))
    yield made
    made.close()
    assert not thrown


def opened(context, client):
    page = context.new_page()
    page.goto(client.address)
    playwright.expect(page.locator("#about")).to_contain_text("Recordings are kept")
    page.click("#toggle")
    return page


def draw_wave(page, column: int, *, lift: bool = True, steps: int = 25, pause_ms: float = 8) -> None:
    """Move, press and draw a wave down the pad by real pointer events."""
    page.bring_to_front()  # input waits for frames, which a tab behind another has one a second of
    box = page.locator("#pad").bounding_box()
    x, y = box["x"] + 60 + 80 * (column % 10), box["y"] + 40
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(steps):
        page.mouse.move(x + 30 * math.sin(step / 4), y + 10 * step)
        page.wait_for_timeout(pause_ms)
    if lift:
        page.mouse.up()


def counted(page) -> int:
    names = "Object.keys(localStorage).filter(key => key.startsWith('counted'))"
    return page.evaluate(f"{names}.reduce((sum, key) => sum + Number(localStorage[key]), 0)")


def rows_on_disk(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) - 1 for path in (folder / "sessions").glob("*.jsonl"))


def read_sessions(folder: Path) -> list[tuple[dict, list]]:
    """Return the header and the rows of each session."""
    found = (map(json.loads, path.read_text().splitlines()) for path in (folder / "sessions").iterdir())
    return [(header, rows) for header, *rows in found]


def all_arrive(page, folder: Path, *, but: int = 0) -> None:
    """Wait until the rows on disk are those that the browser told, but for so many; once each."""
    for _ in range(100):
        if rows_on_disk(folder) == counted(page) - but:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{rows_on_disk(folder)} rows are on disk, of {counted(page) - but} that the pointer made")


def test_no_row_is_lost_by_reloads_killed_servers_and_a_second_tab(context, studio, tmp_path):
    client = studio()
    page, other = opened(context, client), opened(context, client)
    for column in range(3):  # in the middle of a stroke
        draw_wave(page, column, lift=False)
        page.reload()
        page.mouse.up()
        page.click("#toggle")
    for column in range(2):
        draw_wave(page, column)
        os.kill(client.process.pid, signal.SIGKILL)
        client.process.wait()
        draw_wave(other, column + 3)
        draw_wave(page, column + 3, lift=False)
        playwright.expect(page.locator("#recorded")).to_contain_text("start it again")
        page.mouse.up()
        if column:
            with pytest.raises(playwright.Error, match="ERR_CONNECTION_REFUSED"):
                page.reload()
        client = studio(port=client.port)
    page.goto(client.address)
    all_arrive(page, tmp_path / "studio")
    assert counted(page) > 9 * 25
    for path in (tmp_path / "studio" / "sessions").iterdir():
        _, *rows = map(json.loads, path.read_text().splitlines())
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def test_a_full_disk_is_told_and_loses_nothing(context, studio, tmp_path):
    client = studio()
    page = opened(context, client)
    draw_wave(page, 0)
    all_arrive(page, tmp_path / "studio")
    (path,) = (tmp_path / "studio" / "sessions").iterdir()
    limit = path.stat().st_size + 100  # bytes a file may have, in the process that runs
    os.system(f"prlimit --pid {client.process.pid} --fsize={limit}:unlimited")
    draw_wave(page, 1)
    playwright.expect(page.locator("#recorded")).to_contain_text("the disk does not take it: File too large")
    with page.expect_download():  # of what is there
        page.click("#download")
    os.system(f"prlimit --pid {client.process.pid} --fsize=unlimited:unlimited")
    playwright.expect(page.locator("#recorded")).to_contain_text("all of them on disk")
    all_arrive(page, tmp_path / "studio")


FILL_STORAGE = """() => {
    for (const size of [1 << 20, 1 << 10, 50])
        try { for (let number = 0; ; number++) localStorage[`full${size}-${number}`] = "x".repeat(size); } catch {}
    localStorage.removeItem("full50-0"); // for the numbers of the test
}"""


def test_a_full_storage_of_the_browser_is_told_and_loses_nothing(context, studio, tmp_path):
    client = studio()
    page = opened(context, client)
    page.evaluate(FILL_STORAGE)
    draw_wave(page, 0)
    all_arrive(page, tmp_path / "studio")
    os.kill(client.process.pid, signal.SIGKILL)
    client.process.wait()
    draw_wave(page, 1)
    playwright.expect(page.locator("#recorded")).to_contain_text(
        "start it again, in the same folder. The browser keeps no more"
    )
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.close(run_before_unload=True)
    studio(port=client.port)
    all_arrive(page, tmp_path / "studio")
    playwright.expect(page.locator("#recorded")).to_contain_text("all of them on disk")
    assert asked == ["beforeunload"]


def test_a_studio_that_hangs_is_told_and_loses_nothing(context, studio, tmp_path):
    client = studio()
    page = opened(context, client)
    draw_wave(page, 0, steps=5)
    all_arrive(page, tmp_path / "studio")
    os.kill(client.process.pid, signal.SIGSTOP)
    draw_wave(page, 1)
    page.click("#export")
    playwright.expect(page.locator("#recorded")).to_contain_text("the studio has not answered yet")
    os.kill(client.process.pid, signal.SIGCONT)
    playwright.expect(page.locator("#exported p")).to_contain_text(f"of {counted(page)} rows")  # the last ones too
    playwright.expect(page.locator("#recorded")).to_contain_text("all of them on disk")
    all_arrive(page, tmp_path / "studio")


def test_an_answer_that_comes_late_cuts_off_nothing(context, studio, tmp_path):
    client = studio()
    page = opened(context, client)
    held = []
    page.route("**/rows", lambda route: held.append(route) if len(held) < 2 else route.continue_())
    with page.expect_request("**/rows"):
        draw_wave(page, 0, steps=5)
    draw_wave(page, 1, steps=5)
    page.evaluate("dispatchEvent(new Event('pagehide'))")  # of a page that comes back
    page.wait_for_timeout(500)
    first, second = held
    late = first.fetch()
    second.continue_()
    all_arrive(page, tmp_path / "studio")
    first.fulfill(response=late)
    draw_wave(page, 2, steps=5)
    all_arrive(page, tmp_path / "studio")


def test_rows_that_a_page_left_are_written_where_their_session_is_deleted(context, studio, tmp_path):
    client = studio()
    page = opened(context, client)
    draw_wave(page, 0)
    all_arrive(page, tmp_path / "studio")
    before = counted(page)
    os.kill(client.process.pid, signal.SIGKILL)
    client.process.wait()
    draw_wave(page, 1)
    page.wait_for_timeout(500)
    page.close()
    (path,) = (tmp_path / "studio" / "sessions").iterdir()
    path.unlink()
    client = studio(port=client.port)
    os.system(f"prlimit --pid {client.process.pid} --fsize=10:unlimited")
    page = opened(context, client)
    playwright.expect(page.locator("#recorded")).to_contain_text(
        "Rows of an earlier page wait: the disk does not take it: File too large"
    )
    os.system(f"prlimit --pid {client.process.pid} --fsize=unlimited:unlimited")
    all_arrive(page, tmp_path / "studio", but=before)
    playwright.expect(page.locator("#recorded")).to_have_text("Rows of an earlier page are on disk.")


def test_a_browser_that_keeps_nothing_records_and_comes_to_rest(context, studio, tmp_path):
    refused = "() => { throw new DOMException('', 'SecurityError'); }"
    context.add_init_script(f"Storage.prototype.setItem = Storage.prototype.removeItem = Storage.prototype.getItem = {refused}")
    client = studio()
    page = opened(context, client)
    draw_wave(page, 0)
    all_arrive(page, tmp_path / "studio")
    page.wait_for_timeout(500)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1000)
    assert not asked


def test_a_page_without_the_token_records_nothing(context, studio):
    client = studio()
    page = context.new_page()
    page.goto(client.address.split("?")[0])
    playwright.expect(page.locator("#about")).to_contain_text("open the address that it printed")
    playwright.expect(page.locator("#toggle")).to_be_disabled()


def test_a_model_that_loads_is_asked_for_once_a_second(context, studio):
    client = studio()

    def loading(route) -> None:
        state = route.fetch().json()
        route.fulfill(json={**state, "model": {"name": "large", "state": "loading"}})

    context.route("**/state", loading)
    page = opened(context, client)
    for column in range(3):
        draw_wave(page, column, steps=10, pause_ms=50)
    page.wait_for_timeout(500)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(3000)
    assert 1 <= len(asked) <= 4
    context.unroute_all(behavior="wait")


def test_a_studio_that_stops_before_it_lists_what_it_has_is_told(context, studio, tmp_path):
    client = studio()
    page = opened(context, client)
    context.route("**/state", lambda route: route.abort())
    draw_wave(page, 0, steps=5)
    playwright.expect(page.locator("#recorded")).to_contain_text("all of them on disk")
    playwright.expect(page.locator("#about")).to_contain_text("the studio does not answer; start it again")
    context.unroute("**/state")
    playwright.expect(page.locator("#about")).to_contain_text("Recordings are kept")


# Rows wait until the page goes, and what it asks for then is noted: without `keepalive` a browser may give up the request.
LAST_WORDS = """
window.setInterval = () => {};
const ask = window.fetch;
let gone = false;
addEventListener("pagehide", () => { gone = true; }, true);
window.fetch = (path, options) => {
  if (gone) localStorage[`last words ${path}`] = options.keepalive;
  return ask(path, options);
};
"""


def test_a_page_that_goes_sends_what_it_has(context, studio, tmp_path):
    """The last rows of a page that is left do not wait for the next one."""
    context.add_init_script(LAST_WORDS)
    client = studio()
    page = opened(context, client)
    draw_wave(page, 0, steps=3)
    told = counted(page)
    page.goto("about:blank")
    wait_for(lambda: rows_on_disk(tmp_path / "studio") == told, client.process)
    page.goto(client.address)
    assert page.evaluate("localStorage['last words rows']") == "true"
    page.fill("#person", "ada")
    page.reload()
    playwright.expect(page.locator("#person")).to_have_value("ada")


def test_rows_go_on_where_a_session_is_deleted(context, studio, tmp_path):
    client = studio()
    page = opened(context, client)
    page.fill("#person", "\u0639\u0644\u06cc\u200c\u0631\t")  # with a joiner, which the script needs, and a tab
    draw_wave(page, 0)
    all_arrive(page, tmp_path / "studio")
    (path,) = (tmp_path / "studio" / "sessions").iterdir()
    before = counted(page)
    path.unlink()
    draw_wave(page, 1)
    all_arrive(page, tmp_path / "studio", but=before)
    assert json.loads(path.read_text().splitlines()[0])["person"] == "\u0639\u0644\u06cc\u200c\u0631"


def test_a_page_that_is_not_of_this_machine_records_too(context, studio, tmp_path):
    """Over plain http a browser has no locks but for loopback."""
    context.add_init_script("Object.defineProperty(Navigator.prototype, 'locks', { value: undefined })")
    client = studio()
    page = opened(context, client)
    draw_wave(page, 0)
    all_arrive(page, tmp_path / "studio")
    os.kill(client.process.pid, signal.SIGKILL)
    client.process.wait()
    draw_wave(page, 1)
    page.wait_for_timeout(500)
    page.close()
    client = studio(port=client.port)
    page = opened(context, client)  # sends what the other left
    all_arrive(page, tmp_path / "studio")


def test_a_finger_is_a_device_of_its_own_and_a_press_that_is_taken_away_ends(context, studio, tmp_path):
    client = studio()
    page = opened(context, client)
    page.fill("#person", "ada")
    draw_wave(page, 0, steps=3)
    page.touchscreen.tap(500, 400)
    touch = context.new_cdp_session(page)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": 500, "y": 400}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchCancel", "touchPoints": []})  # for a gesture of the system's
    playwright.expect(page.locator("#sessions tbody tr")).to_have_count(2)
    page.wait_for_timeout(500)
    found = {}
    for header, rows in read_sessions(tmp_path / "studio"):
        assert header["person"] == "ada"
        found[header["device"]] = rows
    assert set(found) == {"mouse", "touch"}
    assert [(row[3], row[5]) for row in found["touch"]] == [(1, 0), (0, 1), (1, 0), (0, 1)]  # where it came down was not seen
    assert len({tuple(row[1:3]) for row in found["touch"]}) == 1


def test_a_press_within_a_selection_of_text_is_no_drag_of_it(context, studio, tmp_path):
    client = studio()
    page = opened(context, client)
    page.keyboard.press("Control+a")
    draw_wave(page, 0, steps=25)
    all_arrive(page, tmp_path / "studio")
    ((_, rows),) = read_sessions(tmp_path / "studio")
    assert [row[3] for row in rows] == [0, *[1] * 26, 0]


def test_a_press_that_is_taken_away_ends_where_it_was(context, studio, tmp_path):
    """Some events that cancel a press tell no place."""
    client = studio()
    page = opened(context, client)
    draw_wave(page, 0, steps=5, lift=False)
    page.dispatch_event("#pad", "pointercancel", {"pointerType": "mouse", "pointerId": 1, "clientX": 0, "clientY": 0})
    wait_for(lambda: rows_on_disk(tmp_path / "studio") == counted(page) + 1, client.process)
    ((_, rows),) = read_sessions(tmp_path / "studio")
    assert rows[-1][1:4] == [*rows[-2][1:3], 0]


WIDTHS = """
window.widths = {};
window.addEventListener("pointermove", event => {
  widths[event.timeStamp.toFixed(3)] = document.getElementById("pad").getBoundingClientRect().width;
}, true);
"""


def test_rows_are_of_the_size_that_the_field_had(context, studio, tmp_path):
    context.add_init_script(WIDTHS)
    client = studio()
    page = opened(context, client)
    for step in range(20):
        page.set_viewport_size({"width": 1000 - 200 * (step % 2), "height": 800})
        page.mouse.move(200 + 5 * step, 400)
    all_arrive(page, tmp_path / "studio")
    widths = page.evaluate("widths")
    found = [(header["width"], widths[f"{row[0]:.3f}"]) for header, rows in read_sessions(tmp_path / "studio") for row in rows]
    assert len(found) == 20
    assert all(said == was for said, was in found)
    assert len(set(found)) == 2


def test_a_field_that_moves_under_the_pointer_is_no_motion(context, studio, tmp_path):
    client = studio()
    page = opened(context, client)
    page.mouse.move(300, 400)
    page.mouse.move(310, 400)
    page.evaluate("document.querySelector('h1').style.marginTop = '50px'")
    page.mouse.move(320, 400)
    page.mouse.move(330, 400)
    all_arrive(page, tmp_path / "studio")
    ((_, rows),) = read_sessions(tmp_path / "studio")
    assert [row[5] for row in rows] == [0, 1, 0, 1]


def test_a_finger_draws_beside_a_thumb_that_rests(context, studio, tmp_path):
    client = studio()
    page = opened(context, client)
    touch = context.new_cdp_session(page)
    thumb, finger = {"x": 5, "y": 5, "id": 1}, {"x": 400, "y": 400, "id": 2}

    def send(kind: str, *points: dict) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", thumb)
    send("touchStart", thumb, finger)
    for step in range(5):
        send("touchMove", thumb, {**finger, "x": 420 + 20 * step})
    another = {"x": 300, "y": 500, "id": 3}
    send("touchStart", thumb, finger, another)  # which is none of the stroke
    send("touchMove", thumb, finger, {**another, "x": 320})
    send("touchEnd", finger)
    send("touchMove", thumb, {**another, "x": 340})
    send("touchEnd", another)
    send("touchEnd", thumb)
    playwright.expect(page.locator("#sessions tbody tr")).to_have_count(1)
    page.wait_for_timeout(500)
    ((header, rows),) = read_sessions(tmp_path / "studio")
    assert header["device"] == "touch"
    box = page.locator("#pad").bounding_box()
    assert {round(row[2] + box["y"]) for row in rows} == {400}
    assert [row[3] for row in rows] == [1] * (len(rows) - 1) + [0]
    assert len(rows) >= 6


def test_recorded_exported_trained_drawn_and_filled_in(context, studio, tmp_path):
    client = studio("--seq_len", 50, "--rate", 100)
    page = opened(context, client)
    for column in range(6):
        draw_wave(page, column, steps=40)
    all_arrive(page, tmp_path / "studio")
    page.click("#export")
    playwright.expect(page.locator("#exported p")).to_contain_text("windows to train on")
    inspect, train = page.locator("#exported pre").inner_text().splitlines()
    assert main(shlex.split(inspect)[1:]) == 0
    tiny = f"--d_model 16 --num_layers 1 --nhead 2 --batch_size 4 --num_epochs 3 --device cpu --save_dir {tmp_path / 'run'}"
    assert main(shlex.split(train)[1:] + tiny.split()) == 0

    page.close()
    client = studio("--model", tmp_path / "run" / "pipeline", "--rate", 100, "--num_inference_steps", 2)
    page = opened(context, client)
    playwright.expect(page.locator("#about")).to_contain_text("ready")
    page.click("#tab-watch")
    page.click("#others")
    playwright.expect(page.locator("#watched")).to_contain_text("8 drawn, 100 steps a second")
    page.click("#tab-guess")
    page.click("#next")
    playwright.expect(page.locator("#guessed")).to_have_text("Which one is real?")
    page.click("[data-side=right]")
    playwright.expect(page.locator("#guessed")).to_contain_text("of 1 right")
    page.click("#tab-fill")
    page.click("#ways")
    playwright.expect(page.locator("#filled")).to_have_text("put a point into the field first")
    for x, y in ((200, 100), (400, 300)):
        page.click("#points", position={"x": x, "y": y})
    page.click("#ways")
    playwright.expect(page.locator("#filled")).to_have_text("5 ways through 2 points.")


def test_keyboard_alone_does_all_but_record(context, studio, model, data):
    client = studio("--model", model, "--data_dir", data / "train", "--num_inference_steps", 2)
    page = opened(context, client)
    press = page.keyboard.press

    def tab_to(name: str) -> None:
        for _ in range(20):
            if page.evaluate("document.activeElement.id") == name:
                return
            press("Tab")
        raise AssertionError(f"Tab does not come to {name}")

    page.evaluate("document.activeElement.blur()")
    tab_to("tab-record")
    press("ArrowRight")
    tab_to("others")
    press("Enter")
    playwright.expect(page.locator("#watched")).to_contain_text("8 real, 8 drawn")
    assert page.evaluate("document.activeElement.id") == "others"  # a button that waited has the focus again
    tab_to("pause")

    def picture_changes() -> bool:
        picture = "document.getElementById('real').toDataURL()"
        before = page.evaluate(picture)
        page.wait_for_timeout(400)
        return page.evaluate(picture) != before

    assert picture_changes()
    press("Space")
    assert page.locator("#pause").get_attribute("aria-pressed") == "true"
    page.wait_for_timeout(100)
    assert not picture_changes()
    press("Shift+Tab")
    press("Shift+Tab")
    press("ArrowRight")
    tab_to("points")
    for key in ("ArrowLeft", "Enter", "ArrowDown", "ArrowDown", "Enter", "ArrowUp", "Enter", "Backspace"):
        press(key)
    playwright.expect(page.locator("#filled")).to_have_text("2 points.")
    page.locator("#clear").focus()
    press("Shift+Tab")
    press("Enter")
    playwright.expect(page.locator("#filled")).to_have_text("5 ways through 2 points.")
    page.locator("#tab-fill").focus()
    press("ArrowRight")
    tab_to("next")
    press("Enter")
    playwright.expect(page.locator("#guessed")).to_have_text("Which one is real?")
    press("Shift+Tab")
    press("Enter")
    playwright.expect(page.locator("#guessed")).to_contain_text("of 1 right")
    assert page.evaluate("document.activeElement.id") == "next"


def test_ways_through_points_that_were_changed_meanwhile_are_not_shown(context, studio, model, data):
    client = studio("--model", model, "--data_dir", data / "train", "--num_inference_steps", 2)
    page = opened(context, client)
    page.click("#tab-fill")
    page.click("#points", position={"x": 200, "y": 100})
    held = []
    page.route("**/fill", lambda route: held.append(route))
    with page.expect_request("**/fill"):
        page.click("#ways")
    page.click("#clear")
    page.click("#points", position={"x": 300, "y": 200})
    page.click("#points", position={"x": 400, "y": 200}, button="right")  # which puts none
    held[0].continue_()
    playwright.expect(page.locator("#ways")).to_be_enabled()
    playwright.expect(page.locator("#filled")).to_have_text("1 points.")


def test_what_replay_sends_is_what_arrives(context, studio, tmp_path):
    client = studio()
    page = opened(context, client)
    box = page.locator("#pad").bounding_box()
    time = np.arange(60) / 60
    press = (time > 0.3) & (time < 0.8)
    action = np.stack([0.3 + 0.3 * time, 0.5 + 0.1 * np.sin(9 * time), press], axis=1)
    sent = events(action[None], width=1000, height=800, rate=60)
    scope: dict = {"__name__": "replayed"}
    exec(render(sent, "playwright", 1000, 800), scope)
    scope["replay"](page)
    all_arrive(page, tmp_path / "studio")
    (path,) = (tmp_path / "studio" / "sessions").iterdir()
    trace = np.array([row[1:4] for row in map(json.loads, path.read_text().splitlines()[1:])])
    expected, down = [], 0
    for event in sent:
        down = {"down": 1, "up": 0}.get(event.kind, down)
        expected.append([event.x - box["x"], event.y - box["y"], down])
    np.testing.assert_allclose(trace, expected, atol=0.01)


def test_page_of_another_origin_comes_to_nothing(context, studio, tmp_path):
    client = studio()
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "index.html").write_text(f"<title>hostile</title><iframe src='{client.address}'></iframe>")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "hostile")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as hostile:
        Thread(target=hostile.serve_forever, daemon=True).start()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{hostile.server_port}/", wait_until="load")
        hostile.shutdown()
    assert len(page.frames) == 2
    assert page.frames[1].locator("#toggle").count() == 0
    ask = (
        """async ([url, options]) => { try { return (await fetch(url, options)).type } catch (error) { return error.name } }"""
    )
    address = f"http://127.0.0.1:{client.port}"
    body = json.dumps({"session": NAME, "header": HEADER, "first": 0, "rows": drawn_rows(0.1)})
    headers = {"x-studio-token": client.token}  # even if it knew it
    assert page.evaluate(ask, [f"{address}/state", {}]) == "TypeError"
    assert page.evaluate(ask, [f"{address}/state", {"headers": headers}]) == "TypeError"
    assert page.evaluate(ask, [f"{address}/rows", {"method": "POST", "body": body, "headers": headers}]) == "TypeError"
    assert page.evaluate(ask, [f"{address}/rows", {"method": "POST", "body": body, "mode": "no-cors"}]) in (
        "opaque",
        "TypeError",
    )
    assert not list((tmp_path / "studio" / "sessions").iterdir())
    assert client.ask("GET", "/state")[0] == 200
