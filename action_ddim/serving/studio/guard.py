"""Who may call the studio: the page it serves, and nobody else.

It listens on this machine only, but any page that is open in the browser can send requests to this machine. So a request must
name the studio in `Host` (a page of another name that resolves to this machine does not: DNS rebinding), come from no other
origin, and carry the token of the address that the terminal printed.
"""

import secrets
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_HEADER = "x-studio-token"
OPEN_PATHS = ("/", "/studio.js", "/studio.css")  # the page itself, which holds nothing; all it does needs the token
MAX_BODY = 2 << 20  # bytes
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",  # the address holds the token
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Guard:
    """Refuses requests that are not the page's, and bodies that are too large.

    Args:
        app: What it guards.
        hosts: What `Host` may say, with the port.
        token: What the page must know.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], token: str):
        self.app, self.hosts, self.token = app, frozenset(hosts), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no websockets here

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        if refusal is not None:
            status, why = refusal
            await JSONResponse({"error": why}, status)(scope, receive, send_guarded)
        else:
            await self.app(scope, _limited(receive), send_guarded)

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if host.lower() not in self.hosts:
            return 421, "the studio is not called by this name; open the address that it printed"
        if origin is not None and origin.lower() != f"http://{host.lower()}":
            return 403, "another page may not use the studio"
        given = headers.get(TOKEN_HEADER, "")
        if path not in OPEN_PATHS and not secrets.compare_digest(given.encode(), self.token.encode()):
            return 401, "the token is not that of this studio; open the address that it printed"
        return None


class TooLargeError(Exception):
    """A body of more than `MAX_BODY` bytes."""


def _limited(receive: Receive) -> Receive:
    taken = 0

    async def receive_limited() -> Any:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MAX_BODY:
            raise TooLargeError
        return message

    return receive_limited
