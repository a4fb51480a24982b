"""From the bytes of an image file to a finished uint8 array [C, R, R].

The order is fixed: decode, turn upright (EXIF), bring to 8 bits, composite transparency, crop, resize.
Bump DECODE_VERSION when any pixel changes, so that prepared caches are made again.
"""

from __future__ import annotations

import difflib
import io
import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypedDict

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from stylegan_lightning.data.base import ImageError
from stylegan_lightning.errors import UserError
from stylegan_lightning.files import printable

DECODE_VERSION = 1
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MOST_PIXELS = 178_956_970
"""Of one image, as its header states them: what Pillow refuses by itself, unless a program tells it otherwise."""
MOST_SCANS = 100
"""Of a JPEG, as of one inside a TIFF: each goes over all pixels again, and may have a few bytes only."""
_SCAN, _MARKER = b"\xff\xda", re.compile(rb"\xff([^\x00\xff])")
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
"""Markers that nothing belongs to."""
MOST_BYTES = 1 << 30
"""Of one image file, or of one member of an archive when it is unpacked."""
CROPS = ("center", "stretch", "pad")
FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
warnings.filterwarnings("ignore", module=r"PIL\.")  # for good: per call, threads would race
_ORIENTATION, _TILE = 0x0112, (0x0142, 0x0143)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(ImageError):
    """An ImageError that keeps the file name and the reason apart."""

    def __init__(self, file: str, reason: str) -> None:
        self.file, self.reason = printable(file), printable(reason)
        super().__init__(f"{self.file}: {self.reason}")

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[str, str]]:
        return UnreadableImage, (self.file, self.reason)


class TooLarge(ValueError):
    """More pixels or bytes than are decoded; the message tells how many."""


class ImageInfo(TypedDict):
    """What a file held before it was brought to size: (width, height) as displayed, and the stored mode."""

    size: tuple[int, int]
    mode: str


@dataclass(frozen=True)
class DecodeOptions:
    """Checked options; build with `decode_options`."""

    resolution: int
    channels: int = 3
    crop: str = "center"
    filter: str = "lanczos"
    background: tuple[int, int, int] = (255, 255, 255)

    def token(self) -> str:
        """Everything that decides a pixel, for a fingerprint."""
        return f"decode {DECODE_VERSION} {sorted(asdict(self).items())}"


