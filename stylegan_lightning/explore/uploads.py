"""What a browser sends: read up to a limit, decoded safely, refused in plain words."""

from __future__ import annotations

import asyncio
import io
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.requests import ClientDisconnect, Request

from stylegan_lightning.data.decode import FORMATS, UnreadableImage, decode, decode_options
from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.codes import EXTENSION, Codes

MEGABYTES = 20
MEGAPIXELS = 50
SECONDS = 120
DRAINED = 4
"""So many times the limit is read and thrown away, so that a browser that is still sending gets to see the answer."""
KINDS = "give a png, jpg, webp, bmp, gif or tiff picture"


class UploadError(UserError):
    """With the HTTP status that says the same."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


async def read_body(request: Request, limit: int) -> bytes:
    """Counts what arrives, whatever the header promises. Raises UploadError over `limit` bytes and after SECONDS."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= limit:
                    parts.append(part)
                elif size > DRAINED * limit:
                    break
    except TimeoutError:
        raise UploadError(f"the file took longer than {SECONDS} s to arrive", 408) from None
    except ClientDisconnect:
        raise UploadError("the file did not arrive in full", 400) from None
    if size > limit:
        raise UploadError(f"the file is larger than {limit / 1e6:g} MB, which is the most this page takes", 413)
    return b"".join(parts)


def picture_of(data: bytes, resolution: int, channels: int, megapixels: float = MEGAPIXELS) -> np.ndarray:
    """uint8 [C, R, R]: the middle square, as training data are cut. Raises UploadError for all that is no picture."""
    if not data:
        raise UploadError("the file is empty", 400)
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = image.size
            if width * height > megapixels * 1e6:
                raise UploadError(
                    f"the picture says that it has {width} x {height} pixels; the most is {megapixels:g} million", 413
                )
            image.verify()  # checksums, which decoding leaves out
        return decode(data, decode_options(resolution, channels, "center"), name="the file")[0]
    except UploadError:
        raise
    except Image.UnidentifiedImageError:
        raise UploadError(
            f"this is not a picture in a known format, or its beginning is damaged; {KINDS}", 415
        ) from None
    except Image.DecompressionBombError:
        raise UploadError(f"the picture is too large; the most is {megapixels:g} million pixels", 413) from None
    except UnreadableImage as error:
        raise UploadError(f"the picture is damaged: {error.reason}", 422) from None
    except Exception as error:  # damaged headers make Pillow raise nearly any type
        raise UploadError(f"the picture is damaged: {error}", 422) from None


def codes_in(data: bytes) -> Codes:
    """Codes of the bytes of a file. Raises UserError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{EXTENSION}"
        path.write_bytes(data)
        try:
            codes = Codes.load(path)
        except UserError as error:
            raise UploadError(str(error).replace(str(path), "the file"), 422) from None
    if codes.ws.ndim != 3 or not codes.ws.is_floating_point() or not bool(codes.ws.isfinite().all()):
        raise UploadError("the file does not hold latent codes: its styles must be finite numbers", 422)
    return Codes(codes.ws.float(), codes.names, {name: maps.float() for name, maps in codes.noise.items()})
