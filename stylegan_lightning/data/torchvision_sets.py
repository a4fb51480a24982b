"""Well-known data sets that torchvision downloads."""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stylegan_lightning.data.cache import default_cache_dir
from stylegan_lightning.data.decode import (
    ImageInfo,
    UnreadableImage,
    check_choice,
    check_size,
    decode_options,
    finish,
    turn_upright,
)
from stylegan_lightning.errors import UserError


@dataclass(frozen=True)
class _Known:
    """Class in torchvision.datasets, the arguments that select each part, what to place by hand."""

    cls: str
    splits: dict[str, dict[str, Any]]
    needs: str


_TRAIN_TEST: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
KNOWN = {
    "cifar10": _Known("CIFAR10", _TRAIN_TEST, "cifar-10-python.tar.gz unpacked to cifar-10-batches-py/"),
    "fashion_mnist": _Known("FashionMNIST", _TRAIN_TEST, "the four *-ubyte files in FashionMNIST/raw/"),
    "celeba": _Known(
        "CelebA",
        {s: {"split": s} for s in ("train", "valid", "test")},
        "celeba/ with the folder img_align_celeba/ and the five list and identity .txt files",
    ),
    "flowers102": _Known(
        "Flowers102",
        {s: {"split": s} for s in ("train", "val", "test")},
        "flowers-102/ with the folder jpg/, imagelabels.mat and setid.mat",
    ),
}
_ALIASES = {key.replace("_", ""): key for key in KNOWN}


class TorchvisionImages:
    """CIFAR-10, Fashion-MNIST, CelebA or Flowers102. Implements ImageSource.

    split: one of the set's own ("train", "test", ...) or "all". labels: one-hot classes; for CelebA its 40
    yes/no attributes, which are also given by `attributes()` either way.
    """

    def __init__(
        self,
        name: str,
        root: str | Path | None,
        resolution: int,
        channels: int = 3,
        crop: str = "center",
        filter: str = "lanczos",
        background: str | Sequence[int] = "#ffffff",
        split: str = "train",
        download: bool = True,
        labels: bool = False,
    ) -> None:
        self.name = _ALIASES[check_choice("name", re.sub(r"[-_ ]", "", str(name).lower()), tuple(_ALIASES))]
        self.options = decode_options(resolution, channels, crop, filter, background)
        self.resolution, self.channels = resolution, channels
        self.split = check_choice("split", split, (*KNOWN[self.name].splits, "all"))
        self.root = Path(root or default_cache_dir() / "torchvision").expanduser().absolute()
        self._parts: list[Any] | None = None
        self._parts = self._open(download)
        self._lengths = [len(p) for p in self._parts]
        names, targets = self._targets()
        self._factors = dict(zip(names, targets.T, strict=True)) if self.name == "celeba" else {}
        self.label_names = names if labels else ()
        self._labels = targets if labels else np.zeros((len(self), 0), np.float32)
        self.fingerprint = self._fingerprint()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": None}  # a worker opens the files itself: some sets live in memory

    def __len__(self) -> int:
        return sum(self._lengths)

    def read(self, index: int) -> np.ndarray:
        return self.read_with_info(index)[0]

    def read_with_info(self, index: int) -> tuple[np.ndarray, ImageInfo]:
        part, i = self._locate(index)
        try:
            img = part[i][0]
            mode = img.mode
            check_size(*img.size)
            img.load()
            img = turn_upright(img)
            return finish(img, self.options), {"size": img.size, "mode": mode}
        except Exception as err:  # a damaged file makes Pillow raise nearly any type
            raise UnreadableImage(f"{self.name} image {index}", f"{err} ({type(err).__name__})") from err

    def labels(self) -> np.ndarray:
        return self._labels.copy()

    def attributes(self) -> dict[str, np.ndarray]:
        return dict(self._factors)

    def _locate(self, index: int) -> tuple[Any, int]:
        """The part that holds an image, and its number there."""
        if self._parts is None:
            self._parts = self._open(download=False)
        for part, length in zip(self._parts, self._lengths, strict=True):
            if index < length:
                return part, index
            index -= length
        raise IndexError(f"{self.name} has {len(self)} images")

    def _open(self, download: bool) -> list[Any]:
        """The set's parts; downloads only what is not there yet."""
        known = KNOWN[self.name]
        cls = getattr(importlib.import_module("torchvision.datasets"), known.cls)
        chosen = known.splits.values() if self.split == "all" else [known.splits[self.split]]
        try:
            return [cls(str(self.root), **kwargs) for kwargs in chosen]
        except Exception as err:
            if not download:
                raise UserError(
                    f"{known.cls} is not in {self.root} ({err}). Allow the download with download=true, or "
                    f"place there: {known.needs}."
                ) from err
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with open(self.root / f".{self.name}.lock", "a") as lock:  # one rank downloads, the others wait
                fcntl.flock(lock, fcntl.LOCK_EX)
                return [cls(str(self.root), download=True, **kwargs) for kwargs in chosen]
        except Exception as err:  # no network, no disk, a changed address, a missing helper package
            raise UserError(
                f"{known.cls} could not be downloaded to {self.root}: {err} ({type(err).__name__}). Try "
                f"again with a network connection, or download it elsewhere and place there: {known.needs}."
            ) from err

    def _targets(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Label names and float32 [N, c]."""
        assert self._parts is not None
        if self.name == "celeba":
            names = tuple(n for n in self._parts[0].attr_names if n)
            return names, np.concatenate([np.asarray(p.attr, np.float32) for p in self._parts])
        field = "_labels" if self.name == "flowers102" else "targets"  # torchvision offers no public one there
        classes = np.concatenate([np.asarray(getattr(p, field), np.int64) for p in self._parts])
        names = tuple(getattr(self._parts[0], "classes", ())) or tuple(map(str, range(int(classes.max()) + 1)))
        return names, np.eye(len(names), dtype=np.float32)[classes]

    def _fingerprint(self) -> str:
        """Name, part, options, labels, length and the pixels of up to 64 evenly spaced images."""
        count = len(self)
        digest = hashlib.sha256(f"{self.name} {self.split} {count} {self.label_names}".encode())
        digest.update(self.options.token().encode())
        digest.update(self._labels.tobytes())
        for i in range(min(64, count)):
            part, number = self._locate(i * count // min(64, count))
            picture = part[number][0]
            digest.update(f"{picture.mode} {picture.size}".encode() + picture.tobytes())
        return digest.hexdigest()