def check_choice(option: str, value: object, valid: Sequence[str]) -> str:
    """`value` when it is one of `valid`, else a UserError that names the nearest one."""
    if isinstance(value, str) and value in valid:
        return value
    near = difflib.get_close_matches(str(value).lower(), valid, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{option} must be one of {', '.join(valid)}; got {value!r}.{hint}")


def parse_background(value: str | Sequence[int]) -> tuple[int, int, int]:
    """A colour given as '#rrggbb', as a name such as 'white', or as [r, g, b] in 0..255."""
    try:
        if isinstance(value, str):
            rgb: tuple[int, ...] = ImageColor.getrgb(value)
        else:
            rgb = tuple(int(v) for v in value if int(v) == v and 0 <= v <= 255)
            if len(rgb) != len(value):
                raise ValueError("not three whole numbers in 0..255")
        if len(rgb) != 3:
            raise ValueError("not three colour values")
    except (ValueError, TypeError) as err:
        raise UserError(f"background must be a colour such as '#ffffff' or [255, 255, 255]; got {value!r}.") from err
    return rgb[0], rgb[1], rgb[2]


def decode_options(
    resolution: int,
    channels: int = 3,
    crop: str = "center",
    filter: str = "lanczos",
    background: str | Sequence[int] = "#ffffff",
) -> DecodeOptions:
    """Checks every option before any work is done; raises UserError."""
    if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 1:
        raise UserError(f"resolution must be a whole number of pixels, at least 1; got {resolution!r}.")
    if isinstance(channels, bool) or channels not in (1, 3, 4):
        raise UserError(f"channels must be 1 (grey), 3 (colour) or 4 (colour and transparency); got {channels!r}.")
    crop, filter = check_choice("crop", crop, CROPS), check_choice("filter", filter, tuple(FILTERS))
    return DecodeOptions(resolution, channels, crop, filter, parse_background(background))


def decode(data: bytes, options: DecodeOptions, *, name: str) -> tuple[np.ndarray, ImageInfo]:
    """uint8 [C, R, R] and what the file held. Raises UnreadableImage, which names the file and the reason.

    Of a film, the first picture; it alone is decoded.
    """
    if not data:
        raise UnreadableImage(name, "the file is empty")
    try:
        with open_picture(data) as img:
            mode = img.mode
            img.load()
            upright = turn_upright(img)
            return finish(upright, options), {"size": upright.size, "mode": mode}
    except TooLarge as err:
        raise UnreadableImage(name, str(err)) from err
    except UnidentifiedImageError as err:
        raise UnreadableImage(name, "not an image in a known format, or its header is damaged") from err
    except MemoryError as err:
        raise UnreadableImage(name, "not enough memory to decode it") from err
    except Exception as err:  # a damaged file makes Pillow raise nearly any type
        raise UnreadableImage(name, f"{err} ({type(err).__name__})") from err


def open_picture(data: bytes, formats: Sequence[str] = FORMATS, most_pixels: int | None = None) -> Image.Image:
    """A picture of which nothing is decoded yet, and which has at most `most_pixels`, or MOST_PIXELS.

    It does not go through Image.open, whose limit is a global variable and which warns below it. Raises TooLarge,
    UnidentifiedImageError, and for damaged headers whatever Pillow raises.
    """
    if len(data) > MOST_BYTES:
        raise TooLarge(f"it has {len(data) / 1e6:,.0f} MB; the most is {MOST_BYTES / 1e6:,.0f} MB")
    if (scans := jpeg_scans(data)) > MOST_SCANS:
        raise TooLarge(f"it has {scans:,} scans; the most is {MOST_SCANS}")
    check_size(*webp_size(data), most_pixels)  # which Pillow before 13 makes room for as it opens the file
    for kind in formats:
        if kind not in Image.OPEN:
            Image.init()
        build, accepts = Image.OPEN[kind]
        if accepts is None or accepts(bytes(data[:16])) is True:
            try:
                img = build(io.BytesIO(data), "")
            except Image.DecompressionBombError as err:
                raise TooLarge(f"it says that it has more than {MOST_PIXELS / 1e6:,.0f} million pixels") from err
            except (SyntaxError, IndexError, TypeError, struct.error) as err:
                raise UnidentifiedImageError("its header is damaged") from err
            check_size(*img.size, most_pixels)
            tags = getattr(img, "tag_v2", {})  # of TIFF, whose tiles may be larger than the picture
            check_size(tags.get(_TILE[0], 0), tags.get(_TILE[1], 0), most_pixels, "tiles of ")
            return img
    raise UnidentifiedImageError("not an image in a known format")


def check_size(width: int, height: int, most: int | None = None, of: str = "") -> None:
    """Raises TooLarge for more than `most` pixels, or MOST_PIXELS."""
    most = MOST_PIXELS if most is None else most
    if width * height > most:
        raise TooLarge(f"it says that it has {of}{width:,} x {height:,} pixels; the most is {most / 1e6:,.0f} million")


def jpeg_scans(data: bytes) -> int:
    """Of a JPEG; 0 for what is none. Exact above MOST_SCANS: thumbnails, and a film that a phone has appended, are left
    out."""
    if bytes(data[:2]) != b"\xff\xd8":
        return 0
    data = bytes(data)
    if (most := data.count(_SCAN)) <= MOST_SCANS:
        return most
    scans, at = 0, 2
    while (found := _MARKER.search(data, at)) and (kind := found[1][0]) != 0xD9:
        at = found.end()
        if kind not in _ALONE:
            scans += kind == 0xDA
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return scans


def webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) that the header of a WebP file states; (0, 0) for what is none."""
    head = bytes(data[:30])
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return 0, 0
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def finish(img: Image.Image, options: DecodeOptions) -> np.ndarray:
    """A loaded, upright picture of any mode and size -> uint8 [C, R, R]."""
    img = to_colour(img)
    if options.channels == 4:
        img = img.convert("RGBA")
    else:
        if img.mode == "RGBA":
            img = composite(img, options.background)
        img = img.convert("L" if options.channels == 1 else "RGB")
    array = np.array(bring_to_size(img, options))
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if options.channels == 4:
        array = array * (array[3:] > 0)  # a colour that nobody sees must not be learnt
    return np.ascontiguousarray(array)


def turn_upright(img: Image.Image) -> Image.Image:
    """Applies the EXIF orientation."""
    try:
        orientation = img.getexif().get(_ORIENTATION)
    except Exception:  # a damaged EXIF block states no orientation, and the pixels are fine without it
        orientation = None
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return img if turn is None else img.transpose(turn)


def to_colour(img: Image.Image) -> Image.Image:
    """RGBA when the picture has transparency, else RGB; 16-bit and float values are scaled to 8 bits."""
    if img.mode in ("I", "F") or img.mode.startswith("I;16"):
        img = _to_eight_bit(img)
    if img.mode in ("La", "PA"):
        img = img.convert("LA" if img.mode == "La" else "RGBA")
    return img.convert("RGBA" if img.has_transparency_data else "RGB")


def _to_eight_bit(img: Image.Image) -> Image.Image:
    """0..65535 / 257, rounded; a float picture that stays within 0..1 is scaled by 255 instead."""
    values = np.asarray(img)
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 65535:  # also false for NaN
        raise ValueError(f"values from {low:g} to {high:g}: outside 0..65535, so their white is unknown")
    scale = 255.0 if img.mode == "F" and high <= 1 else 1 / 257
    grey = Image.fromarray(np.floor(values * np.float64(scale) + 0.5).astype(np.uint8))
    clear = img.info.get("transparency")
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def composite(img: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """RGBA -> RGB over a colour: (c * a + background * (255 - a)) / 255, rounded."""
    canvas = Image.new("RGB", img.size, background)
    canvas.paste(img.convert("RGB"), mask=img.getchannel("A"))
    return canvas


def bring_to_size(img: Image.Image, options: DecodeOptions) -> Image.Image:
    """L, RGB or RGBA of any size -> the same mode at R x R. Pillow resizes RGBA premultiplied."""
    size, (w, h) = options.resolution, img.size
    resample = FILTERS[options.filter]
    if options.crop == "pad":
        scale = size / max(w, h)
        inner = (max(1, round(w * scale)), max(1, round(h * scale)))
        canvas = Image.new(img.mode, (size, size), _padding(img.mode, options.background))
        canvas.paste(img.resize(inner, resample), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return canvas
    if options.crop == "center" and w != h:
        side = min(w, h)
        left, top = (w - side) // 2, (h - side) // 2
        img = img.crop((left, top, left + side, top + side))
    return img.resize((size, size), resample)


def _padding(mode: str, background: tuple[int, int, int]) -> int | tuple[int, ...]:
    if mode == "RGBA":
        return (0, 0, 0, 0)
    if mode == "L":
        return int(Image.new("RGB", (1, 1), background).convert("L").tobytes()[0])
    return background
