"""Where image files lie: a folder tree or a zip file, each read up to a limit whatever it says of itself."""

from __future__ import annotations

import bz2
import copy
import hashlib
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Protocol

from stylegan_lightning.data.decode import EXTENSIONS, MOST_BYTES
from stylegan_lightning.errors import UserError
from stylegan_lightning.files import PIECE, BoundedReads, read_file, read_stream

LABEL_FILE = "dataset.json"
MOST_DIRECTORY = 1 << 28
"""Bytes of an archive's list of members: about three million of them, and 2.5 GB of memory."""
MOST_LABELS = 1 << 28
"""Bytes of the label file: about eight million images; up to 6 GB of memory."""
MOST_AGAIN = 1_000_000
"""Files and folders that links may name once more, in folders which have been listed already."""
LZMA_MEMORY = 1 << 28
_SUPPORTED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED, _HAS_END_MARK, _UNIX = 0x1, 0x2, 3


class OutsideLinks(UserError):
    """Links lead out of a folder. `what` is the message without what to do, which depends on who reads the folder."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}. Set data.follow_links=true to read what they lead to, or put the files there.")
        self.what = what

    def __reduce__(self) -> tuple[type[OutsideLinks], tuple[str]]:
        return OutsideLinks, (self.what,)


class Files(Protocol):
    def names(self) -> list[str]: ...
    def read(self, name: str, limit: int = MOST_BYTES) -> bytes:
        """Raises OSError, ValueError with a reason, and what damaged archives make their libraries raise."""
        ...

    def tokens(self, names: Sequence[str]) -> Iterable[str]:
        """For each file, a text that changes when its content does."""
        ...


def open_files(path: Path, follow_links: bool = False) -> Files:
    """Raises UserError for what is neither a folder nor a zip file."""
    if path.is_dir():
        return Folder(path, follow_links)
    if not path.exists():
        raise UserError(f"There is no folder or zip file at {path}. Give `path` a folder of images or a zip.")
    try:
        if not path.is_file():
            raise ValueError("it is a device or a pipe")
        files = Zip(path)
        files.names()
    except Exception as err:  # damaged archives make zipfile raise many types
        reason = str(err) or type(err).__name__
        raise UserError(
            f"{path} is neither a folder nor a readable zip file ({reason}). Give `path` a folder or a zip."
        ) from err
    return files


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


# ------------------------------------------------------------------------------------------------- folders


class Folder:
    def __init__(self, root: Path, follow_links: bool = False) -> None:
        self.root, self.follow_links = root, follow_links

    def names(self) -> list[str]:
        """Links are followed as far as they stay inside, but no folder is entered from inside itself.

        Raises OutsideLinks, and UserError for a folder that cannot be listed.
        """
        inside, found, outside, seen, again = os.path.realpath(self.root), list[str](), list[str](), set[str](), 0
        pending: list[tuple[str, frozenset[str]]] = [("", frozenset())]
        while pending:
            prefix, above = pending.pop()
            real = os.path.realpath(self.root / prefix)
            if real in above:
                continue
            entries = self._entries(prefix)
            again += len(entries) + 1 if real in seen else 0
            seen.add(real)
            if again > MOST_AGAIN:
                raise UserError(f"Links in {self.root} lead to the same folders again and again, e.g. {prefix}.")
            for entry in entries:
                name, folder = prefix + entry.name, _is_folder(entry)
                wanted = folder or name.lower().endswith(EXTENSIONS) or name == LABEL_FILE
                if wanted and not self.follow_links and entry.is_symlink() and _leaves(entry.path, inside):
                    outside.append(name)
                elif folder:
                    pending.append((f"{name}/", above | {real}))
                else:
                    found.append(name)
        if outside:
            first = min(outside)
            count = "a link that leads" if len(outside) == 1 else f"{len(outside)} links that lead"
            leads = os.path.realpath(self.root / first)
            raise OutsideLinks(f"{self.root} holds {count} out of it: {first} -> {leads}")
        return sorted(found)

    def _entries(self, prefix: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / prefix) as entries:
                return [e for e in entries if not _hidden(e.name)]
        except OSError as error:
            raise UserError(f"The folder {self.root / prefix} cannot be listed: {error.strerror}.") from error

    def read(self, name: str, limit: int = MOST_BYTES) -> bytes:
        return read_file(self.root / name, limit)

    def tokens(self, names: Sequence[str]) -> Iterable[str]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing and reading free the GIL
            yield from pool.map(self._token, names)

    def _token(self, name: str) -> str:
        try:
            found = os.stat(self.root / name)
            if stat.S_ISREG(found.st_mode) and found.st_size <= MOST_BYTES:
                with open(self.root / name, "rb") as file:
                    return hashlib.file_digest(file, "blake2b").hexdigest()
        except OSError:
            pass
        return "unreadable"  # `read` names it and gives the reason


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that lead in a circle
        return False


def _leaves(path: str, inside: str) -> bool:
    """A link to nothing leads nowhere; reading it says so."""
    return os.path.exists(path) and os.path.commonpath([os.path.realpath(path), inside]) != inside


# ------------------------------------------------------------------------------------------------ archives


class Zip:
    """Reads one zip file from any thread and any process: each process opens it for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None}

    def _zip(self) -> zipfile.ZipFile:
        opened = self._opened
        if opened is None or opened[0] != os.getpid():  # a forked child must not share the file position
            file = BoundedReads(self.path, MOST_DIRECTORY)
            opened = self._opened = (os.getpid(), zipfile.ZipFile(file))
        return opened[1]

    def names(self) -> list[str]:
        members = (m for m in self._zip().infolist() if not m.is_dir())
        return sorted({m.filename for m in members if not any(_hidden(p) for p in m.filename.split("/"))})

    def read(self, name: str, limit: int = MOST_BYTES) -> bytes:
        member = self._zip().getinfo(name)
        _check_member(member)
        if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with self._zip().open(member) as file:
                return read_stream(file, limit)
        packed = copy.copy(member)  # as if it were stored: what is read of it are the packed bytes
        packed.compress_type, packed.file_size = zipfile.ZIP_STORED, member.compress_size
        del packed.CRC
        with self._zip().open(packed) as file:
            return read_stream(_Unpacked(file, member), limit)  # type: ignore[arg-type]

    def tokens(self, names: Sequence[str]) -> Iterable[str]:
        members = map(self._zip().getinfo, names)
        return (f"{m.file_size} {m.CRC:08x}" for m in members)


