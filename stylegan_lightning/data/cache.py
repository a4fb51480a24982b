"""Prepares a source once into a memory-mapped uint8 cache that every later run and every rank shares.

    <cache_dir>/<name>-<key>/images.npy      uint8 [N, C, R, R]
                             labels.npy      float32 [N, c]
                             attributes.npz  float32 [N] by name
                             meta.json       fingerprint, label names, summary, skipped files
                             images_<r>.npy  smaller versions, for growing runs only (`levels.py`)

A cache is written under a temporary name beside its final one and renamed when complete, under a file lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import multiprocessing
import os
import re
import shutil
import tempfile
import time
import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from stylegan_lightning.data.base import ImageError, ImageSource, PreparedDataset
from stylegan_lightning.data.labels import check_labels
from stylegan_lightning.data.summary import Chunk, Tally, refusal, statistics
from stylegan_lightning.errors import UserError

CACHE_FORMAT = 1
WORTH_WORKERS = 6.0
"""Seconds of reading above which worker processes save more than they cost to start."""
CHUNK_BYTES = 8 << 20
_log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


def default_cache_dir() -> Path:
    """$STYLEGAN_LIGHTNING_CACHE, else ~/.cache/stylegan_lightning."""
    chosen = os.environ.get("STYLEGAN_LIGHTNING_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "stylegan_lightning"


def prepare(
    source: ImageSource,
    cache_dir: str | Path | None = None,
    *,
    on_error: str = "skip",
    workers: int | None = None,
    mirror: bool = False,
    progress: Progress | None = None,
    made_in: str | Path | None = None,
) -> PreparedDataset:
    """The source as a memory-mapped data set; read image by image only when no earlier run has done so.

    on_error: "skip" leaves unreadable images out, named in `stats["skipped"]`; "raise" is a UserError.
    workers: processes that read images; None is one per CPU core, or none when reading takes seconds only.
    progress: called with (images done, images in all).
    made_in: another directory, where it may have been prepared already; nothing is written there.
    Safe to call from several processes at once: one prepares, the others wait. With several workers, a script
    that calls this at its top level needs the usual `if __name__ == "__main__":`.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # would wait for its own parent
        raise RuntimeError('prepare() ran while a worker imported the script: guard it by __name__ == "__main__"')
    if on_error not in ("skip", "raise"):
        raise UserError(f"on_error must be skip or raise; got {on_error!r}.")
    if workers is not None and workers < 0:
        raise UserError(f"workers must be 0 or more, or null for one per CPU core; got {workers}.")
    root = (Path(cache_dir).expanduser() if cache_dir else default_cache_dir()).absolute()
    final = root / cache_name(source)
    dataset = _load(final, mirror)
    if dataset is None and made_in:
        dataset = _load(Path(made_in).expanduser() / final.name, mirror)
    if dataset is None:
        with explain(root):
            root.mkdir(parents=True, exist_ok=True)
        with locked(root, final.name):
            dataset = _load(final, mirror)  # another process may have made it while this one waited
            if dataset is None:
                _build(source, final, on_error, workers, progress)
                dataset = _load(final, mirror)
    if dataset is None:
        raise UserError(f"The prepared data in {final} cannot be read back. Choose another data.cache_dir=...")
    if on_error == "raise" and dataset.stats["skipped"]:
        raise UserError(f"{source.name}: {refusal(dataset.stats['skipped'], len(source))}")
    return dataset


def cache_name(source: ImageSource) -> str:
    """Name of the cache's directory: the source's name and a key of its fingerprint and this format."""
    text = f"{CACHE_FORMAT} {source.fingerprint} {source.channels} {source.resolution}"
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9_]+', '-', source.name)[:64].strip('-') or 'images'}-{key}"


