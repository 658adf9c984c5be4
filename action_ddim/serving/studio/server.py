"""The studio as a web application, and as a server on this machine."""

import io
import json
import logging
import os
import secrets
import socket
import zipfile
from collections.abc import Callable, Collection, Iterator
from importlib.resources import files
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from action_ddim.errors import UserError, first_line
from action_ddim.serving.studio.guard import Guard, TooLargeError
from action_ddim.serving.studio.sessions import GapError
from action_ddim.serving.studio.studio import Studio

TYPES = {"studio.html": "text/html", "studio.js": "text/javascript", "studio.css": "text/css"}
LOOPBACK, HTTP_PORT = "127.0.0.1", 80
TOKEN_LENGTH = 32
LAST_ANSWERS = 10  # seconds that answers under way have when the studio is closed
TOKEN_FILE = ".token"  # beside the recordings: a page that is open goes on when the studio is started again


def application(studio: Studio, hosts: Collection[str], token: str, closing: Callable[[], bool]) -> Starlette:
    """Return the application; see `Guard` for what it needs to know of its callers. Drawings end where it is `closing`."""
    page = files("action_ddim.serving.studio") / "page"

    def static(name: str) -> Callable:
        async def serve(request: Request) -> Response:
            return Response((page / name).read_text(), media_type=TYPES[name])

        return serve

    async def append(request: Request) -> Response:
        asked = await _asked(request)
        words = (asked.get("session"), asked.get("header"), asked.get("first"), asked.get("rows"))
        try:
            return JSONResponse({"count": await run_in_threadpool(studio.sessions.append, *words)})
        except GapError as gap:
            return JSONResponse({"count": gap.count}, 409)

    def answer(ask: Callable[[], dict]) -> Callable:
        async def endpoint(request: Request) -> Response:
            return JSONResponse(await run_in_threadpool(ask))

        return endpoint

    def answer_to(ask: Callable[[dict], dict]) -> Callable:
        async def endpoint(request: Request) -> Response:
            return JSONResponse(await run_in_threadpool(ask, await _asked(request)))

        return endpoint

    def stream(ask: Callable[[dict], Iterator[dict]]) -> Callable:
        async def endpoint(request: Request) -> Response:
            told = await run_in_threadpool(ask, await _asked(request))
            return StreamingResponse(_lines(told, closing), media_type="application/x-ndjson")

        return endpoint

    async def archive(request: Request) -> Response:
        return Response(await run_in_threadpool(_zipped, studio.sessions.paths()), media_type="application/zip")

    return Starlette(
        routes=[
            Route("/", static("studio.html")),
            Route("/studio.js", static("studio.js")),
            Route("/studio.css", static("studio.css")),
            Route("/state", answer(studio.state)),
            Route("/rows", append, methods=["POST"]),
            Route("/export", answer(studio.export), methods=["POST"]),
            Route("/sessions.zip", archive),
            Route("/recorded", answer_to(studio.recorded), methods=["POST"]),
            Route("/draw", stream(studio.draw), methods=["POST"]),
            Route("/fill", stream(studio.fill), methods=["POST"]),
            Route("/pair", answer(studio.pair), methods=["POST"]),
            Route("/guess", answer_to(studio.guess), methods=["POST"]),
        ],
        middleware=[Middleware(Guard, hosts=hosts, token=token)],
        exception_handlers={ValueError: _bad, UserError: _cannot, TooLargeError: _too_large, OSError: _disk},
    )


def serve(studio: Studio, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve the studio until it is interrupted; `announce` hears the address to open.

    Raises:
        UserError: the address cannot be listened on, or the folder's token can neither be read nor written.
    """
    try:
        token = _token(studio.folder / TOKEN_FILE)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"--out {studio.folder}: its {TOKEN_FILE} cannot be had ({reason}); remove it") from error
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"--host {host} --port {port} cannot be had: {error.strerror or error}; name another") from error
    # Taken up again by its number, it knows its protocol, without which asyncio leaves Nagle's algorithm on: 40 ms an answer.
    with socket.socket(fileno=listening.detach()) as listening:
        port = listening.getsockname()[1]
        name = f"[{host}]" if ":" in host else host.lower()
        names = {name} | ({"localhost"} if host == LOOPBACK else set())
        hosts = {f"{name}:{port}" for name in names} | (names if port == HTTP_PORT else set())  # which browsers leave out
        app = application(studio, hosts, token, closing=lambda: server.should_exit)
        announce(f"http://{name}:{port}/?token={token}")
        config = uvicorn.Config(
            app, log_level="warning", lifespan="off", server_header=False, timeout_graceful_shutdown=LAST_ANSWERS
        )
        server = uvicorn.Server(config)
        server.run(sockets=[listening])


def _token(path: Path) -> str:
    """Return the token of a folder, which only its owner can read; it is made where there is none."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        token = path.read_text().strip()
        if len(token) >= TOKEN_LENGTH:
            return token
        path.unlink()  # of a studio that was killed while it wrote it
        return _token(path)
    with open(descriptor, "w") as file:
        token = secrets.token_urlsafe()
        file.write(token)
    return token


async def _asked(request: Request) -> dict:
    try:
        asked = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ValueError("the message is not JSON") from error
    if not isinstance(asked, dict):
        raise ValueError("the message is not an object")
    return asked


def _lines(told: Iterator[dict], closing: Callable[[], bool]) -> Iterator[str]:
    """Return a line of JSON for each message, the last one an error where that ends them; none after it is `closing`."""
    try:
        for message in told:
            yield json.dumps(message) + "\n"
            if closing():
                return
    except UserError as error:
        yield json.dumps({"error": str(error)}) + "\n"
    except Exception as error:
        # Raised here, it would break the answer off, and a browser then drops what it has not read.
        logging.getLogger("uvicorn.error").exception("the drawing failed")
        yield json.dumps({"error": f"the drawing failed: {first_line(error)}"}) + "\n"


def _zipped(paths: list[Path]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, path.name)
    return content.getvalue()


async def _bad(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def _cannot(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


async def _too_large(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the message is too large"}, 413)


async def _disk(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    return JSONResponse({"error": f"the disk does not take it: {error.strerror or error}"}, 507)
