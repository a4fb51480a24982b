"""A folder tree or a zip file of images."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stylegan_lightning.data.containers import LABEL_FILE, MOST_LABELS, Files, open_files
from stylegan_lightning.data.decode import (
    EXTENSIONS,
    ImageInfo,
    UnreadableImage,
    check_choice,
    decode,
    decode_options,
)
from stylegan_lightning.errors import UserError
from stylegan_lightning.files import parse_json

LABELS = ("none", "folders", "json", "auto")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
MOST_CLASSES = 100_000
FLOAT32_MAX = float(np.finfo(np.float32).max)


class ImageFolder:
    """Images of a folder tree or a zip file, in the order of their relative names. Implements ImageSource.

    labels: "none"; "folders" (class = name of the first-level folder); "json" (`dataset.json` at the root:
    {"labels": [["a/b.png", 6], ...]} with class numbers, or with lists of numbers, all of one length); "auto"
    (json when there is a dataset.json, else folders when every image lies in one of at least two, else none).
    max_images: keep this many, evenly spaced over the sorted names. Class numbers do not change with it.
    follow_links: also read what links lead to outside of a folder; without, such links are refused (OutsideLinks).
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
        follow_links: bool = False,
    ) -> None:
        self.options = decode_options(resolution, channels, crop, filter, background)
        self.resolution, self.channels = resolution, channels
        check_choice("labels", labels, LABELS)
        if max_images is not None and (not isinstance(max_images, int) or max_images < 2):
            raise UserError(f"max_images must be at least 2, or null for all images; got {max_images!r}.")
        self.path = Path(path).expanduser().absolute()
        self.name = self.path.stem if self.path.is_file() else self.path.name
        self._files = open_files(self.path, follow_links)
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
        except ValueError as err:
            raise UnreadableImage(name, str(err)) from err
        except EOFError as err:
            raise UnreadableImage(name, "it ends too early") from err
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
        found = np.zeros((len(self), len(self.label_names)), np.float32)
        found[np.arange(len(self)), self._rows] = 1
        return found

    def attributes(self) -> dict[str, np.ndarray]:
        return {}

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self.options.token().encode())
        digest.update(json.dumps([self.label_names, str(self._rows.dtype), self._rows.shape]).encode())
        digest.update(self._rows.tobytes())
        for name, token in zip(self.names, self._files.tokens(self.names), strict=True):
            digest.update(json.dumps([name, token]).encode())
        return digest.hexdigest()


def _check_count(names: list[str], everything: list[str], path: Path) -> None:
    accepted = ", ".join(EXTENSIONS)
    if not names:
        other = f" It holds {len(everything)} other files, e.g. {everything[0]}." if everything else ""
        packed = next((n for n in everything if n.lower().endswith(ARCHIVES)), None)
        other += f" Archives inside are not opened: unpack {packed}." if packed else ""
        raise UserError(f"No images in {path}.{other} Accepted: {accepted}; hidden files are left out.")
    if len(names) == 1:
        raise UserError(f"Only one image ({names[0]}) in {path}; training needs at least 2. Accepted: {accepted}.")


def _find_labels(kind: str, names: list[str], files: Files, path: Path) -> tuple[tuple[str, ...], np.ndarray]:
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


def _load_json(files: Files, path: Path) -> list | None:
    """The `labels` entry of the label file; None when it says null."""
    where = f"{LABEL_FILE} in {path}"
    try:
        content = parse_json(files.read(LABEL_FILE, MOST_LABELS), where)
    except UserError:
        raise
    except (KeyError, FileNotFoundError) as err:
        near = [n for n in files.names() if n.endswith("/" + LABEL_FILE)]
        hint = f" There is one at {near[0]}; it must lie at the root." if near else ""
        raise UserError(f"labels=json needs {where}, and there is none.{hint}") from err
    except Exception as err:  # as for images
        raise UserError(f"{where} cannot be read: {str(err) or type(err).__name__}.") from err
    labels = content.get("labels", ...) if isinstance(content, dict) else ...
    if labels is ... or not (labels is None or isinstance(labels, list)):
        raise UserError(f'{where} must look like {{"labels": [["folder/image.png", 6], ...]}}.')
    return labels


def _json_labels(names: list[str], files: Files, path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    entries, where = _load_json(files, path), f"{LABEL_FILE} in {path}"
    if not entries:
        raise UserError(f"{where} holds no labels (labels: null or empty). Choose labels=none.")
    table: dict[str, Any] = {}
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError(f"{where}: every label must be a pair [name, label]; got {reprlib.repr(entry)}.")
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
                f"finite numbers; {name} has {reprlib.repr(value)}."
            )
    return tuple(map(str, range(width))), np.array([table[n] for n in names], np.float32)


def _is_vector(value: object, width: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == width > 0
        and all(type(v) in (int, float) and abs(v) <= FLOAT32_MAX for v in value)  # false for NaN
    )
