"""Smaller versions of prepared images for growing runs, made once and kept beside the cache.

    <cache_dir>/<name>-<key>/images_<r>.npy      uint8 [N, C, r, r]: averages over squares, rounded

Reading full-size images in order to train at 4x4 would cost more than the training.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stylegan_lightning.data.base import PreparedDataset, npy_file
from stylegan_lightning.data.cache import CHUNK_BYTES, explain, locked


def box_reduce(images: np.ndarray, resolution: int) -> np.ndarray:
    """uint8 [N, C, H, W] -> uint8 [N, C, resolution, resolution], the mean of each square rounded to even."""
    n, c, h, w = images.shape
    squares = images.reshape(n, c, resolution, h // resolution, resolution, w // resolution)
    return np.rint(squares.mean((3, 5), dtype=np.float32)).astype(np.uint8)


def add_levels(dataset: PreparedDataset, resolutions: Iterable[int]) -> None:
    """Gives `dataset` its images at `resolutions`, which divide its own. Several processes may do so at once.

    Raises UserError when the disk is full or cannot be written.
    """
    source = npy_file(dataset.images)
    for resolution in resolutions:
        if resolution == dataset.img_resolution or resolution in dataset.levels:
            continue
        if source is None:
            dataset.levels[resolution] = box_reduce(dataset.images, resolution)
            continue
        path = source.with_name(f"images_{resolution}.npy")
        with locked(source.parent.parent, source.parent.name):
            level = _open(path, dataset, resolution)
            if level is None:
                with explain(source.parent.parent):
                    _write(path, dataset.images, resolution)
                level = _open(path, dataset, resolution)
        assert level is not None
        dataset.levels[resolution] = level


def _open(path: Path, dataset: PreparedDataset, resolution: int) -> np.ndarray | None:
    """The finished level, or None when there is none or it is damaged."""
    try:
        level = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    shape = (*dataset.images.shape[:2], resolution, resolution)
    return np.asarray(level) if level.shape == shape and level.dtype == np.uint8 else None


def _write(path: Path, images: np.ndarray, resolution: int) -> None:
    temporary = path.with_name(path.name + ".tmp")
    step = max(1, CHUNK_BYTES // images[0].nbytes)
    try:
        with open(temporary, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (*images.shape[:2], resolution, resolution)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(images), step):
                file.write(box_reduce(images[start : start + step], resolution).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
