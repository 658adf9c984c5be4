"""The studio as a process of its own: whom it answers, what it makes of recordings, and what a browser does with it."""

import http.client
import json
import re
import shutil
import signal
import socket
import urllib.request

import numpy as np
import pytest
import torch

from action_ddim.cli.main import main
from action_ddim.data.dataset import ActionDataset
from action_ddim.errors import UserError
from action_ddim.serving.studio.drawing import Artist
from action_ddim.serving.studio.server import _lines
from action_ddim.serving.studio.sessions import Sessions
from augmentation.gestures import GestureConfig, write_gestures
from tests.conftest import ROOT, SEQ_LEN, one_line, wait_for
from tests.serving.conftest import HEADER, NAME, drawn_rows


def test_recorded_rows_become_windows_that_train(studio, tmp_path):
    client = studio("--seq_len", 50, "--rate", 100)
    assert client.ask("POST", "/export", {})[0] == 422  # nothing is recorded yet
    rows = drawn_rows()
    for number, name in enumerate((NAME, NAME.replace("abcd", "abce"))):
        assert client.post("/rows", {"session": name, "header": HEADER, "first": 0, "rows": rows}) == {"count": 400}
        assert client.post("/export")["val"] == number * 4  # a sitting is on one side
    made = client.post("/export")
    assert (made["train"], made["val"], made["rows"], made["dropped"]) == (4, 4, 800, {})
    train = ActionDataset(tmp_path / "studio" / "windows" / "train")
    train.validate()
    steps = train.read(range(len(train))).numpy()
    info = json.loads((tmp_path / "studio" / "windows" / "train" / "dataset.json").read_text())
    assert (info["rate_hz"], info["recordings"]["split_by"]) == (100, "session")
    # At the rate of the rows each step is one of them.
    places = {tuple(np.round(row, 4)) for row in np.array(rows)[:, 1:3] / [800, 600]}
    assert {tuple(np.round(step, 4)) for step in steps[..., :2].reshape(-1, 2).astype(float)} <= places
    real = np.array(client.post("/recorded", {"num": 3})["actions"])
    assert real.shape == (3, 50, 3)
    state = json.loads(client.ask("GET", "/state")[1])
    assert state["model"] is None
    assert [said["rows"] for said in state["sessions"]] == [400, 400]
    status, answer = client.ask("POST", "/draw", {"num": 1})
    assert (status, json.loads(answer)["error"]) == (422, "there is no model; start the studio with --model PIPELINE")
    status, archive = client.ask("GET", "/sessions.zip")
    assert (status, archive[:2]) == (200, b"PK")


def test_windows_are_made_of_what_there_is(studio, tmp_path):
    """Of one session with presses beside one without, and one whose file was damaged; that is said."""
    client = studio("--seq_len", 50, "--rate", 100)
    quiet = [[*row[:3], 0, 0, 1] for row in drawn_rows()]
    for name, rows in zip("abc", (drawn_rows(), quiet, drawn_rows()), strict=True):
        client.post("/rows", {"session": NAME.replace("abcd", f"abc{name}"), "header": HEADER, "first": 0, "rows": rows})
    damaged = tmp_path / "studio" / "sessions" / f"{NAME.replace('abcd', 'abcc')}.jsonl"
    damaged.write_text(damaged.read_text() + "\n")
    made = client.post("/export")
    assert (made["train"], made["val"]) == (4, 0)
    assert f"{damaged}, line 402: " in made["unread"][0]
    assert [said["rows"] for said in json.loads(client.ask("GET", "/state")[1])["sessions"]] == [400, 400, 400]


