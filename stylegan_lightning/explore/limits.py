"""How much of a machine the page may take, what is said beyond it, and a memory that keeps to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from stylegan_lightning.errors import UserError

MB = 1_000_000
UPLOAD_BYTES = 20 * MB
UPLOADS_BYTES = 80 * MB
"""Of all that is on its way, or waits to be decoded."""
UPLOAD_SECONDS = 120.0
MEGAPIXELS = 50
MOST_CODES = 64
"""In an uploaded file."""
PICTURES_BYTES = 256 * MB
"""Of PNG, drawn before."""
CODES_BYTES = 64 * MB
"""Of kept codes in memory."""
STORE_BYTES = 1000 * MB
"""Of kept codes on the disk."""
JOBS_BYTES = 64 * MB
"""Of projections that have ended: pictures that were sent, and found."""
MOST_JOBS = 100
JOBS_WAITING = 8
DRAWINGS_WAITING = 64
FILM_FRAMES = (2, 240)
FILM_BYTES = 512 * MB
"""Of the frames that an encoder holds until the film ends."""
FILM_SECONDS = 2.0
"""How long a film waits for the one before it, whose browser may be gone."""
CONNECTIONS = 256
HEAD_SECONDS = 10.0
"""From the beginning of a connection, or the end of an answer, until the next request's head has arrived."""
HEADER_BYTES = 64 * 1024
"""Of the link and all headers of a request."""
ENTRY_BYTES = 500
"""What Python needs for an entry besides its value."""

K = TypeVar("K")
V = TypeVar("V")


class Refused(UserError):
    """With the HTTP status that says the same."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class HasGone(Exception):
    """The browser does not wait for the answer any more."""


class Weighed(Generic[K, V]):
    """Values of at most `limit` bytes together, and at most `most` of them; those used longest ago are forgotten.

    `weigh` says how many bytes a value has; a value that grows is weighed again by another `put`. One that is `held`
    is counted and not forgotten. Used by several threads.
    """

    def __init__(
        self,
        limit: int,
        weigh: Callable[[V], int],
        *,
        most: int | None = None,
        held: Callable[[V], bool] = lambda value: False,
    ) -> None:
        self.limit, self.most, self._weigh, self._held = limit, most, weigh, held
        self._lock, self._values = threading.RLock(), OrderedDict[K, tuple[V, int]]()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def values(self) -> list[V]:
        with self._lock:
            return [value for value, _ in self._values.values()]

    def get(self, key: K) -> V | None:
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: K, value: V) -> None:
        """A value that is heavier than all may be together is not kept, and the others are."""
        with self._lock:
            weight = self._weigh(value) + ENTRY_BYTES
            self._forget(key)
            if weight > self.limit and not self._held(value):
                return
            self._values[key] = value, weight
            self.bytes += weight
            while self._full() and (old := self._oldest(key)) is not None:
                self._forget(old)

    def _full(self) -> bool:
        return self.bytes > self.limit or (self.most is not None and len(self) > self.most)

    def _oldest(self, but: K) -> K | None:
        return next((k for k, (v, _) in self._values.items() if k != but and not self._held(v)), None)

    def _forget(self, key: K) -> None:
        _, weight = self._values.pop(key, (None, 0))
        self.bytes -= weight
