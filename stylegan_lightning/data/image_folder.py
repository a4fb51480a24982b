"""A folder tree or a zip file of images."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stylegan_lightning.data.decode import (
    EXTENSIONS,
    ImageInfo,
    UnreadableImage,
    check_choice,
    decode,
    decode_options,
)
from stylegan_lightning.errors import UserError

LABELS = ("none", "folders", "json", "auto")
LABEL_FILE = "dataset.json"
MOST_CLASSES = 100_000
FLOAT32_MAX = float(np.finfo(np.float32).max)


class ImageFolder:
    """Images of a folder tree or a zip file, in the order of their relative names. Implements ImageSource.

    labels: "none"; "folders" (class = name of the first-level folder); "json" (`dataset.json` at the root:
    {"labels": [["a/b.png", 6], ...]} with class numbers, or with lists of numbers, all of one length); "auto"
    (json when there is a dataset.json, else folders when every image lies in one of at least two, else none).
    max_images: keep this many, evenly spaced over the sorted names. Class numbers do not change with it.
    """

    def __init__(
        self,
        path: str | Path,
        resolution: int,
        channels: int = 3,
        crop: str = "center",
        filter: str = "lanczos",
        background: str | Sequence[int] = "#ffffff",
        labels: str = "none",
        max_images: int | None = None,
    ) -> None:
        self.options = decode_options(resolution, channels, crop, filter, background)
        self.resolution, self.channels = resolution, channels
        check_choice("labels", labels, LABELS)
        if max_images is not None and (not isinstance(max_images, int) or max_images < 2):
            raise UserError(f"max_images must be at least 2, or null for all images; got {max_images!r}.")
        self.path = Path(path).expanduser().absolute()
        self.name = self.path.stem if self.path.is_file() else self.path.name
        self._files = _open(self.path)
        everything = self._files.names()
        names = [n for n in everything if n.lower().endswith(EXTENSIONS)]
        _check_count(names, everything, self.path)
        self.label_names, rows = _find_labels(labels, names, self._files, self.path)
        keep = range(len(names))
        if max_images is not None and max_images < len(names):
            keep = [i * len(names) // max_images for i in range(max_images)]  # type: ignore[assignment]
        self.names = [names[i] for i in keep]
        self._rows = rows[list(keep)]
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> np.ndarray:
        return self.read_with_info(index)[0]

    def read_with_info(self, index: int) -> tuple[np.ndarray, ImageInfo]:
        """The image and what its file held: {"size": (width, height), "mode": Pillow's name}."""
        name = self.names[index]
        try:
            data = self._files.read(name)
        except Exception as err:  # zipfile raises several unrelated types for a damaged member
            raise UnreadableImage(name, f"{err} ({type(err).__name__})") from err
        return decode(data, self.options, name=name)

    def native_resolution(self) -> int:
        """The smaller side of the first image, pixels. Raises UserError where it cannot be read."""
        try:
            return min(self.read_with_info(0)[1]["size"])
        except UnreadableImage as error:
            raise UserError(f"{self.path}: {error}; repair or remove this image") from error

    def labels(self) -> np.ndarray:
        if self._rows.dtype == np.float32:
            return self._rows.copy()
        return np.eye(len(self.label_names), dtype=np.float32)[self._rows]

    def attributes(self) -> dict[str, np.ndarray]:
        return {}

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self.options.token().encode())
        digest.update(json.dumps([self.label_names, str(self._rows.dtype), self._rows.shape]).encode())
        digest.update(self._rows.tobytes())
        for name, token in zip(self.names, self._files.tokens(self.names), strict=True):
            digest.update(json.dumps([name, token]).encode())
        return digest.hexdigest()


class _Files(Protocol):
    def names(self) -> list[str]: ...
    def read(self, name: str) -> bytes: ...
    def tokens(self, names: Sequence[str]) -> Iterable[str]:
        """For each file, a text that changes when its content does."""
        ...


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Links are followed, but no folder is entered from inside itself."""
        found: list[str] = []
        pending: list[tuple[str, frozenset[str]]] = [("", frozenset())]
        while pending:
            prefix, above = pending.pop()
            folder = self.root / prefix
            real = os.path.realpath(folder)
            if real in above:
                continue
            for entry in os.scandir(folder):
                if _hidden(entry.name):
                    continue
                if entry.is_dir():
                    pending.append((f"{prefix}{entry.name}/", above | {real}))
                else:
                    found.append(prefix + entry.name)
        return sorted(found)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def tokens(self, names: Sequence[str]) -> Iterable[str]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing and reading free the GIL
            yield from pool.map(self._token, names)

    def _token(self, name: str) -> str:
        try:
            with open(self.root / name, "rb") as file:
                return hashlib.file_digest(file, "blake2b").hexdigest()
        except OSError:
            return "unreadable"  # `read` names it and gives the reason


class _Zip:
    """Reads one zip file from any thread and any process: each process opens it for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None}

    def _zip(self) -> zipfile.ZipFile:
        opened = self._opened
        if opened is None or opened[0] != os.getpid():  # a forked child must not share the file position
            opened = self._opened = (os.getpid(), zipfile.ZipFile(self.path))
        return opened[1]

    def names(self) -> list[str]:
        members = (m for m in self._zip().infolist() if not m.is_dir())
        return sorted({m.filename for m in members if not any(_hidden(p) for p in m.filename.split("/"))})

    def read(self, name: str) -> bytes:
        return self._zip().read(name)

    def tokens(self, names: Sequence[str]) -> Iterable[str]:
        members = map(self._zip().getinfo, names)
        return (f"{m.file_size} {m.CRC:08x}" for m in members)


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _open(path: Path) -> _Files:
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        raise UserError(f"There is no folder or zip file at {path}. Give `path` a folder of images or a zip.")
    try:
        files = _Zip(path)
        files.names()
    except (zipfile.BadZipFile, OSError) as err:
        raise UserError(
            f"{path} is neither a folder nor a readable zip file ({err}). Give `path` a folder or a zip."
        ) from err
    return files


