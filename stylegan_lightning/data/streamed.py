"""Images in shards that lie in a folder or an object store and are fetched as training comes to them.

    FOLDER/chunk-0-<k>.bin   LitData's chunks; an item is a losslessly compressed (WebP) image
           index.json        LitData's index
           labels.npy        float32 [N, c]
           shards.json       written last: what there is, and the chunks with their sizes

Written by `write_shards`, or `python -m stylegan_lightning.data.streamed SOURCE OUT --resolution 256`. The order of
the images is shuffled once as they are written, so that a chunk is a random sample of them.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from stylegan_lightning.data.base import ImageError, ImageSource, PreparedDataset, npy_file
from stylegan_lightning.data.cache import default_cache_dir, explain
from stylegan_lightning.data.containers import OutsideLinks
from stylegan_lightning.data.decode import CROPS, FILTERS, check_choice, open_picture, webp_size
from stylegan_lightning.data.image_folder import LABELS, ImageFolder
from stylegan_lightning.data.labels import check_labels
from stylegan_lightning.data.levels import box_reduce
from stylegan_lightning.data.sampler import ChunkOrder
from stylegan_lightning.data.summary import Chunk, Tally, are_stats, refusal, statistics
from stylegan_lightning.errors import UserError
from stylegan_lightning.files import printable

FORMAT = 1
META, TARGETS = "shards.json", "labels.npy"
MOST_META = 1 << 26
"""Bytes of shards.json."""
LEAST = 30
"""Bytes of an image in a chunk: a WebP and its place."""
MOST_CHUNK = 1 << 32
"""Bytes of a chunk, whose offsets have 32 bits."""
STORES = ("s3://", "gs://", "r2://")
"""Those of LitData's that can be asked for parts of a file."""
PLACES = "a folder, local:FOLDER (of a slow disk), s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or r2://BUCKET/PREFIX"
FEW = 4
"""Images of a chunk; fewer are read by themselves where it is not here, more fetch it."""
THREADS = 8
"""That read and decode images; Pillow lets other threads run meanwhile."""
NO_BALANCE = (
    "data.balance must be false with data=streamed: to shuffle each class for itself, a chunk would be fetched for "
    "nearly every image. Balance the images when the shards are written, or use data=image_folder"
)
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def size_in_bytes(text: str | None) -> int | None:
    """500MB, 10GB or 1.5TB, powers of ten; None for None. Raises ValueError for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(kB|MB|GB|TB)", str(text))
    if not found:
        raise ValueError(f"{text!r} is no size such as 10GB")
    return int(float(found[1]) * _UNITS[found[2]])


def _litdata() -> tuple[Any, Any]:
    """What writes chunks, and what finds the connection to an address."""
    try:
        from litdata.streaming import Cache
        from litdata.streaming.downloader import get_downloader
    except ImportError as error:
        raise UserError(
            f"Writing shards, and reading them from an object store, needs the package litdata ({error}): "
            'pip install "stylegan_lightning[streaming]"'
        ) from error
    return Cache, get_downloader


# ---------------------------------------------------------------------------------------------- images


def encode(image: np.ndarray) -> bytes:
    """uint8 [1, 3 or 4, H, W] -> WebP, exact in every pixel and the smallest that is fast to read."""
    file = io.BytesIO()
    picture = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "WEBP", lossless=True, method=0, quality=0, exact=True)
    return file.getvalue()


def decode(data: Any, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """The image [channels, H, W] from its bytes. Raises ValueError unless it has `size` (width, height), before it is
    decoded."""
    if size is not None and (found := webp_size(data)) not in (size, (0, 0)):
        raise ValueError(f"it holds an image of {found[0]:,} x {found[1]:,} pixels instead of {size[0]} x {size[1]}")
    with open_picture(data, ("WEBP",)) as picture:
        pixels = np.asarray(picture.convert("RGBA" if channels == 4 else "RGB"))
    return pixels.transpose(2, 0, 1)[:channels]  # grey is stored as three equal channels


# ---------------------------------------------------------------------------------------------- writing


def write_shards(
    source: ImageSource,
    folder: str | Path,
    *,
    chunk_mb: float = 64,
    seed: int = 0,
    on_error: str = "skip",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes all images of `source` into `folder`, in the order that `seed` draws; complete or not at all.

    chunk_mb: what is fetched at a time. on_error: as in `prepare`. progress: called with (images done, images in all).
    """
    check_choice("on_error", on_error, ("skip", "raise"))
    if source.channels not in (1, 3, 4):
        raise UserError(f"Shards hold images of 1, 3 or 4 channels; {source.name} has {source.channels}.")
    if not 0 < chunk_mb <= 2000:  # LitData counts bytes in 32 bits
        raise UserError(f"chunk_mb must be a number above 0, at most 2000; got {chunk_mb:g}.")
    if "://" in str(folder):
        raise UserError(f"Shards are written to a folder: give one and copy it to {folder} when it is complete.")
    final = Path(folder).expanduser().absolute()
    if final.exists():
        raise UserError(f"{final} exists already: choose another folder, or remove it.")
    check_labels(source.name, source.labels(), source.label_names, len(source))
    cache, _ = _litdata()
    temp = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temp = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
        order = np.random.default_rng(seed).permutation(len(source))
        start = time.perf_counter()
        tally = _write_images(source, order, cache(str(temp), chunk_bytes=int(chunk_mb * 1e6)), progress)
        if tally.skipped and (on_error == "raise" or len(tally.kept) < 2):
            raise UserError(f"{source.name}: {refusal(tally.skipped, len(source))}")
        _write_rest(source, temp, tally, f"shards {source.fingerprint} {seed}", time.perf_counter() - start)
        temp.chmod(0o755)  # mkdtemp makes it private
        os.rename(temp, final)
    except BaseException as error:
        if temp is not None:
            shutil.rmtree(temp, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"Cannot write shards to {final}: {error.strerror or error}.") from error
        raise
    return final