def _check_member(member: zipfile.ZipInfo) -> None:
    """Raises ValueError for a member that is not read."""
    kind = stat.S_IFMT(member.external_attr >> 16) if member.create_system == _UNIX else 0
    if kind == stat.S_IFLNK:
        raise ValueError("it is a link inside the archive; pack the file that it leads to")
    if kind not in (0, stat.S_IFREG):
        raise ValueError("it is not a regular file")
    if member.flag_bits & _ENCRYPTED:
        raise ValueError("it is encrypted; pack it without a password")
    if member.compress_type not in _SUPPORTED:
        raise ValueError(f"it is packed by method {member.compress_type}, which is not supported; pack it with deflate")
    if member.file_size > MOST_BYTES:
        raise ValueError(f"it has {member.file_size / 1e6:,.0f} MB unpacked; the most is {MOST_BYTES / 1e6:,.0f} MB")


class _Unpacked:
    """A member packed by bzip2 or lzma, in pieces of stated size: zipfile unpacks all that the bytes at hand hold."""

    def __init__(self, packed: IO[bytes], member: zipfile.ZipInfo) -> None:
        self.packed, self.member, self.size, self.crc = packed, member, 0, 0
        bzip2 = member.compress_type == zipfile.ZIP_BZIP2
        self.unpacker = bz2.BZ2Decompressor() if bzip2 else lzma.LZMADecompressor(lzma.FORMAT_ALONE, LZMA_MEMORY)
        self.waiting = b"" if bzip2 else self._lzma_header()

    def _lzma_header(self) -> bytes:
        """That of an .lzma file, made from the member's: its properties and its size, unless an end is marked."""
        head = self.packed.read(9)
        if head[2:4] != b"\x05\0":
            raise ValueError("its lzma header is damaged")
        size = -1 if self.member.flag_bits & _HAS_END_MARK else self.member.file_size
        return head[4:] + size.to_bytes(8, "little", signed=True)

    def read(self, size: int) -> bytes:
        while not self.unpacker.eof:
            if self.unpacker.needs_input:
                self.waiting = self.waiting or self.packed.read(PIECE)
                if not self.waiting:
                    raise ValueError("it ends too early")
            piece = self.unpacker.decompress(self.waiting, size)
            self.waiting = b""
            self.size, self.crc = self.size + len(piece), zlib.crc32(piece, self.crc)
            if self.size > self.member.file_size:
                raise ValueError("it is larger than the archive says")
            if piece:
                return piece
        if (self.size, self.crc) != (self.member.file_size, self.member.CRC):
            raise ValueError("its size or its checksum (CRC-32) is not what the archive says")
        return b""
