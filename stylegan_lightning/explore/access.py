"""Who may use the page: whoever has the token; and no other site's scripts."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stylegan_lightning.errors import UserError

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
ENDS = {"Connection": "close"}
"""Nothing more is read of whoever may not use the page."""
WEEK = 7 * 24 * 3600
LEAST = 8
WRONG = "this page needs its token: open the link that the command printed"


def new_token() -> str:
    return secrets.token_urlsafe(24)


def check_token(token: str) -> str:
    """`token`. Raises UserError for one that is short, or that would have to be written otherwise in a link."""
    if not re.fullmatch(rf"[A-Za-z0-9_.~-]{{{LEAST},}}", token):
        raise UserError(f"--token must have at least {LEAST} characters, which are letters, digits or one of _ . ~ -")
    return token


@dataclass(frozen=True)
class Guard:
    """The token must be in the link (which puts it into a cookie), in the cookie or in `Authorization: Bearer`.

    Also where only this machine reaches the page: other users of the machine do as well. Host names are not looked at:
    a foreign one that is made to point here gets no cookie of this page from the browser, thus nothing.
    """

    token: str = field(repr=False)

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
            return JSONResponse({"error": "other sites may not use this page"}, 403, ENDS)
        given = parse_qs(request.scope["query_string"].decode("latin-1")).get("token")
        if given is not None and request.scope["path"] == "/":
            return self._open(request) if self._is_right(given[0]) else PlainTextResponse(WRONG, 401, ENDS)
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_right(request.cookies.get(_cookie(request), "")) or self._is_right(bearer):
            return None
        return PlainTextResponse(WRONG, 401, ENDS)

    def _open(self, request: Request) -> Response:
        """The page without the token in its address. Strict cookies would not go with links from other pages."""
        opened = RedirectResponse("/", 303)
        opened.set_cookie(_cookie(request), self.token, max_age=WEEK, httponly=True, samesite="lax")
        return opened

    def _is_right(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


def _cookie(request: Request) -> str:
    """Cookies do not know ports: pages of several ports have cookies of their own."""
    port = re.search(r":([0-9]{1,5})$", request.headers.get("host", ""))
    return f"stylegan_lightning_{port[1] if port else 80}"


def _from_elsewhere(request: Request) -> bool:
    """Whether a script or form of another site sends it, by what browsers say of it."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("host")


def _opens_page(request: Request) -> bool:
    """A link on another site may lead here."""
    opens = request.method == "GET" and request.scope["path"] == "/"
    return opens and request.headers.get("sec-fetch-dest") == "document"