def _load(final: Path, mirror: bool) -> PreparedDataset | None:
    """The finished cache, or None when there is none or it is damaged."""
    try:
        meta = json.loads((final / "meta.json").read_text())
        images = np.load(final / "images.npy", mmap_mode="r", allow_pickle=False)
        targets = np.load(final / "labels.npy", allow_pickle=False)
        with np.load(final / "attributes.npz", allow_pickle=False) as stored:
            attributes = {key: stored[key] for key in stored.files}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as err:
        _log.warning("the prepared data in %s is damaged (%s) and will be made again", final, err)
        return None
    return PreparedDataset(
        np.asarray(images),
        targets,
        name=meta["name"],
        fingerprint=meta["fingerprint"],
        label_names=meta["label_names"],
        attributes=attributes,
        mirror=mirror,
        stats=meta["stats"],
    )


@contextlib.contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """Only one process at a time works on the cache `name` in `root`."""
    with explain(root):
        lock = open(root / f".{name}.lock", "a")  # noqa: SIM115 - closed below; the file stays: removing races
    with lock:
        with explain(root):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.info("waiting for another process that prepares %s", name)
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def explain(root: Path) -> Iterator[None]:
    """A disk that is full or not writable becomes one message that says what to change."""
    try:
        yield
    except OSError as err:
        reason = err.strerror or str(err)
        raise UserError(
            f"Cannot write prepared images to {root}: {reason}. Free some space there or choose another "
            f"directory with data.cache_dir=... (or the variable STYLEGAN_LIGHTNING_CACHE)."
        ) from err


def _build(source: ImageSource, final: Path, on_error: str, workers: int | None, progress: Progress | None) -> None:
    """Writes the cache under a temporary name, then renames it. The caller holds the lock."""
    root = final.parent
    for left in root.glob(f".tmp-{final.name}-*"):  # of a run that was killed: nobody else holds the lock
        shutil.rmtree(left, ignore_errors=True)
    check_labels(source.name, source.labels(), source.label_names, len(source))
    shape = (len(source), source.channels, source.resolution, source.resolution)
    _check_space(root, math.prod(shape))
    with explain(root):
        temp = Path(tempfile.mkdtemp(prefix=f".tmp-{final.name}-", dir=root))
    try:
        tally, seconds = _write_images(source, temp / "images.npy", shape, on_error, workers, progress)
        if len(tally.kept) < 2:
            raise UserError(f"{source.name}: training needs at least 2 images; {refusal(tally.skipped, len(source))}")
        with explain(root):
            _write_rest(source, temp, tally, seconds)
            temp.chmod(0o755)  # mkdtemp makes it private; a cache may be shared
            if final.exists():
                shutil.rmtree(final)
            os.rename(temp, final)
            _sync(root)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise


def _check_space(root: Path, needed: int) -> None:
    with explain(root):
        free = shutil.disk_usage(root).free
    if free < needed:
        raise UserError(
            f"The prepared images need {needed / 1e9:.1f} GB and {root} has {free / 1e9:.1f} GB free. Choose "
            f"another directory with data.cache_dir=..., a lower resolution or fewer images."
        )


def _write_images(
    source: ImageSource,
    path: Path,
    shape: tuple[int, ...],
    on_error: str,
    workers: int | None,
    progress: Progress | None,
) -> tuple[Tally, float]:
    """Appends chunks in order (a plain write reports a full disk; a memory map would crash)."""
    tally = Tally(np.zeros(shape[1], np.int64), np.zeros(shape[1], np.int64), math.prod(shape[2:]))
    start, root = time.perf_counter(), path.parent.parent
    with contextlib.ExitStack() as stack:
        with explain(root):
            file = stack.enter_context(open(path, "wb"))
            header = _write_header(file, shape)
        for stop, chunk in stack.enter_context(contextlib.closing(_chunks(source, workers))):
            tally.add(chunk)
            if on_error == "raise" and tally.skipped:
                raise UserError(f"{source.name}: {refusal(tally.skipped, shape[0])}")
            with explain(root):
                file.write(chunk.images.data)
            if progress:
                progress(stop, shape[0])
        with explain(root):
            file.seek(0)
            if _write_header(file, (len(tally.kept), *shape[1:])) != header:
                raise RuntimeError("the .npy header changed its length")
            file.flush()
            os.fsync(file.fileno())
    return tally, time.perf_counter() - start


