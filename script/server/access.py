"""Decide which requests the server answers: token, origin and size."""

import hmac
import ipaddress
import re
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def is_loopback(host: str) -> bool:
    """Return whether an address reaches this computer only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class AccessControl:
    """ASGI middleware that refuses requests before they reach the application.

    Args:
        app: answers the others.
        token: that requests must send as `Authorization: Bearer <token>`; None: requests must be addressed to
            a loopback name, and come from the server's own page or from a program.
        max_upload_bytes: limit of a request's body.
        public_paths: of the page itself, which holds no data and needs no token.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None, max_upload_bytes: int, public_paths: frozenset[str]
    ) -> None:
        self.app = app
        self.token, self.max_upload_bytes, self.public_paths = token, max_upload_bytes, public_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection of the server."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)  # start and end of the server; there are no web sockets
            return
        refusal = self._find_refusal(scope["path"], Headers(scope=scope))
        if refusal is None:
            await self.app(scope, self._limit(receive), send)
            return
        status, line = refusal
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            # Clients that are cut off while they send do not read the answer.
            while (await receive()).get("more_body"):
                pass
        headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
        await JSONResponse({"errors": [line]}, status, headers)(scope, receive, send)

    def _find_refusal(self, path: str, headers: Headers) -> tuple[HTTPStatus, str] | None:
        if self.token is None:
            # Any web page that the user visits can send requests to 127.0.0.1, but browsers add its Origin.
            # With DNS rebinding a page lets its own name resolve to 127.0.0.1, so that Origin and Host agree;
            # but then Host holds that name. A page of another site therefore fails one of the two checks.
            host = headers.get("host", "").lower()
            name = host if host.endswith("]") else re.sub(r":\d*$", "", host)
            if not is_loopback(name.strip("[]")):
                return (
                    HTTPStatus.FORBIDDEN,
                    "without a token the server answers at 127.0.0.1 or localhost only",
                )
            if headers.get("origin", f"http://{host}") != f"http://{host}":
                return (
                    HTTPStatus.FORBIDDEN,
                    "web pages of other origins are refused; open the server's own page",
                )
        elif path not in self.public_paths:
            authorization = headers.get("authorization", "").encode()
            if not hmac.compare_digest(authorization, f"Bearer {self.token}".encode()):
                return HTTPStatus.UNAUTHORIZED, "token missing or wrong; send the one that the server printed"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.max_upload_bytes:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large
        return None

    def _limit(self, receive: Receive) -> Receive:
        """Count the bytes of a body, whose declared length may be missing or wrong."""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_upload_bytes:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large)
            return message

        return limited

    @property
    def _too_large(self) -> str:
        return f"the upload is larger than max_upload_mb={self.max_upload_bytes / 10**6:g}; raise it, or crop"
