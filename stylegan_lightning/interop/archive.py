"""Archives that `torch.save` writes, read without PyTorch's own reader.

`torch.load(weights_only=True)` runs no code, but files of a kilobyte make it take gigabytes, hang or crash (a
`bytearray` of any size, compressed parts, keys that take for ever to hash), and its reader of zip files sees another
archive than Python's where somebody wants it to. What is read here is what a checkpoint consists of: tables, lists,
numbers, texts and tensors, which stay in the file until they are needed.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from stylegan_lightning.files import BoundedReads

MOST_DIRECTORY = MOST_PICKLE = 1 << 23
"""Bytes of the archive's list of members, and of what describes the tensors: a checkpoint has some 100,000."""
STORAGES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_TABLE, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_KINDS = {f"torch {name}Storage": dtype for name, dtype in STORAGES.items()}
_ITSELF = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """Of something that a pickle would import; only those of this file mean anything."""

    text: str


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str
    numel: int


def read_archive(path: Path) -> Any:
    """The content of an archive; tensors are mapped from the file, copied when written to.

    Raises ValueError and others, with a reason, for anything that `torch.save` does not write of plain tables of
    tensors, and where tensors would be larger than the file.
    """
    with BoundedReads(path, MOST_DIRECTORY) as file, zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        (pickled,) = [name for name in members if name.endswith("/data.pkl")] or [""]
        if not pickled:
            raise ValueError("it is an archive without data.pkl, which torch.save writes")
        top = pickled.removesuffix("data.pkl")
        if _stored(archive, members.get(f"{top}byteorder"), 16) not in (None, b"little"):
            raise ValueError("its numbers are of another byte order")
        content = _stored(archive, members[pickled], MOST_PICKLE)
        assert content is not None
        tensors = _Tensors(path, archive, members, f"{top}data/")
        return _unpickled(content, tensors.tensor)


def _stored(archive: zipfile.ZipFile, member: zipfile.ZipInfo | None, most: int) -> bytes | None:
    """Of a member that is not compressed; None for None."""
    if member is None:
        return None
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise ValueError(f"{member.filename} is compressed, which torch.save never does")
    if member.file_size > most:
        raise ValueError(f"{member.filename} has {member.file_size:,} bytes; at most {most:,} are read")
    return archive.read(member)


class _Tensors:
    """Those of an archive."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], folder: str) -> None:
        self.archive, self.members, self.folder = archive, members, folder
        self.size = path.stat().st_size
        self.file = torch.UntypedStorage.from_file(str(path), False, self.size)
        self.places: dict[str, tuple[int, int]] = {}
        self.claimed = 0

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        """Of at most as many numbers as its storage has; all together of at most twice the file."""
        if not isinstance(storage, _Storage) or not _whole(offset, *size, *stride) or len(size) != len(stride):
            raise ValueError("it describes a tensor by something else than numbers")
        numel, last = math.prod(size), offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        self.claimed += numel * storage.dtype.itemsize
        if numel > storage.numel or (numel and last >= storage.numel) or self.claimed > 2 * self.size:
            raise ValueError("its tensors claim more than it holds")
        start, length = self._place(storage.key)
        if storage.numel * storage.dtype.itemsize > length:
            raise ValueError(f"its tensor {storage.key} is cut off")
        own = self.file[start : start + length]
        return torch.empty(0, dtype=storage.dtype).set_(own, offset, tuple(size), tuple(stride))  # type: ignore[arg-type]

    def _place(self, key: str) -> tuple[int, int]:
        """(first byte, bytes) of a member in the file."""
        if key not in self.places:
            member = self.members.get(f"{self.folder}{key}")
            if member is None or member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its tensor {key[:20]} is missing or compressed")
            with self.archive.open(member):  # checks that the two headers name the same
                pass
            file = self.archive.fp
            assert file is not None
            file.seek(member.header_offset + 26)
            start = member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            if start + member.file_size > self.size:
                raise ValueError(f"its tensor {key} is cut off")
            self.places[key] = start, member.file_size
        return self.places[key]


def _whole(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 2**48 for value in values)


def _unpickled(data: bytes, tensor: Callable[..., Tensor]) -> Any:
    """What the operations leave behind: those alone that `torch.save` needs for plain data and tensors."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def after_mark() -> list[Any]:
        place = next(i for i in reversed(range(len(stack))) if stack[i] is _MARK)
        values = stack[place + 1 :]
        del stack[place:]
        return values

    for operation, given, _ in pickletools.genops(data):
        name, argument = operation.name, cast(Any, given)
        if name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in _ITSELF:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[5:] or 0)
            values = [stack.pop() for _ in range(count)][::-1] if count else after_mark()
            stack.append(tuple(values))
        elif name in ("APPEND", "APPENDS"):
            values = [stack.pop()] if name == "APPEND" else after_mark()
            _of(list, stack[-1]).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else after_mark()
            _set(_of(dict, stack[-1]), values)
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_made(stack.pop(), arguments, tensor))
        elif name == "BUILD":  # attributes of a table, which nobody needs
            stack.pop()
            _of(dict, stack[-1])
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"it has the operation {name}, which torch.save does not need")
    (content,) = stack
    return content


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"it fills a {type(value).__name__} as if it were a {kind.__name__}")
    return value


def _set(table: dict[Any, Any], values: list[Any]) -> None:
    keys = values[::2]
    if len(values) % 2 or not all(type(key) in (str, int) for key in keys):
        raise ValueError("its tables have keys that are neither texts nor whole numbers")
    table.update(zip(keys, values[1::2], strict=True))


def _made(what: Any, arguments: Any, tensor: Callable[..., Tensor]) -> Any:
    if isinstance(what, _Name) and what.text == _TABLE and arguments == ():
        return {}
    if isinstance(what, _Name) and what.text == _TENSOR and isinstance(arguments, tuple) and len(arguments) >= 4:
        return tensor(*arguments)
    name = what.text if isinstance(what, _Name) else type(what).__name__
    raise ValueError(f"it would make {name[:200].replace(' ', '.')}, which no checkpoint needs")


def _storage(described: Any) -> _Storage:
    """("storage", kind, key, device, numel)"""
    if isinstance(described, tuple) and len(described) == 5 and described[0] == "storage":
        _, kind, key, _, numel = described
        dtype = _KINDS.get(kind.text) if isinstance(kind, _Name) else None
        if dtype is not None and isinstance(key, str) and re.fullmatch("[0-9]{1,9}", key) and _whole(numel):
            return _Storage(dtype, key, numel)
    raise ValueError("it refers to something that is no storage of numbers")