def _check_count(names: list[str], everything: list[str], path: Path) -> None:
    accepted = ", ".join(EXTENSIONS)
    if not names:
        other = f" It holds {len(everything)} other files, e.g. {everything[0]}." if everything else ""
        raise UserError(f"No images in {path}.{other} Accepted: {accepted}; hidden files are left out.")
    if len(names) == 1:
        raise UserError(f"Only one image ({names[0]}) in {path}; training needs at least 2. Accepted: {accepted}.")


def _find_labels(kind: str, names: list[str], files: _Files, path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Label names and, per image, its class number (int64 [N]) or its vector (float32 [N, c])."""
    none = (), np.zeros((len(names), 0), np.float32)
    if kind == "auto":
        if LABEL_FILE in files.names():
            kind = "none" if _load_json(files, path) is None else "json"
        else:
            top = {n.split("/")[0] if "/" in n else "" for n in names}
            kind = "folders" if len(top) > 1 and "" not in top else "none"
    if kind == "folders":
        return _folder_labels(names, path)
    return _json_labels(names, files, path) if kind == "json" else none


def _folder_labels(names: list[str], path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    loose = [n for n in names if "/" not in n]
    if loose:
        raise UserError(
            f"labels=folders needs every image inside a class folder; in {path} {len(loose)} are not, "
            f"e.g. {loose[0]}. Move them into folders or choose labels=none."
        )
    classes = sorted({n.split("/")[0] for n in names})
    if len(classes) == 1:
        raise UserError(
            f"labels=folders found one class only, {classes[0]!r}, in {path}. Point `path` one level deeper "
            f"(for a zip: pack it without the outer folder) or choose labels=none."
        )
    number = {c: i for i, c in enumerate(classes)}
    return tuple(classes), np.array([number[n.split("/")[0]] for n in names], np.int64)


def _load_json(files: _Files, path: Path) -> list | None:
    """The `labels` entry of the label file; None when it says null."""
    where = f"{LABEL_FILE} in {path}"
    try:
        content = json.loads(files.read(LABEL_FILE))
    except (KeyError, FileNotFoundError) as err:
        near = [n for n in files.names() if n.endswith("/" + LABEL_FILE)]
        hint = f" There is one at {near[0]}; it must lie at the root." if near else ""
        raise UserError(f"labels=json needs {where}, and there is none.{hint}") from err
    except (ValueError, OSError, zipfile.BadZipFile) as err:
        raise UserError(f"{where} is not valid JSON: {err}.") from err
    labels = content.get("labels", ...) if isinstance(content, dict) else ...
    if labels is ... or not (labels is None or isinstance(labels, list)):
        raise UserError(f'{where} must look like {{"labels": [["folder/image.png", 6], ...]}}.')
    return labels


def _json_labels(names: list[str], files: _Files, path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    entries, where = _load_json(files, path), f"{LABEL_FILE} in {path}"
    if not entries:
        raise UserError(f"{where} holds no labels (labels: null or empty). Choose labels=none.")
    table: dict[str, Any] = {}
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError(f"{where}: every label must be a pair [name, label]; got {entry!r}.")
        table[entry[0].replace("\\", "/")] = entry[1]
    missing = [n for n in names if n not in table]
    if missing:
        raise UserError(
            f"{where} has no label for {len(missing)} of {len(names)} images: {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}. Label every image or remove those."
        )
    values = list(table.values())
    if all(type(v) is int and v >= 0 for v in values):
        if max(values) >= MOST_CLASSES:
            raise UserError(f"{where}: class numbers must start at 0 and lie below {MOST_CLASSES}; got {max(values)}.")
        rows = np.array([table[n] for n in names], np.int64)
        return tuple(map(str, range(max(values) + 1))), rows
    width = len(values[0]) if isinstance(values[0], list) else -1
    for name, value in table.items():
        if not _is_vector(value, width):
            raise UserError(
                f"{where}: labels must be all class numbers (0, 1, ...) or all lists of the same number of "
                f"finite numbers; {name} has {value!r}."
            )
    return tuple(map(str, range(width))), np.array([table[n] for n in names], np.float32)


def _is_vector(value: object, width: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == width > 0
        and all(type(v) in (int, float) and abs(v) <= FLOAT32_MAX for v in value)  # false for NaN
    )
