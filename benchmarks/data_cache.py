"""Images per second of decoding each time, against batches from the prepared cache.

    python benchmarks/data_cache.py [--path FOLDER_OR_ZIP] [--resolution 64]

Without --path it makes a temporary folder of synthetic 256x256 JPEGs. The cache is temporary too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from stylegan_lightning.data.cache import prepare
from stylegan_lightning.data.decode import FILTERS
from stylegan_lightning.data.image_folder import ImageFolder
from stylegan_lightning.data.summary import summary_text

BATCH = 32


def synthetic_folder(root: Path, count: int) -> Path:
    """Smooth random 256x256 colour fields with some noise, as JPEGs of about the size of photographs."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((256, 256), FILTERS["bicubic"]), np.int16)
        noisy = (smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / f"{i:05d}.jpg", quality=90)
    return root


def images_per_second(read: Callable[[list[int]], object], total: int, seconds: float) -> float:
    """Random batches for about this long, after one batch to warm up."""
    rng = np.random.default_rng(0)
    read(rng.integers(total, size=BATCH).tolist())
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        read(rng.integers(total, size=BATCH).tolist())
        done += BATCH
    return done / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, help="folder or zip file of images")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000, help="how many synthetic images to make")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        path = args.path or synthetic_folder(Path(temp) / "synthetic", args.images)
        start = time.perf_counter()
        source = ImageFolder(path, args.resolution, args.channels)
        print(f"list and fingerprint  {time.perf_counter() - start:10.2f} s")
        start = time.perf_counter()
        dataset = prepare(source, Path(temp) / "cache")
        print(f"prepare, once         {time.perf_counter() - start:10.2f} s")
        start = time.perf_counter()
        prepare(source, Path(temp) / "cache")
        print(f"open it again         {time.perf_counter() - start:10.3f} s")
        print(summary_text(dataset))

        decoding = images_per_second(lambda batch: np.stack([source.read(i) for i in batch]), len(source), args.seconds)
        cached = images_per_second(dataset.batch, len(dataset), args.seconds)
        print(f"decode each time      {decoding:10.0f} img/s (one process)")
        print(f"from the cache        {cached:10.0f} img/s (one process, random batches of {BATCH})")
        print(f"ratio                 {cached / decoding:10.1f}")


if __name__ == "__main__":
    main()
