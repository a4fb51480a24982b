"""Features of real images, computed once for each data set, network and preset, and kept for every later run.

A file is written to a temporary name and renamed, under a file lock, so that of several runs one computes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.extraction import Features, extract
from stylegan_lightning.metrics.features import FeatureExtractor
from stylegan_lightning.metrics.gaussian import GaussianSums
from stylegan_lightning.metrics.images import ImageSet, StoredImages
from stylegan_lightning.metrics.preset import Preset
from stylegan_lightning.metrics.sampling import from_rank_zero, place

FORMAT = 2


@dataclass(frozen=True)
class Part:
    """Some of the images of a data set: their numbers, and a text that decides them together with the data."""

    key: str
    rows: np.ndarray


def real_images(
    dataset: PreparedDataset, preset: Preset, most: int | None = None, part: Part | None = None
) -> StoredImages:
    """The images that the preset measures, of all or of a part of them, at most `most`."""
    available = len(dataset.images if part is None else part.rows)
    if most is not None and most >= available * (2 if preset.mirror_real else 1):
        most = None  # a limit without effect is no choice: metrics with different ones share the statistics
    choice = preset.real_key(most)
    if part is None:
        return StoredImages(dataset, preset.real_indices(available, most), choice)
    number = preset.real_indices(available, most)
    items = part.rows[number % len(part.rows)] + len(dataset.images) * (number // len(part.rows))
    return StoredImages(dataset, items, f"{choice} part={part.key}")


def real_features(
    images: ImageSet,
    extractor: FeatureExtractor,
    cache_dir: str | Path | None,
    *,
    keep_rows: bool = False,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> Features:
    """From the cache, else computed on all ranks and stored; rank 0 alone has them.

    `cache_dir` None, and images without a key, are neither read nor written. Rows are mapped from their file. With a
    slow network and much data the process group's timeout must allow for the wait for another run.
    """
    folder = Path(cache_dir).expanduser() if cache_dir is not None else None

    def compute() -> Features:
        return extract(images, [extractor], [keep_rows], batch_size=batch_size, device=device, folder=folder)[0]

    if folder is None or images.key is None:
        return compute()
    text = cache_text(images, extractor)
    path = folder / f"real-{extractor.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
    with contextlib.ExitStack() as held:
        found: list[Features | None] = [None]

        def look() -> bool:
            held.enter_context(_locked(path))
            found[0] = _read(path, text, extractor.num_features, keep_rows)
            return found[0] is not None

        if not from_rank_zero(look):
            features = compute()
            if place()[0] == 0:
                found[0] = features
            from_rank_zero(lambda: _write(path, text, features))
        known = found[0]
    if known is None:  # of the other ranks
        return Features(len(images), GaussianSums(extractor.num_features, device))
    sums = known.sums
    sums.sum, sums.outer = sums.sum.to(device), sums.outer.to(device)
    return known


def cache_text(images: ImageSet, extractor: FeatureExtractor) -> str:
    """Everything that decides the statistics; its hash names the file."""
    return (
        f"format={FORMAT} {images.key} extractor={extractor.name} weights={extractor.weights_hash} "
        f"resize={extractor.resize}"
    )


def rows_file(path: Path) -> Path:
    return path.with_suffix(".npy")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _explain(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_suffix(".lock"), "a")  # noqa: SIM115 - stays on disk: removing it would race
    with lock:
        with _explain(path.parent):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(path: Path, text: str, num_features: int, keep_rows: bool) -> Features | None:
    """The stored statistics, or None when there are none or they are damaged (with a warning)."""
    if not path.exists() or (keep_rows and not rows_file(path).exists()):
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            total, outer, count = stored["sum"], stored["outer"], int(stored["count"])
            same = str(stored["key"]) == text
        rows = np.load(rows_file(path), mmap_mode="c", allow_pickle=False) if keep_rows else None
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as e:
        warnings.warn(f"Real statistics in {path} cannot be read ({e}); computing them again.", stacklevel=4)
        return None
    d = num_features
    fits = total.shape == (d,) and outer.shape == (d, d) and total.dtype == outer.dtype == np.float64
    fits = fits and (rows is None or (rows.shape == (count, d) and rows.dtype == np.float32))
    if not (same and fits and count > 0 and np.isfinite(total).all() and np.isfinite(outer).all()):
        warnings.warn(f"Real statistics in {path} are not what they should be; computing again.", stacklevel=4)
        return None
    sums = GaussianSums(d)
    sums.sum, sums.outer, sums.count = torch.from_numpy(total), torch.from_numpy(outer), count
    return Features(count, sums, None if rows is None else torch.from_numpy(rows))


def _write(path: Path, text: str, features: Features) -> None:
    """The rows first: a file of sums says that the rows beside it, if any, are whole."""
    sums = features.sums
    content = {"key": text, "sum": sums.sum.cpu().numpy(), "outer": sums.outer.cpu().numpy(), "count": features.count}
    with _explain(path.parent):
        if features.rows is not None:
            _replace(rows_file(path), lambda file: np.save(file, features.rows.numpy()))  # type: ignore[union-attr]
        _replace(path, lambda file: np.savez(file, **content))  # type: ignore[arg-type]


def _replace(path: Path, write: Any) -> None:
    handle, temp = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temp, 0o644)  # mkstemp makes it private; a cache may be shared
        os.replace(temp, path)
    except BaseException:
        Path(temp).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _explain(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UserError(
            f"Cannot store the statistics of the real images in {folder}: {e.strerror or e}. "
            "Free some space there or choose another cache directory."
        ) from e
