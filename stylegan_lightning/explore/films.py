"""Films, made one at a time, frame by frame, until they are done or nobody waits for them."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stylegan_lightning.errors import UserError
from stylegan_lightning.explore import limits
from stylegan_lightning.explore.limits import Refused
from stylegan_lightning.explore.state import Picture
from stylegan_lightning.latent.animation import check_animation, write_animation

FPS = (1.0, 60.0)
HELD = {"webp": 4, "gif": 1}
"""Bytes that the encoder holds for each pixel of all frames (measured); of mp4 some tens of frames, however many."""
Draw = Callable[[Picture], Coroutine[Any, Any, np.ndarray]]
"""uint8 [H, W, C]. Raises HasGone where nobody waits any more."""


def kinds_of_films() -> list[str]:
    try:
        check_animation(Path("x.mp4"))
    except UserError:
        return ["webp", "gif"]
    return ["mp4", "webp", "gif"]


def check_frames(count: int, kind: str, size: int) -> None:
    """Raises UserError for more frames, of `size` pixels across, than fit."""
    each = HELD.get(kind, 0) * size * size
    if each * count > limits.FILM_BYTES:
        lighter = [k for k in kinds_of_films() if HELD.get(k, 0) < HELD[kind]]
        most, instead = limits.FILM_BYTES // each, f" or choose {' or '.join(lighter)}" if lighter else ""
        raise UserError(
            f"{count} frames of {size} pixels are too many for a {kind} film, which has at most {most}: "
            f"make it shorter{instead}"
        )


def way(a: Picture, frames: int) -> list[Picture]:
    """From A to B; without B, from A without directions to A with them. Raises UserError where nothing would move."""
    if a.b is None and not a.moves:
        raise UserError("a film needs a second picture, or a direction to move along")
    shares = [i / (frames - 1) for i in range(frames)]
    if a.b is not None:
        return [replace(a, mix=(t,)) for t in shares]
    return [replace(a, moves=tuple((name, t * strength) for name, strength in a.moves)) for t in shares]


@dataclass
class Film:
    pictures: Sequence[Picture]
    fps: float
    kind: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    done: int = 0
    """Frames that are drawn."""
    stopped: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises Refused where it was stopped."""
        if self.stopped.is_set():
            raise Refused("the film was cancelled", 409)


class Films:
    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._now: Film | None = None

    def ask(self, id: str) -> Film | None:
        """The film that is being made, if it is this one."""
        return self._now if self._now is not None and self._now.id == id else None

    async def make(self, film: Film, draw: Draw) -> bytes:
        """The file. Raises Refused where another film is being made, and for one that was stopped."""
        try:
            async with asyncio.timeout(limits.FILM_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise Refused("a film is being made already: try again when it is done", 429) from None
        self._now, loop = film, asyncio.get_running_loop()
        work = asyncio.ensure_future(asyncio.to_thread(_write, film, draw, loop))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:  # the server ends: the thread does so before its next frame
            film.stopped.set()
            await asyncio.wait([work])
            work.exception()  # which is told to nobody any more
            raise
        finally:
            self._now = None
            self._turn.release()

    def close(self) -> None:
        if self._now is not None:
            self._now.stopped.set()


def _write(film: Film, draw: Draw, loop: asyncio.AbstractEventLoop) -> bytes:
    """For another thread than that of the loop, in which frames are drawn."""

    def frames() -> Iterator[np.ndarray]:
        for picture in film.pictures:
            film.check()
            yield asyncio.run_coroutine_threadsafe(draw(picture), loop).result()
            film.done += 1

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"film.{film.kind}"
        write_animation(path, frames(), film.fps)
        film.check()
        return path.read_bytes()
