"""Who may use the page: this machine alone, or whoever has the token; and no other site's scripts."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
WEEK = 7 * 24 * 3600


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Guard:
    """`token` None: requests must name one of `hosts`, so that no foreign domain that points here is served.

    Otherwise the token must be in the link (which puts it into a cookie), in the cookie or in `Authorization: Bearer`.
    """

    token: str | None = None
    hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1")

    def middleware(self, app: ASGIApp) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return

            async def with_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [
                        *message["headers"],
                        *((name.lower().encode(), value.encode()) for name, value in HEADERS.items()),
                    ]
                await send(message)

            refused = self.check(Request(scope))
            await (refused or app)(scope, receive, with_headers)

        return guarded

    def check(self, request: Request) -> Response | None:
        """What is answered instead; None where the request may pass."""
        if _from_elsewhere(request) and not _opens_page(request):
            return JSONResponse({"error": "other sites may not use this page"}, 403)
        if self.token is None:
            if _host(request) not in self.hosts:
                return PlainTextResponse("this page is served to this machine: open it as http://localhost:PORT", 403)
            return None
        given = parse_qs(request.url.query).get("token", [""])[0]
        if request.url.path == "/" and _same(given, self.token):
            opened = RedirectResponse("/", 303)
            opened.set_cookie(_cookie(request), self.token, max_age=WEEK, httponly=True, samesite="lax")
            return opened
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if _same(request.cookies.get(_cookie(request), ""), self.token) or _same(bearer, self.token):
            return None
        return PlainTextResponse("this page needs its token: open the link that the command printed", 401)


def new_token() -> str:
    return secrets.token_urlsafe(24)


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _cookie(request: Request) -> str:
    """Cookies do not know ports: pages of several ports have cookies of their own."""
    return f"stylegan_lightning_{request.url.port or 80}"


def _host(request: Request) -> str | None:
    """Without the port; None where it is no host name."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None


def _from_elsewhere(request: Request) -> bool:
    """Whether a script or form of another site sends it, by what browsers say of it."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("host")


def _opens_page(request: Request) -> bool:
    """A link on another site may lead here."""
    return request.method == "GET" and request.url.path == "/" and request.headers.get("sec-fetch-dest") == "document"
