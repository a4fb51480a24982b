"""Feature statistics of the real images: computed once, shared by every later run through a file.

<cache_dir>/real-<extractor>-<key>.npz holds the key's text, sum [d], outer [d, d] (float64) and count. It is
written under a temporary name and renamed, under a file lock, so that of several runs one computes.
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

import numpy as np
import torch
from torch import Tensor

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.features import FeatureExtractor
from stylegan_lightning.metrics.preset import Preset

FORMAT = 1


@dataclass(frozen=True)
class FeatureSums:
    """sum of f [d], sum of f f^T [d, d] (float64) and the number of images."""

    sum: Tensor
    outer: Tensor
    count: int


@dataclass(frozen=True)
class Part:
    """Some of the images of a data set: their numbers, and a text that decides them together with the data."""

    key: str
    rows: np.ndarray


def real_sums(
    dataset: PreparedDataset,
    extractor: FeatureExtractor,
    preset: Preset,
    cache_dir: str | Path | None,
    part: Part | None = None,
) -> FeatureSums:
    """From the cache, else computed and stored; `cache_dir` None neither reads nor writes."""
    if cache_dir is None:
        return compute_sums(dataset, extractor, preset, part)
    text = cache_text(dataset, extractor, preset) + (f" part={part.key}" if part else "")
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = Path(cache_dir).expanduser() / f"real-{extractor.name}-{key}.npz"
    with _explain(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_suffix(".lock"), "a")  # noqa: SIM115 - stays on disk: removing it would race
    with lock:
        with _explain(path.parent):
            fcntl.flock(lock, fcntl.LOCK_EX)
        sums = _read(path, text, extractor.num_features)
        if sums is None:
            sums = compute_sums(dataset, extractor, preset, part)
            with _explain(path.parent):
                _write(path, text, sums)
    return sums


def cache_text(dataset: PreparedDataset, extractor: FeatureExtractor, preset: Preset) -> str:
    """Everything that decides the statistics; its hash names the file."""
    return (
        f"format={FORMAT} data={dataset.fingerprint} shape={tuple(dataset.images.shape)} "
        f"extractor={extractor.name} weights={extractor.weights_hash} resize={extractor.resize} "
        f"{preset.real_key()}"
    )


def real_items(dataset: PreparedDataset, preset: Preset, part: Part | None = None) -> np.ndarray:
    """Items of the data set that the preset measures, of all images or of a part of them."""
    if part is None:
        return preset.real_indices(len(dataset.images))
    number = preset.real_indices(len(part.rows))
    return part.rows[number % len(part.rows)] + len(dataset.images) * (number // len(part.rows))


def compute_sums(
    dataset: PreparedDataset, extractor: FeatureExtractor, preset: Preset, part: Part | None = None
) -> FeatureSums:
    """One pass over the chosen real images, on the extractor's device; the result is on the CPU."""
    index = real_items(dataset, preset, part)
    device = next((t.device for t in extractor.parameters()), torch.device("cpu"))
    total = torch.zeros(extractor.num_features, dtype=torch.float64, device=device)
    outer = torch.zeros(extractor.num_features, extractor.num_features, dtype=torch.float64, device=device)
    for start in range(0, len(index), preset.batch_size):
        images, _ = dataset.batch(index[start : start + preset.batch_size].tolist())
        features = extractor(images.to(device)).double()
        total += features.sum(0)
        outer += features.T @ features
    return FeatureSums(total.cpu(), outer.cpu(), len(index))


def _read(path: Path, text: str, num_features: int) -> FeatureSums | None:
    """The stored statistics, or None when there are none or they are damaged (with a warning)."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            total, outer, count = stored["sum"], stored["outer"], int(stored["count"])
            same = str(stored["key"]) == text
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as e:
        warnings.warn(f"Real statistics in {path} cannot be read ({e}); computing them again.", stacklevel=4)
        return None
    d = num_features
    fits = total.shape == (d,) and outer.shape == (d, d) and total.dtype == outer.dtype == np.float64
    if not (same and fits and count > 0 and np.isfinite(total).all() and np.isfinite(outer).all()):
        warnings.warn(f"Real statistics in {path} are not what they should be; computing again.", stacklevel=4)
        return None
    return FeatureSums(torch.from_numpy(total), torch.from_numpy(outer), count)


def _write(path: Path, text: str, sums: FeatureSums) -> None:
    handle, temp = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, key=text, sum=sums.sum.numpy(), outer=sums.outer.numpy(), count=sums.count)
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
