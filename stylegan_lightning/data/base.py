"""What every data set is, to the rest of the package: a uint8 array of finished images.

A *source* knows how to produce image number i; `prepare` (in `cache.py`) runs it once into a memory-mapped
array, and `PreparedDataset` serves batches from that array. Training never decodes anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


class ImageError(Exception):
    """Image number i cannot be read; the message names the file and the reason."""


@runtime_checkable
class ImageSource(Protocol):
    """Produces finished images. Must be picklable: `prepare` reads it from worker processes."""

    name: str
    resolution: int
    channels: int
    fingerprint: str
    """Hex digest of the content and of every option that changes a pixel or a label; the cache key."""
    label_names: tuple[str, ...]
    """Names of the label columns, () when unconditional."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> np.ndarray:
        """Image `index`: uint8 [channels, resolution, resolution]. Raises ImageError if it is unreadable."""
        ...

    def labels(self) -> np.ndarray:
        """float32 [len, len(label_names)]; one-hot for classes."""
        ...

    def attributes(self) -> dict[str, np.ndarray]:
        """Known factors by name, float32 [len] each; {} when nothing is known."""
        ...


class PreparedDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images [N, C, H, W] uint8 (a memory map), labels [N, c_dim] float32, attributes {name: [N]}.

    With `mirror`, item N + i is item i flipped left to right, so a fixed order of indices is a fixed order
    of pictures. A pickle holds the path of a memory-mapped .npy file, not its content.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        name: str,
        fingerprint: str,
        label_names: Sequence[str] = (),
        attributes: dict[str, np.ndarray] | None = None,
        mirror: bool = False,
        stats: dict | None = None,
    ) -> None:
        self.images, self.targets = images, labels
        self.name, self.fingerprint, self.mirror = name, fingerprint, mirror
        self.label_names = tuple(label_names)
        self.attributes = attributes or {}
        self.stats = stats or {}
        self.levels: dict[int, np.ndarray] = {}
        """The same images at lower resolutions, where `add_levels` has made them."""

    def __getstate__(self) -> dict[str, Any]:
        levels = {r: npy_file(level) or level for r, level in self.levels.items()}
        return {**self.__dict__, "images": npy_file(self.images) or self.images, "levels": levels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.images = _reopen(state["images"])
        self.levels = {r: _reopen(level) for r, level in state["levels"].items()}

    img_resolution = property(lambda self: int(self.images.shape[-1]))
    img_channels = property(lambda self: int(self.images.shape[1]))
    c_dim = property(lambda self: int(self.targets.shape[1]))

    def first(self, count: int) -> PreparedDataset:
        """The first `count` images alone."""
        return PreparedDataset(
            self.images[:count],
            self.targets[:count],
            name=self.name,
            fingerprint=f"{self.fingerprint}-first{count}",
            label_names=self.label_names,
            attributes={name: values[:count] for name, values in self.attributes.items()},
            mirror=self.mirror,
            stats=self.stats,
        )

    def __len__(self) -> int:
        return len(self.images) * (2 if self.mirror else 1)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        imgs, labels = self.batch([index])
        return imgs[0], labels[0]

    def fetch(self, items: Sequence[int], soon: Sequence[int]) -> None:
        """Told by training which items it will read next, and which a while later: for sets that are not all here."""

    def batch(self, indices: Sequence[int], resolution: int | None = None) -> tuple[Tensor, Tensor]:
        """img uint8 [B, C, H, W] and c float32 [B, c_dim] of the given items, at their own or a lower resolution."""
        index = np.asarray(indices)
        n = len(self.images)
        images = self.images if resolution in (None, self.img_resolution) else self.levels[resolution]
        imgs = images[index % n]  # fancy indexing copies out of the memory map
        flipped = index >= n
        imgs[flipped] = imgs[flipped][..., ::-1]
        return torch.from_numpy(imgs), torch.from_numpy(self.targets[index % n])


def _reopen(stored: Path | np.ndarray) -> np.ndarray:
    if isinstance(stored, Path):
        return np.asarray(np.load(stored, mmap_mode="r", allow_pickle=False))
    return stored


def npy_file(images: np.ndarray) -> Path | None:
    """The .npy file that `images` maps read-only and as a whole; None for any other array."""
    mapped = images if isinstance(images, np.memmap) else getattr(images, "base", None)
    if not isinstance(mapped, np.memmap) or mapped.mode != "r" or not mapped.filename:
        return None
    path = Path(mapped.filename)
    try:
        whole = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):  # gone, or not an .npy file
        return None
    start = not isinstance(mapped.base, np.ndarray) and images.ctypes.data == mapped.ctypes.data
    same = (images.shape, images.strides, images.dtype) == (whole.shape, whole.strides, whole.dtype)
    return path if start and same and mapped.offset == whole.offset else None