def _write_header(file: Any, shape: tuple[int, ...]) -> int:
    """Its length does not depend on the first dimension: numpy pads it for exactly this use."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _write_rest(source: ImageSource, temp: Path, tally: Tally, seconds: float) -> None:
    kept = np.array(tally.kept)
    targets = np.ascontiguousarray(source.labels()[kept], np.float32)
    np.save(temp / "labels.npy", targets, allow_pickle=False)
    attributes: dict[str, Any] = {k: np.asarray(v, np.float32)[kept] for k, v in source.attributes().items()}
    np.savez(temp / "attributes.npz", **attributes)
    meta = {
        "name": source.name,
        "fingerprint": source.fingerprint,
        "label_names": list(source.label_names),
        "stats": statistics(tally, targets, source.label_names, seconds),
    }
    (temp / "meta.json").write_text(json.dumps(meta, indent=1))
    for file in temp.iterdir():
        _sync(file)
    _sync(temp)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _chunks(source: ImageSource, workers: int | None) -> Generator[tuple[int, Chunk], None, None]:
    """(images done, chunk) in order. The first chunk is read here; its time tells whether workers pay."""
    total = len(source)
    step = max(1, min(64, CHUNK_BYTES // (source.channels * source.resolution**2)))
    starts, begin = deque(range(0, total, step)), time.perf_counter()
    first = _read_chunk(source, starts.popleft(), step)
    yield min(step, total), first
    if workers is None:
        slow = (time.perf_counter() - begin) * len(starts) > WORTH_WORKERS
        workers = _cores() if slow else 0
    workers = min(workers, len(starts))
    if workers > 1 and not multiprocessing.current_process().daemon:
        try:
            for chunk in _parallel(source, list(starts), step, workers):
                yield min(starts.popleft() + step, total), chunk
        except BrokenProcessPool:
            warnings.warn("worker processes ended early; preparing the rest in this one", stacklevel=2)
    for start in starts:
        yield min(start + step, total), _read_chunk(source, start, step)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parallel(source: ImageSource, starts: list[int], step: int, workers: int) -> Generator[Chunk, None, None]:
    """Workers come from a clean server process: forking this one is unsafe once torch has threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, type(source).__module__])
    pool = ProcessPoolExecutor(workers, context, _start_worker, (source,))
    try:
        waiting = deque(pool.submit(_work, start, step) for start in starts[: 3 * workers])
        for start in starts[3 * workers :]:
            yield waiting.popleft().result()
            waiting.append(pool.submit(_work, start, step))
        for result in waiting:
            yield result.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker_source: ImageSource | None = None


def _start_worker(source: ImageSource) -> None:
    global _worker_source
    _worker_source = source


def _work(start: int, step: int) -> Chunk:
    assert _worker_source is not None
    return _read_chunk(_worker_source, start, step)


def _read_chunk(source: ImageSource, start: int, step: int) -> Chunk:
    shape = (source.channels, source.resolution, source.resolution)
    read = getattr(source, "read_with_info", None)
    images: list[np.ndarray] = []
    chunk = Chunk(np.zeros(0), [], [], [], np.zeros(0), np.zeros(0))
    for index in range(start, min(start + step, len(source))):
        try:
            image, info = read(index) if read else (source.read(index), None)
        except ImageError as err:
            chunk.skipped.append((getattr(err, "file", f"image {index}"), getattr(err, "reason", str(err))))
            continue
        if image.shape != shape or image.dtype != np.uint8:
            raise TypeError(f"{source.name} image {index}: {image.dtype} {image.shape}, not uint8 {shape}")
        images.append(image)
        chunk.rows.append(index)
        chunk.infos += [info] if info else []
    chunk.images = np.stack(images) if images else np.zeros((0, *shape), np.uint8)
    chunk.sums = chunk.images.sum((0, 2, 3), dtype=np.int64)
    chunk.squares = np.square(chunk.images, dtype=np.uint16).sum((0, 2, 3), dtype=np.int64)
    return chunk
