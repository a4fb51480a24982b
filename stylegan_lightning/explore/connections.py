"""Connections that nobody uses are ended, so that whoever has the token finds room."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from stylegan_lightning.explore import limits


class Connection(H11Protocol):
    """Ends where the head of its first or next request does not arrive in `limits.HEAD_SECONDS`.

    Those that have not sent one yet have half of the room at most: of more, the oldest ends. What comes without the
    token is answered and ended (`access.Guard`), so that the other half is left to whoever has it.
    """

    _late: asyncio.TimerHandle | None = None
    since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since = self.loop.time()
        self._wait()
        silent = [c for c in self.connections if isinstance(c, Connection) and c.is_silent]
        if len(silent) > limits.CONNECTIONS // 2:
            min(silent, key=lambda c: c.since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_more()

    def on_response_complete(self) -> None:
        self._wait()  # before the next request of a pipeline begins
        super().on_response_complete()

    @property
    def is_silent(self) -> bool:
        return self.cycle is None and not self.transport.is_closing()

    def _wait(self) -> None:
        self._wait_no_more()
        self._late = self.loop.call_later(limits.HEAD_SECONDS, self.transport.abort)

    def _wait_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