def _write_images(
    source: ImageSource, order: np.ndarray, writer: Any, progress: Callable[[int, int], None] | None
) -> Tally:
    resolution, read_with_info = source.resolution, getattr(source, "read_with_info", None)
    none = np.zeros(source.channels, np.int64)
    tally = Tally(none.copy(), none.copy(), resolution**2)

    def work(index: int) -> tuple[bytes, Chunk]:
        try:
            image, info = read_with_info(index) if read_with_info else (source.read(index), None)
        except ImageError as err:
            skipped = getattr(err, "file", f"image {index}"), getattr(err, "reason", str(err))
            return b"", Chunk(np.zeros(0), [], [skipped], [], none, none)
        sums, squares = (x.sum((1, 2), dtype=np.int64) for x in (image, np.square(image, dtype=np.uint16)))
        return encode(image), Chunk(np.zeros(0), [index], [], [info] if info else [], sums, squares)

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(order), 256):  # of results that wait to be written
            for data, chunk in pool.map(work, order[start : start + 256].tolist()):
                if data:
                    writer[len(tally.kept)] = data
                tally.add(chunk)
            if progress:
                progress(min(start + 256, len(order)), len(order))
    writer.done()
    writer.merge()
    return tally


def _write_rest(source: ImageSource, folder: Path, tally: Tally, origin: str, seconds: float) -> None:
    targets = np.ascontiguousarray(source.labels()[tally.kept], np.float32)
    np.save(folder / TARGETS, targets, allow_pickle=False)
    chunks = json.loads((folder / "index.json").read_text())["chunks"]
    meta = {
        "format": FORMAT,
        "name": source.name,
        "fingerprint": hashlib.sha256(origin.encode() + np.array(tally.kept).tobytes()).hexdigest(),
        "shape": [source.channels, source.resolution, source.resolution],
        "label_names": list(source.label_names),
        "stats": statistics(tally, targets, source.label_names, seconds),
        "chunks": [[c["filename"], (folder / c["filename"]).stat().st_size, c["chunk_size"]] for c in chunks],
    }
    (folder / META).write_text(json.dumps(meta))


# ---------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Shards:
    """Where shards are, and what they must hold: the `source` of data=streamed."""

    path: str
    resolution: int
    channels: int = 3
    labels: bool = False


