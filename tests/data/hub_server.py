"""A Hub of one data set on this machine, with as much of its interface as its client asks for; no test needs a network."""

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME, COMMIT = "someone/strokes", "c0ffee" * 6 + "c0ff"


class HubServer(ThreadingHTTPServer):
    """Serves the files of a folder as those of `NAME` at `COMMIT`; `asked` has each request, method and path."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Request)
        self.folder, self.asked = folder, []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def entry(self, path: Path) -> dict:
        name = {"path": path.relative_to(self.folder).as_posix()}
        if path.is_dir():
            return {"type": "directory", "oid": "0", **name}
        return {"type": "file", "oid": _digest(path.read_bytes()), "size": path.stat().st_size, **name}


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_GET(self) -> None:
        path, folder = self.path.split("?")[0], self.server.folder
        self.server.asked.append(f"{self.command} {path}")
        if match := re.fullmatch(rf"/datasets/{NAME}/resolve/[^/]+/(.*)", path):
            self._file(folder / match[1])
        elif re.fullmatch(rf"/api/datasets/{NAME}(/revision/[^/]+)?", path):
            names = [{"rfilename": path.relative_to(folder).as_posix()} for path in folder.rglob("*.*")]
            self._send(200, json.dumps({"id": NAME, "sha": COMMIT, "private": False, "siblings": names, "tags": []}).encode())
        elif match := re.fullmatch(rf"/api/datasets/{NAME}/tree/[^/]+/?(.*)", path):
            self._send(200, json.dumps([self.server.entry(inner) for inner in sorted((folder / match[1]).iterdir())]).encode())
        else:
            self._send(404, headers={"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def _file(self, path: Path) -> None:
        if not path.is_file():
            self._send(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        content = path.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(content)}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self._send(200, content, headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        self._send(206, content[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"})

    def _send(self, code: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments) -> None:
        pass


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