@pytest.mark.slow
def test_model_draws_fills_in_and_lets_guess(studio, model, data):
    client = studio("--model", model, "--data_dir", data / "train", "--num_inference_steps", 2)
    status, answer = client.ask("POST", "/draw", {"num": 6})
    lines = [json.loads(line) for line in answer.splitlines()]
    assert (status, [line["done"] for line in lines]) == (200, [4, 6])
    drawn = np.array([action for line in lines for action in line["actions"]])
    assert drawn.shape == (6, SEQ_LEN, 3)
    assert set(np.unique(drawn[..., 2])) <= {0, 1}
    points = [[0.25, 0.5], [0.5, 0.125], [0.75, 0.5]]
    _, answer = client.ask("POST", "/fill", {"points": points, "num": 2, "drag": True})
    for action in np.array(json.loads(answer)["actions"]):
        at = [SEQ_LEN // 3, round((SEQ_LEN // 3 + 2 * SEQ_LEN // 3) / 2), 2 * SEQ_LEN // 3]
        np.testing.assert_array_equal(action[at, :2], points)
        np.testing.assert_array_equal(action[:, 2], (np.arange(SEQ_LEN) >= at[0]) & (np.arange(SEQ_LEN) <= at[2]))
    real = np.round(ActionDataset(data / "train", seq_len=SEQ_LEN).read(range(12)).numpy().astype(float), 5)
    for _ in range(4):
        pair = client.post("/pair")
        told = client.post("/guess", {"pair": pair["pair"], "side": "left"})
        assert told["right"] == (told["real"] == "left")
        sides = [any(np.array_equal(pair[side], one) for one in real) for side in ("left", "right")]
        assert sides == [told["real"] == "left", told["real"] == "right"]
        assert client.ask("POST", "/guess", {"pair": pair["pair"], "side": "left"})[0] == 400  # once


def test_who_is_not_its_page_is_refused(studio, tmp_path):
    client = studio()
    own = f"127.0.0.1:{client.port}"
    assert client.ask("GET", "/state", origin=f"http://{own}")[0] == 200
    for expected, headers in (
        (421, {"host": f"evil.example:{client.port}"}),  # DNS rebinding
        (421, {"host": "127.0.0.1"}),
        (403, {"origin": "http://evil.example"}),
        (403, {"origin": "null"}),
        (403, {"origin": f"https://{own}"}),
        (401, {"x-studio-token": None}),
        (401, {"x-studio-token": client.token[:-1]}),
        (401, {"x-studio-token": "\xe9"}),
    ):
        status, answer = client.ask("GET", "/state", **headers)
        assert status == expected, (headers, answer)
        assert json.loads(answer)["error"]
    assert client.ask("POST", "/rows", {}, origin="http://evil.example")[0] == 403
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/.token", "/sessions/..%2f.token", "/x"):
        status, answer = client.ask("GET", path)
        assert status == 404, (path, answer)
    assert client.ask("GET", "/", **{"x-studio-token": None})[0] == 200  # the page, which can do nothing without the token
    assert ((tmp_path / "studio" / ".token").stat().st_mode & 0o777) == 0o600


@pytest.mark.slow
def test_ten_thousand_malformed_messages_leave_it_alive(studio, tmp_path):
    client = studio()
    draw = np.random.default_rng(0)
    good = {"session": NAME, "header": HEADER, "first": 0, "rows": drawn_rows(0.05), "num": 1, "points": [[0.5, 0.5]]}
    good |= {"pair": "0", "side": "left"}
    strange = [None, True, -1, 1e300, 10**400, "", "\ud800", [], {}, [[]], [[float("nan")] * 6], "../..", {"person": 7}]
    of_path = {
        "/rows": ("session", "header", "first", "rows"),
        "/recorded": ("num",),
        "/draw": ("num",),
        "/fill": ("points", "num"),
        "/guess": ("pair", "side"),
    }
    connection = http.client.HTTPConnection("127.0.0.1", int(client.port), timeout=60)
    headers = {"x-studio-token": client.token}
    seen = set()
    for number in range(10_000):
        path = [*of_path][number % 5]
        message = {**good, draw.choice(of_path[path]): strange[draw.integers(len(strange))]}
        body = json.dumps(message).encode()
        cut = number % 4  # a message, half of one, noise, nesting
        body = [body, body[: draw.integers(len(body))], draw.bytes(200), b"[" * 100_000][cut if number % 100 or cut < 3 else 0]
        if cut == 0:
            body = body.replace(b'"first": 0', b'"first": 0.5')  # none of them may be taken
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        response.read()
        seen.add(response.status)
    assert seen <= {400, 409, 422}, seen  # 409: rows that leave a gap
    connection.request("POST", "/rows", b"[" * (3 << 20), headers)
    assert connection.getresponse().status == 413
    assert not list((tmp_path / "studio" / "sessions").iterdir())
    assert client.post("/rows", {key: good[key] for key in ("session", "header", "first", "rows")}) == {"count": 5}
    assert "Traceback" not in client.process.output()


def test_ctrl_c_closes_it_and_the_address_stays(studio):
    client = studio()
    client.process.send_signal(signal.SIGINT)
    assert client.process.wait(30) == 0, client.process.output()
    assert studio(port=client.port).address == client.address


@pytest.mark.slow
def test_ctrl_c_ends_a_drawing(studio, model):
    client = studio("--model", model, "--num_inference_steps", 100)
    connection = http.client.HTTPConnection("127.0.0.1", int(client.port), timeout=60)
    connection.request("POST", "/draw", json.dumps({"num": 64}), {"x-studio-token": client.token})
    answer = connection.getresponse()
    assert json.loads(answer.readline())["done"] == 4
    client.process.send_signal(signal.SIGINT)
    told = [json.loads(line)["done"] for line in answer.read().splitlines()]
    assert client.process.wait(30) == 0
    assert max(told, default=4) < 64
    assert "Traceback" not in client.process.output()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--port", "70000"], "--port is 70000"),
        (["--rate", "0"], "--rate is 0; give 0.001"),
        (["--seq_len", "0"], "--seq_len is 0"),
        (["--model", "nowhere"], "--model nowhere is not a pipeline folder"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid --port 8765 cannot be had"),
        (["--host", "0.0.0.0"], "--host is 0.0.0.0, no address to open"),
        (["--host", "0"], "--host is 0, no address to open"),
        (["--host", "::0"], "--host is ::0, no address to open"),
        (["--out", "taken"], "--out taken"),
        (["--out", "odd"], "--out odd: its .token cannot be had (Is a directory)"),
        (["--data_dir", "nowhere"], "--data_dir nowhere"),
        (["--data_dir", "short"], "--data_dir short holds sequences of 50 steps; --seq_len takes 250"),
    ],
)
def test_mistakes_are_one_line(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    (tmp_path / "odd" / ".token").mkdir(parents=True)
    write_gestures(GestureConfig(num_sequences=2, sequence_length=50), tmp_path / "short")
    assert main(["studio", *words]) == 2
    one_line(capsys, expected)


@pytest.mark.parametrize(("host", "expected"), [("::1", "[::1]"), ("0:0:0:0:0:0:0:1", "[::1]"), ("127.1", "127.0.0.1")])
def test_address_can_be_opened_as_it_is_printed(host, expected, start, tmp_path):
    """In version 6 of the protocol too, where an address has brackets; and however it was spelled."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        if ":" in host:
            pytest.skip("this machine has no ::1")
    process = start("-m", "action_ddim", "studio", "--out", tmp_path / "studio", "--port", 0, "--host", host)
    wait_for(lambda: "Ctrl-C" in process.output(), process)
    address = process.output().split()[1]
    assert address.startswith(f"http://{expected}:")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy this machine has
    with direct.open(address) as answer:
        assert answer.status == 200


def test_mistakes_beside_a_model_are_one_line(model, data, tmp_path, capsys):
    words = ["studio", "--out", str(tmp_path / "studio"), "--model", str(model)]
    assert main([*words, "--num_inference_steps", "101"]) == 2
    one_line(capsys, f"--num_inference_steps is 101; give at most 100, the timesteps of --model {model}")
    shutil.copytree(data / "train", tmp_path / "train")
    info = json.loads((tmp_path / "train" / "dataset.json").read_text())
    (tmp_path / "train" / "dataset.json").write_text(json.dumps({**info, "rate_hz": -5}))
    assert main([*words, "--data_dir", str(tmp_path / "train")]) == 2
    one_line(capsys, "dataset.json says rate_hz -5, not a number above 0")


def test_windows_of_another_rate_than_the_model_s_are_refused(model, data, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\ntags: []\n---\n\n| rate_hz | 125.0 |\n")
    shutil.copytree(data / "train", tmp_path / "train")
    info = json.loads((tmp_path / "train" / "dataset.json").read_text())
    (tmp_path / "train" / "dataset.json").write_text(json.dumps({**info, "rate_hz": 60}))
    words = ["--model", tmp_path / "model", "--data_dir", tmp_path / "train", "--out", tmp_path / "studio"]
    assert main(["studio", *map(str, words)]) == 2
    one_line(capsys, f"--data_dir {tmp_path / 'train'} has 60 steps a second, --model {tmp_path / 'model'} 125")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # whose traceback is the log's
def test_model_that_does_not_fit_is_told(model, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("CUDA out of memory\nand more")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    artist = Artist(str(model), "cpu", 2)
    artist.start()
    told = f"--model {model} cannot be loaded: CUDA out of memory"
    with pytest.raises(UserError, match=told):
        next(artist.draw(1))
    assert artist.state == told


def test_points_without_a_step_each_are_refused(model, data):
    artist = Artist(str(model), "cpu", 2)
    steps = artist.seq_len
    _, mask = artist.through(np.full((steps // 3, 2), 0.5), drag=False)
    assert mask[:, 0].sum() == steps // 3
    with pytest.raises(UserError, match="points are too many for the"):
        artist.through(np.full((steps, 2), 0.5), drag=False)


def test_drawing_that_fails_is_told_and_logged(caplog):
    def told():
        yield {"done": 1}
        raise RuntimeError("out of memory\nand more")

    assert [json.loads(line) for line in _lines(told(), lambda: False)] == [
        {"done": 1},
        {"error": "the drawing failed: out of memory"},
    ]
    assert "RuntimeError: out of memory\nand more" in caplog.text  # the answer ends whole: a browser drops one that breaks off


def test_line_that_is_nested_too_deep_ends_the_count(tmp_path):
    sessions = Sessions(tmp_path)
    sessions.append(NAME, HEADER, 0, drawn_rows(0.1))
    with open(tmp_path / f"{NAME}.jsonl", "a") as file:
        file.write("[" * 100_000 + "\n")
    assert [said.rows for said in sessions.said()] == [10]


def test_port_in_use_is_one_line(studio, capsys, tmp_path):
    client = studio()
    assert main(["studio", "--out", str(tmp_path / "other"), "--port", client.port]) == 2
    one_line(capsys, f"--port {client.port} cannot be had: ")


def test_page_needs_nothing_from_elsewhere():
    page = ROOT / "action_ddim" / "serving" / "studio" / "page"
    for path in page.iterdir():
        assert not re.search(r"https?://", path.read_text()), path