class ShardFiles:
    """The files of one set of shards; in several processes and threads at once.

    A folder is read where it is; of the other PLACES, chunks are kept below `cache_dir`, those used last, up to
    `max_cache`.
    """

    def __init__(self, path: str, cache_dir: str | Path | None = None, max_cache: str | None = None) -> None:
        if "://" in path and not path.startswith(STORES):
            raise UserError(f"{path} is no place for shards: give {PLACES}.")
        self.remote = path.startswith((*STORES, "local:"))
        self.root = path.rstrip("/") if self.remote else str(Path(path).expanduser().absolute())
        self.mounted = None if "://" in path else Path(self.root.removeprefix("local:")).expanduser()
        """Where every file can be opened; None for an object store."""
        self._process: _Process | None = None
        content = self._content(META)
        self.meta = _checked(content, self.root)
        self.names = [name for name, _, _ in self.meta["chunks"]]
        self.sizes = [size for _, size, _ in self.meta["chunks"]]
        self.counts = np.array([count for _, _, count in self.meta["chunks"]], np.int64)
        self.first = np.cumsum(self.counts) - self.counts
        self.limit = size_in_bytes(max_cache) if self.remote else None
        if self.mounted is not None:
            self._check(self.mounted)
        if self.remote:
            cache = Path(cache_dir).expanduser().absolute() if cache_dir else default_cache_dir()
            self.folder = cache / "streamed" / hashlib.sha256(content).hexdigest()[:16]
            with explain(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}

    def _own(self) -> _Process:
        """Connections and threads, which a forked process must not share with its parent."""
        if self._process is None or self._process.pid != os.getpid():
            self._process = _Process(self.root, self.mounted is None)
        return self._process

    def _check(self, folder: Path) -> None:
        for name, size in zip(self.names, self.sizes, strict=True):
            found = (folder / name).stat().st_size if (folder / name).exists() else None
            if found != size:
                what = "is missing" if found is None else f"has {found} bytes instead of {size}"
                raise UserError(f"The shards in {self.root} are damaged: {name} {what}. Copy or write them again.")

    def _copy(self, name: str, file: IO[bytes], most: int) -> None:
        """From where the shards are. Raises UserError where that cannot be done, or there is more than `most`."""
        try:
            if self.mounted is None:
                self._own().downloader.download_fileobj(f"{self.root}/{name}", file)
            else:
                found = os.stat(self.mounted / name)
                if not stat.S_ISREG(found.st_mode):
                    raise ValueError("it is not a regular file")
                if found.st_size > most:
                    raise ValueError(f"it has {found.st_size:,} bytes; at most {most:,} are read")
                with open(self.mounted / name, "rb") as original:
                    shutil.copyfileobj(original, file)
        except UserError:
            raise
        except Exception as error:  # a network and its libraries raise nearly any type
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # of the cache
            raise _unreadable(self.root, name, error) from error

    def _content(self, name: str) -> bytes:
        file = _Bounded()
        self._copy(name, file, MOST_META)
        return file.getvalue()

    def _keep(self, name: str, size: int | None = None, most: int = MOST_CHUNK) -> Path:
        """A copy of the file in the cache, whole or not at all. The caller holds the lock."""
        path, part = self.folder / name, self.folder / f"{name}.part"
        with open(part, "wb") as file:
            self._copy(name, file, most)
        if size not in (None, part.stat().st_size):
            raise UserError(f"{self.root}/{name} is damaged: it should have {size} bytes. Copy it again.")
        os.replace(part, path)
        return path

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One thread of all processes at a time changes what is in the cache."""
        with explain(self.folder), open(self.folder / ".lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def labels(self) -> np.ndarray:
        """float32 [N, c], mapped into memory."""
        shape = int(self.counts.sum()), len(self.meta["label_names"])
        if self.remote:
            with self._locked():
                path = self.folder / TARGETS
                path = path if path.exists() else self._keep(TARGETS, most=4 * math.prod(shape) + (1 << 16))
        else:
            path = Path(self.root) / TARGETS
        try:
            if not path.is_file():
                raise ValueError("it is missing" if not path.exists() else "it is not a regular file")
            found = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except Exception as error:  # its header is Python text
            raise UserError(f"{path} is damaged ({error}): copy the shards again.") from error
        if found.shape != shape or found.dtype != np.float32:
            raise UserError(f"{path} is damaged: {found.dtype} {found.shape}, not {shape}. Copy the shards again.")
        return found

    def read(self, chunk: int, rows: np.ndarray) -> list[Any]:
        """Items of a chunk, as bytes. Where it is not in the cache, a few are read from where it is."""
        name, few = self.names[chunk], len(rows) < min(FEW, self.counts[chunk])
        if not self.remote or (few and not (self.folder / name).exists()):
            try:
                if self.mounted is not None:
                    return _items(np.memmap(self.mounted / name, np.uint8, "r"), rows)
                return [self._item(name, row) for row in rows.tolist()]
            except Exception as error:
                raise _unreadable(self.root, name, error) from error
        while True:
            with contextlib.suppress(FileNotFoundError):  # another process has just needed the room
                content = np.memmap(self.fetch(chunk), np.uint8, "r")
                try:
                    return _items(content, rows)
                except ValueError as error:
                    raise _unreadable(self.root, name, error) from error

    def _item(self, name: str, row: int) -> bytes:
        """One item of a chunk that stays in its store."""
        address, get = f"{self.root}/{name}", self._own().downloader.download_bytes
        start, end = np.frombuffer(get(address, 4 * (1 + row), 8, ""), np.uint32).tolist()
        _check_place(row, start, end, self.sizes[self.names.index(name)])
        return get(address, start + 4, end - start - 4, "")

    def fetch(self, chunk: int) -> Path:
        """The file of a chunk in the cache, which it enters for those that were used longest ago."""
        path = self.folder / self.names[chunk]
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # used now
            return path
        with self._locked():
            if not path.exists():
                self._make_room(self.sizes[chunk])
                self._keep(path.name, self.sizes[chunk])
        return path

    def _make_room(self, needed: int) -> None:
        for left in self.folder.glob("*.part"):  # of a process that was killed: nobody else holds the lock
            left.unlink()
        found = {path: path.stat() for path in self.folder.glob("chunk-*.bin")}
        excess = sum(f.st_size for f in found.values()) + needed - (self.limit or sys.maxsize)
        for path in sorted(found, key=lambda p: found[p].st_mtime_ns):
            if excess <= 0:
                break
            path.unlink()
            excess -= found[path].st_size

    def fetch_soon(self, chunks: Iterable[int]) -> None:
        """In the background, one at a time. What fails is tried again when it is needed."""
        own = self._own()
        for chunk in chunks:
            if chunk not in own.coming and not (self.folder / self.names[chunk]).exists():
                own.coming.add(chunk)
                own.fetcher.submit(self._fetch_quietly, own, chunk)

    def _fetch_quietly(self, own: _Process, chunk: int) -> None:
        with contextlib.suppress(UserError):
            self.fetch(chunk)
        own.coming.discard(chunk)

    def in_threads(self, work: Callable[..., None], *values: Sequence[Any]) -> None:
        """`work` of the first values, of the second ones, ..."""
        for _ in self._own().readers.map(work, *values):
            pass


class _Process:
    """What each process has for itself."""

    def __init__(self, root: str, store: bool) -> None:
        self.pid, self.coming = os.getpid(), set[int]()
        self.readers, self.fetcher = ThreadPoolExecutor(THREADS), ThreadPoolExecutor(1)
        self.downloader: Any = _litdata()[1](root, "", []) if store else None


def _unreadable(root: str, name: str, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    how = ". Shards are written with python -m stylegan_lightning.data.streamed SOURCE OUT --resolution ..."
    return UserError(f"{root}/{name} cannot be read: {reason}{how if name == META else ''}")


def _items(content: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Of a LitData chunk: the number of items, where each starts and the last ends; an item is its length and bytes."""
    count = int(content[:4].view(np.uint32)[0])
    if 4 * (2 + count) > len(content) or int(rows.max(initial=0)) >= count:
        raise ValueError(f"it says that it holds {count:,} images")
    starts, items = content[4 : 4 * (2 + count)].view(np.uint32), []
    for row in rows.tolist():
        start, end = starts[row : row + 2].tolist()
        _check_place(row, start, end, len(content))
        items.append(content[start + 4 : end])
    return items


