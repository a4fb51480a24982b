"""Codes that were found or brought in, kept in a folder under an id made of their content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.explore import limits
from stylegan_lightning.explore.limits import Weighed
from stylegan_lightning.latent.codes import EXTENSION, Codes, check_fits
from stylegan_lightning.networks import Generator

ID_LENGTH = 16
_OWN_FOLDER = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")
_OWN_FILE = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}{re.escape(EXTENSION)}")


def model_hash(G: nn.Module) -> str:
    """16 hex digits of the weights, and of how far a growing network has grown."""
    digest = hashlib.sha256()
    for name, value in sorted(G.state_dict().items()):
        digest.update(name.encode())
        array = value.detach().cpu().contiguous().flatten().numpy() if hasattr(value, "detach") else None
        digest.update(repr(value).encode() if array is None else array.tobytes())
    return digest.hexdigest()[:ID_LENGTH]


class Store:
    """One code in each file; those used longest ago are removed beyond `limits.STORE_BYTES`. Used by several threads,
    and the folder by several processes.

    `shared`: folders beside this one, of other models, count as well.
    """

    def __init__(self, folder: Path, G: Generator, shared: bool = False) -> None:
        """Raises UserError where the folder cannot be made."""
        self.folder, self.G, self.shared = folder, G, shared
        self._lock, self._used, self._written = threading.Lock(), set[Path](), 0
        self._recent = Weighed[str, Codes](limits.CODES_BYTES, _weight)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {folder}: {error.strerror}; choose another with --store") from None
        self.prune()

    def put(self, code: Codes) -> str:
        """The id of one code; the same code has the same id. Raises UserError where it cannot be written."""
        assert len(code) == 1
        own = {name: maps.detach().cpu().float().clone() for name, maps in code.noise.items()}  # not a view of more
        code = Codes(code.ws.detach().cpu().float().clone(), code.names, own)
        digest = hashlib.sha256()
        for name, tensor in sorted({"": code.ws, **code.noise}.items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        key = digest.hexdigest()[:ID_LENGTH]
        try:
            code.save(self._path(key))
        except OSError as error:
            raise UserError(f"cannot keep the code in {self.folder}: {error.strerror}") from None
        self._recent.put(key, code)
        self._count(self._path(key))
        return key

    def get(self, key: str) -> Codes:
        """Raises UserError for one that is not there or is damaged."""
        path, code = self._path(key), self._recent.get(key)
        if code is None:
            if not path.is_file():
                raise UserError(
                    f"there is no code {key}: it was found by another model, by an earlier state of this one, or too "
                    "long ago"
                )
            code = check_fits(self.G, Codes.load(path), path)
            self._recent.put(key, code)
        with self._lock:
            self._used.add(path)
        with contextlib.suppress(OSError):
            os.utime(path)
        return code

    def prune(self) -> None:
        """Removes files until they fit, those of this session last."""
        files = sorted(self._files())
        total = sum(size for *_, size, _ in files)
        for _, _, size, path in files:
            if total <= limits.STORE_BYTES:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            with self._lock:
                self._used.discard(path)
            total -= size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{EXTENSION}"

    def _count(self, path: Path) -> None:
        """Looks through the folder after every hundredth of what it may hold."""
        try:
            size = taken(path.stat())
        except OSError:  # another process has removed it
            return
        with self._lock:
            self._used.add(path)
            self._written += size
            if self._written < limits.STORE_BYTES / 100:
                return
            self._written = 0
        self.prune()

    def _files(self) -> Iterator[tuple[bool, float, int, Path]]:
        """(used in this session, when it was used, bytes, path) of what a store has written."""
        with self._lock:
            used = set(self._used)
        for folder in {self.folder, *self._beside()}:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if _OWN_FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        found, path = entry.stat(follow_symlinks=False), folder / entry.name
                        yield path in used, found.st_mtime, taken(found), path

    def _beside(self) -> list[Path]:
        try:
            return [f for f in self.folder.parent.iterdir() if _OWN_FOLDER.fullmatch(f.name)] if self.shared else []
        except OSError:
            return []


def taken(found: os.stat_result) -> int:
    """Bytes on the disk: of a small file a whole block."""
    return max(found.st_size, 512 * getattr(found, "st_blocks", 0))


def _weight(code: Codes) -> int:
    return sum(tensor.nbytes for tensor in (code.ws, *code.noise.values()))
