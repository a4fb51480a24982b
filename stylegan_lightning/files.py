"""Files: whole or absent when written, bounded when read, under names that stay where they belong."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import secrets
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from stylegan_lightning.errors import UserError

PIECE = 1 << 16
LONGEST_NAME = 200
"""Bytes of UTF-8. File systems take 255; the rest is for an ending and a number."""
_UNSAFE = re.compile(r'[<>:"/\\|?*]')
_EDGES = re.compile(r"^[\s.]+|[\s.]+$")
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE)
_TURNS_TEXT = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place when all went well and is gone otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_cut(path.name, LONGEST_NAME)}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------- reading


def read_file(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises OSError where it cannot be read, ValueError where it is larger or is no file: a device or a pipe would be
    read for ever.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is not a regular file")
        if found.st_size > limit:
            raise ValueError(f"it has {_megabytes(found.st_size)}; at most {_megabytes(limit)} are read")
        return read_stream(file, limit)


def read_stream(file: IO[bytes], limit: int) -> bytes:
    """All of `file`, piece by piece: what an archive's member says of its size is not believed. Raises ValueError
    where more than `limit` bytes come."""
    pieces, size = [], 0
    while piece := file.read(PIECE):
        size += len(piece)
        if size > limit:
            raise ValueError(f"it has more than {_megabytes(limit)}, which is the most that is read")
        pieces.append(piece)
    return b"".join(pieces)


class BoundedReads(io.BufferedReader):
    """A file of which at most `limit` bytes are read at a time: an archive's directory is read in one piece, and takes
    ten times as much memory. Raises ValueError beyond."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(io.FileIO(path))
        self.limit = limit

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.limit:
            raise ValueError(f"its directory has {_megabytes(size)}; at most {_megabytes(self.limit)} are read")
        return super().read(size)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size:,} bytes"


def parse_json(text: str | bytes, where: object, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Raises UserError, which begins with `where`, for what is no JSON or is nested without end."""
    try:
        return json.loads(text, object_hook=object_hook)
    except RecursionError:
        raise UserError(f"{where} is nested too deeply to be read") from None
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from None


def is_number(value: object, finite: bool = True) -> bool:
    """Whether it is a number, of those that a float holds. JSON knows integers of any length, and NaN."""
    try:
        return type(value) in (int, float) and (math.isfinite(float(value)) or not finite)  # type: ignore[arg-type]
    except OverflowError:
        return False


def is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)


# --------------------------------------------------------------------------------------------------- names


def safe_name(text: str) -> str:
    """`text` as the name of one file or member of an archive, on every file system, and on a line of its own.

    Separators and signs that some system forbids, control characters, those that turn the direction of text and what
    is not UTF-8 become "_"; dots and spaces at both ends go; names that Windows keeps for devices get
    a "_" before them; at most `LONGEST_NAME` bytes. Never empty. A safe name stays as it is.
    """
    text = unicodedata.normalize("NFC", text)
    text = "".join("_" if _is_control(sign) else sign for sign in _UNSAFE.sub("_", text))
    text = _EDGES.sub("", text)
    if _RESERVED.match(text):
        text = f"_{text}"
    return _EDGES.sub("", _cut(text, LONGEST_NAME)) or "_"


def printable(text: str, keep: str = "") -> str:
    """On a line of its own, without signs that steer a terminal or turn the direction of text, but for those to
    `keep`."""
    return "".join(f"\\x{ord(sign):02x}" if _is_control(sign) and sign not in keep else sign for sign in text)


def distinct_names(texts: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Safe names of all texts, numbered where they would be one file, also where case does not count; none of them
    is in `taken`."""
    used, next_number, names = {name.casefold() for name in taken}, Counter[str](), []
    for text in texts:
        name = base = safe_name(text)
        while name.casefold() in used:
            next_number[base.casefold()] += 1
            name = f"{base}_{next_number[base.casefold()] + 1}"
        used.add(name.casefold())
        names.append(name)
    return names


def _is_control(sign: str) -> bool:
    return unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") or sign in _TURNS_TEXT


def _cut(text: str, limit: int) -> str:
    """The longest beginning of `text` that has at most `limit` bytes."""
    data = text.encode("utf-8", "surrogatepass")
    return text if len(data) <= limit else data[:limit].decode("utf-8", "ignore")