def _check_place(row: int, start: int, end: int, size: int) -> None:
    """Raises ValueError unless the item lies in a chunk of that size."""
    if not start + 4 <= end <= size:
        raise ValueError(f"its image {row} lies at bytes {start:,} to {end:,} of {size:,}")


class _Bounded(io.BytesIO):
    """Takes at most MOST_META bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > MOST_META:
            raise ValueError(f"it has more than {MOST_META:,} bytes, which is the most that is read")
        return super().write(data)


def _checked(content: bytes, root: str) -> dict[str, Any]:
    """The content of shards.json. Raises UserError where it is not what `write_shards` writes."""
    try:
        meta = json.loads(content)
        kinds = {"name": str, "fingerprint": str, "shape": list, "label_names": list, "stats": dict, "chunks": list}
        whole = meta["format"] == FORMAT and all(isinstance(meta[key], kind) for key, kind in kinds.items())
        for name, size, count in meta["chunks"]:
            whole &= re.fullmatch(r"chunk-[\w.-]+\.bin", name) is not None and type(size) is type(count) is int
            whole &= 0 < size <= MOST_CHUNK and 0 < LEAST * count < size
        channels, height, width = meta["shape"]
        whole &= all(type(x) is int for x in meta["shape"]) and all(isinstance(x, str) for x in meta["label_names"])
        if not (
            whole and are_stats(meta["stats"]) and meta["chunks"] and channels in (1, 3, 4) and height == width > 0
        ):
            raise ValueError("values that cannot be")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{root}/{META} is damaged, or of another version of stylegan_lightning ({type(error).__name__}: {error}). "
            "Copy or write the shards again."
        ) from error
    return meta


class ShardImages:
    """uint8 [N, C, resolution, resolution] to be indexed like an array, from images in shards of that size or more."""

    def __init__(self, files: ShardFiles, resolution: int) -> None:
        self.files = files
        self.shape = (int(files.counts.sum()), files.meta["shape"][0], resolution, resolution)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.asarray(index)
        out = np.empty((len(rows), *self.files.meta["shape"]), np.uint8)

        def fill(chunk: int, here: np.ndarray) -> None:
            for place, data in zip(here, self.files.read(chunk, rows[here] - self.files.first[chunk]), strict=True):
                out[place] = self._decoded(chunk, data)

        chunks = self.files.first.searchsorted(rows, side="right") - 1
        distinct = np.unique(chunks).tolist()
        self.files.in_threads(fill, distinct, [np.flatnonzero(chunks == c) for c in distinct])
        return out if out.shape[-1] == self.shape[-1] else box_reduce(out, self.shape[-1])

    def _decoded(self, chunk: int, data: Any) -> np.ndarray:
        try:
            channels, height, width = self.files.meta["shape"]
            return decode(data, channels, (width, height))
        except Exception as error:  # a damaged file makes Pillow raise nearly any type
            raise UserError(f"{self.files.root}/{self.files.names[chunk]} is damaged: {error}.") from error


class StreamedDataset(PreparedDataset):
    """Shards as a data set. Training reads `window_chunks` chunks at a time; lower resolutions are averaged as read."""

    def __init__(
        self,
        shards: Shards,
        cache_dir: str | Path | None = None,
        *,
        max_cache: str | None = "10GB",
        window_chunks: int = 16,
        mirror: bool = False,
    ) -> None:
        files = ShardFiles(shards.path, cache_dir, max_cache)
        meta, wanted = files.meta, [shards.channels, shards.resolution, shards.resolution]
        if meta["shape"] != wanted:
            channels, resolution, _ = meta["shape"]
            raise UserError(
                f"The shards in {files.root} hold images of {resolution} pixels and {channels} channels: set "
                f"data.resolution={resolution} data.channels={channels}, or write them again."
            )
        needed = min(2 * window_chunks * max(files.sizes), sum(files.sizes))
        if files.limit is not None and files.limit < needed:
            raise UserError(
                f"data.max_cache={max_cache} is too little for data.window_chunks={window_chunks} and the chunks that "
                f"follow: {math.ceil(needed / 1e6)}MB or more. Raise it, or take a smaller window or smaller chunks."
            )
        if shards.labels and not meta["label_names"]:
            raise UserError(f"The shards in {files.root} have no labels: set data.labels=false, or write them again.")
        count, resolution = int(files.counts.sum()), shards.resolution
        super().__init__(
            ShardImages(files, resolution),  # type: ignore[arg-type]
            files.labels() if shards.labels else np.zeros((count, 0), np.float32),
            name=meta["name"],
            fingerprint=meta["fingerprint"],
            label_names=meta["label_names"] if shards.labels else (),
            mirror=mirror,
            stats=meta["stats"] if shards.labels else {**meta["stats"], "labels": {}},
        )
        self.files, self.window_chunks = files, window_chunks
        halves = [resolution >> k for k in range(1, resolution.bit_length()) if resolution % (1 << k) == 0]
        self.levels = {r: ShardImages(files, r) for r in halves}  # type: ignore[misc]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "targets": npy_file(self.targets) or self.targets}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(state["targets"], Path):
            self.targets = self.files.labels()

    def order(self, seed: int) -> ChunkOrder:
        """In which training shows the images."""
        return ChunkOrder(self.files.counts.tolist(), seed, self.window_chunks, self.mirror)

    def fetch(self, items: Sequence[int], soon: Sequence[int]) -> None:
        if self.files.remote:
            for chunk in self._chunks(items):
                self.files.fetch(chunk)
            self.files.fetch_soon(self._chunks(soon))

    def _chunks(self, items: Sequence[int]) -> list[int]:
        rows = np.asarray(items, np.int64) % len(self.images)
        return np.unique(self.files.first.searchsorted(rows, side="right") - 1).tolist()


# ---------------------------------------------------------------------------------------------- command


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stylegan_lightning.data.streamed",
        description="Write a folder or zip of images as shards for data=streamed.",
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a folder tree or a zip file of images, as for data=image_folder")
    add("out", metavar="OUT", help="a new folder; copy it to an object store when it is complete")
    add("--resolution", type=int, required=True)
    add("--channels", type=int, default=3, choices=(1, 3, 4))
    add("--labels", default="none", choices=LABELS)
    add("--crop", default="center", choices=CROPS)
    add("--filter", default="lanczos", choices=tuple(FILTERS))
    add("--background", default="#ffffff", metavar="COLOUR")
    add("--chunk-mb", type=float, default=64, help="megabytes that are fetched at a time; default: 64")
    add("--follow-links", action="store_true", help="also read what links lead to outside of the folder")
    add("--on-error", default="skip", choices=("skip", "raise"), help="what to do with unreadable images")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    keys = ("resolution", "channels", "crop", "filter", "background", "labels", "follow_links")
    options = {key: getattr(given, key) for key in keys}
    try:
        source = ImageFolder(given.source, **options)
        out = write_shards(
            source,
            given.out,
            chunk_mb=given.chunk_mb,
            on_error=given.on_error,
            progress=lambda done, total: print(f"\rwriting shards {done}/{total}", end="", file=sys.stderr, flush=True),
        )
    except UserError as error:
        text = f"{error.what}. Add --follow-links" if isinstance(error, OutsideLinks) else str(error)
        print("error: " + printable(text, keep="\n"), file=sys.stderr)
        raise SystemExit(2) from None
    files = ShardFiles(str(out))
    count, skipped = int(files.counts.sum()), len(files.meta["stats"]["skipped"])
    print(
        f"\n{out}: {count} images in {len(files.names)} chunks, {sum(files.sizes) / 1e6:.1f} MB"
        f"{f', {skipped} images left out' if skipped else ''}. Train on them with\n  python train.py data=streamed "
        f"data.path={out} data.resolution={given.resolution} data.channels={given.channels}"
    )


if __name__ == "__main__":
    main()
