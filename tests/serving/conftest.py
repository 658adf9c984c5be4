"""A studio as a process of its own, and what its page knows."""

import http.client
import json
import re

import numpy as np
import pytest

from tests.conftest import wait_for

NAME = "20261125-120000-0123abcd"
HEADER = {"person": "ada", "device": "mouse", "width": 800, "height": 600}


def drawn_rows(seconds: float = 4.0) -> list[list]:
    """Return rows at 100 Hz of a hand that goes round, pressed in half of each second."""
    time = np.arange(int(100 * seconds)) / 100
    x, y = 400 + 200 * np.sin(3 * time), 300 + 200 * np.cos(3 * time)
    return [[1000 * t, a, b, int(t % 1 > 0.5), 0.5, 1] for t, a, b in zip(time, x, y, strict=True)]


class Client:
    """What a page knows: where the studio listens, and the token."""

    def __init__(self, process, address: str):
        self.process, self.address = process, address
        self.port, self.token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", address).groups()

    def ask(self, method: str, path: str, body=None, **headers) -> tuple[int, bytes]:
        """Send one request, as the page unless headers say otherwise; None leaves one out."""
        sent = {"host": f"127.0.0.1:{self.port}", "x-studio-token": self.token, **headers}
        body = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", int(self.port), timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in {**sent, "content-length": str(len(body or b""))}.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def post(self, path: str, message=None) -> dict:
        status, answer = self.ask("POST", path, message or {})
        assert status == 200, answer
        return json.loads(answer)


@pytest.fixture
def studio(start, tmp_path):
    """Start a studio in `tmp_path/studio`: `studio("--model", ...)` returns a `Client` when it listens."""

    def open_studio(*words, port=0) -> Client:
        process = start("-m", "action_ddim", "studio", "--out", tmp_path / "studio", "--port", port, *words)
        wait_for(lambda: "Ctrl-C" in process.output(), process)
        return Client(process, process.output().split()[1])

    return open_studio
