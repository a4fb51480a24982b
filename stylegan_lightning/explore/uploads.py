"""What a browser sends: read up to a limit, decoded safely, refused in plain words."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import UnidentifiedImageError
from starlette.requests import ClientDisconnect, Request

from stylegan_lightning.data.decode import TooLarge, UnreadableImage, decode, decode_options, open_picture
from stylegan_lightning.errors import UserError
from stylegan_lightning.explore import limits
from stylegan_lightning.explore.limits import MB, MEGAPIXELS, Refused
from stylegan_lightning.latent.codes import EXTENSION, Codes, check_fits
from stylegan_lightning.networks import Generator

DRAINED = 4
"""So many times the limit is read and thrown away, so that a browser that is still sending gets to see the answer."""
KINDS = "give a png, jpg, webp, bmp, gif or tiff picture"
T = TypeVar("T")


class Uploads:
    """Bodies of all requests: read together up to a number of bytes, decoded one at a time."""

    def __init__(self) -> None:
        self.bytes = 0
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Counts what arrives, whatever the header promises, for as long as it is open. Raises Refused over limits."""
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(limits.UPLOAD_SECONDS):
                    await self._read(request, body)
            except TimeoutError:
                raise Refused(f"the file took longer than {limits.UPLOAD_SECONDS:g} s to arrive", 408) from None
            except ClientDisconnect:
                raise Refused("the file did not arrive in full", 400) from None
            yield bytes(body)
        finally:
            self.bytes -= len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        most, size, refused = limits.UPLOAD_BYTES, 0, None
        async for part in request.stream():
            size += len(part)
            if size > most:
                refused = Refused(f"the file is larger than {most / MB:g} MB, which is the most this page takes", 413)
            elif refused is None and self.bytes + len(part) > limits.UPLOADS_BYTES:
                refused = Refused("too many files are being sent at once: try again in a moment", 503)
            if refused is None:
                body += part
                self.bytes += len(part)
            elif body:
                self.bytes -= len(body)
                body.clear()
            if size > DRAINED * most:
                break
        if refused is not None:
            raise refused

    async def decode(self, work: Callable[[], T]) -> T:
        """In a thread, one at a time: a picture of 50 megapixels takes hundreds of megabytes."""
        async with self._turn:
            return await in_daemon(work)


async def in_daemon(work: Callable[[], T]) -> T:
    """In a thread that ends with the process: asyncio.to_thread's is waited for, and a decoder does not stop."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as found:
            error = found
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="decoding", daemon=True).start()
    return await done


def picture_of(data: bytes, resolution: int, channels: int, megapixels: float = MEGAPIXELS) -> np.ndarray:
    """uint8 [C, R, R]: the middle square, as training data are cut. Raises Refused for all that is no picture."""
    if not data:
        raise Refused("the file is empty", 400)
    try:
        with open_picture(data, most_pixels=int(megapixels * 1e6)) as image:
            image.verify()  # checksums, which decoding leaves out
        return decode(data, decode_options(resolution, channels, "center"), name="the file")[0].copy()
    except Refused:
        raise
    except TooLarge as error:
        raise Refused(f"the picture is too large: {error}", 413) from None
    except UnidentifiedImageError:
        raise Refused(f"this is not a picture in a known format, or its beginning is damaged; {KINDS}", 415) from None
    except UnreadableImage as error:
        raise Refused(f"the picture is damaged: {error.reason}", 422) from None
    except Exception as error:  # damaged headers make Pillow raise nearly any type
        raise Refused(f"the picture is damaged: {error}", 422) from None


def codes_in(G: Generator, data: bytes) -> Codes:
    """Codes for G of the bytes of a file. Raises Refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{EXTENSION}"
        path.write_bytes(data)
        try:
            codes = check_fits(G, Codes.load(path), path)
        except UserError as error:
            raise Refused(str(error).replace(str(path), "the file"), 422) from None
    if len(codes) > limits.MOST_CODES:
        raise Refused(f"the file must hold 1 to {limits.MOST_CODES} codes; it holds {len(codes)}", 413)
    return codes
