"""Reading shards against reading the memory map of prepared images, in images a second of one process.

    python benchmarks/streamed_data.py [--sizes 64,256] [--threads 1]

Images are crops of a photograph that comes with matplotlib. "folder" reads shards where they lie, "cache" through the
cache of an object store (filled from a folder). `ratio` is the memory map's speed over theirs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.cache import prepare
from stylegan_lightning.data.sampler import DataOrder
from stylegan_lightning.data.streamed import Shards, StreamedDataset, write_shards

BATCH, CROP = 32, 512
PHOTO = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"


class Crops:
    """`count` random crops of a photograph, resized."""

    name, channels, fingerprint = "crops", 3, "crops"
    label_names: tuple[str, ...] = ()

    def __init__(self, resolution: int, count: int) -> None:
        self.resolution, self.count = resolution, count
        self.photo = np.asarray(Image.open(PHOTO).convert("RGB").resize((640, 750)))

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        y, x = (int(rng.integers(size - CROP)) for size in self.photo.shape[:2])
        crop = Image.fromarray(self.photo[y : y + CROP, x : x + CROP]).resize((self.resolution, self.resolution))
        return np.ascontiguousarray(np.asarray(crop).transpose(2, 0, 1))

    def labels(self) -> np.ndarray:
        return np.zeros((self.count, 0), np.float32)

    def attributes(self) -> dict[str, np.ndarray]:
        return {}


def speed(data: PreparedDataset, items: Callable[[int, int], Any], batches: int, repeats: int = 3) -> float:
    """Images a second, the best of some passes."""
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        for number in range(batches):
            chosen = items(number * BATCH, BATCH)
            if isinstance(data, StreamedDataset):
                data.fetch(chosen, ())
            data.batch(chosen)
        best = max(best, batches * BATCH / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64,256")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for resolution in map(int, options.sizes.split(",")):
        count = max(640, 4096 * 64**2 // resolution**2)
        source, batches = Crops(resolution, count), count // BATCH // 2
        with tempfile.TemporaryDirectory() as folder:
            mapped = prepare(source, f"{folder}/map", workers=0)
            write_shards(source, f"{folder}/shards", chunk_mb=2)
            here = StreamedDataset(Shards(f"{folder}/shards", resolution))
            cached = StreamedDataset(Shards(f"local:{folder}/shards", resolution), f"{folder}/cache")
            base = speed(mapped, DataOrder(count, 0).items, batches)
            for name, data in (("folder", here), ("cache", cached)):
                found = speed(data, data.order(0).items, batches)
                print(
                    f"{resolution:4d} px  memory map {base:9.0f} img/s   {name} {found:7.0f} img/s   "
                    f"ratio {base / found:6.1f}   size {sum(here.files.sizes) / count / (3 * resolution**2):.2f} of raw"
                )


if __name__ == "__main__":
    main()
