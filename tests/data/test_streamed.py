"""Shards: what is written comes back, in a local order that resumes exactly, through a cache that stays small."""

from __future__ import annotations

import http.server
import json
import multiprocessing
import pickle
import re
import shutil
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan_lightning.data.base import ImageError, PreparedDataset
from stylegan_lightning.data.datamodule import StageDataModule
from stylegan_lightning.data.levels import add_levels
from stylegan_lightning.data.sampler import BatchDataset, ChunkOrder, StageBatchSampler
from stylegan_lightning.data.streamed import (
    META,
    Shards,
    StreamedDataset,
    decode,
    encode,
    main,
    size_in_bytes,
    write_shards,
)
from stylegan_lightning.data.summary import summary_text
from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.preset import get_preset
from stylegan_lightning.metrics.real_stats import real_images
from stylegan_lightning.schedule import FixedSchedule
from stylegan_lightning.training.checkpoint import read_checkpoint
from tests.conftest import TINY

COUNT = 150


class Noise:
    """Labelled noise; the listed images are unreadable."""

    name, fingerprint, label_names, resolution = "noise", "f", ("a", "b", "c"), 8

    def __init__(self, channels=3, bad=(), count=COUNT):
        self.channels, self.bad = channels, bad
        self.images = np.random.default_rng(0).integers(0, 256, (count, channels, 8, 8), np.uint8)

    def __len__(self):
        return len(self.images)

    def read(self, index):
        if index in self.bad:
            raise ImageError(f"file {index} is broken")
        return self.images[index]

    def labels(self):
        return np.eye(3, dtype=np.float32)[np.arange(len(self)) % 3]

    def attributes(self):
        return {}


ORDER = np.random.default_rng(0).permutation(COUNT)
"""In which the shards hold the images."""
IMAGES = Noise().images[ORDER]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Chunks of about twelve images."""
    return write_shards(Noise(), tmp_path_factory.mktemp("shards") / "noise", chunk_mb=0.004)


def opened(path, **options) -> StreamedDataset:
    given = {key: options.pop(key) for key in ("resolution", "channels", "labels") if key in options}
    return StreamedDataset(Shards(**{"path": str(path), "resolution": 8, "labels": True} | given), **options)


def kept(folder: Path) -> int:
    """Bytes of chunks in a cache, whole or not."""
    sizes = []
    for path in folder.glob("chunk-*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return sum(sizes)


def expected(items) -> np.ndarray:
    rows = np.asarray(items)
    images = IMAGES[rows % COUNT].copy()
    images[rows >= COUNT] = images[rows >= COUNT][..., ::-1]
    return images


# ---------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_written_images_come_back_exactly(channels):
    images = np.random.default_rng(1).integers(0, 256, (5, channels, 16, 16), np.uint8)
    images[0, -1] = 0  # transparent, or black
    images[1, -1] = 255  # opaque
    for image in images:
        assert np.array_equal(decode(encode(image), channels), image)


def test_shards_hold_all_images_and_labels_in_a_shuffled_order(shards):
    data = opened(shards)
    images, c = data.batch(range(COUNT))
    assert np.array_equal(images.numpy(), IMAGES) and np.array_equal(c.numpy(), Noise().labels()[ORDER])
    assert (len(data), data.img_resolution, data.img_channels, data.c_dim) == (COUNT, 8, 3, 3)
    assert (data.name, data.label_names, data.attributes) == ("noise", ("a", "b", "c"), {})
    assert len(data.files.names) > 10 and data.files.counts.sum() == COUNT
    assert data.stats["mean"] == pytest.approx(IMAGES.astype(float).mean((0, 2, 3)))
    assert "150 images of 3x8x8" in summary_text(data) and "3 classes (a: 50, b: 50, c: 50)" in summary_text(data)


def test_litdata_reads_the_shards_too(shards):
    litdata = pytest.importorskip("litdata")
    theirs = litdata.StreamingDataset(str(shards))
    assert len(theirs) == COUNT and np.array_equal(decode(bytes(theirs[77]), 3), IMAGES[77])


def test_unreadable_images_are_left_out_and_named(tmp_path):
    write_shards(Noise(bad=(3, 70)), tmp_path / "s", chunk_mb=1)
    data = opened(tmp_path / "s")
    rows = ORDER[~np.isin(ORDER, (3, 70))]
    assert np.array_equal(data.batch(range(148))[0].numpy(), Noise().images[rows])
    assert np.array_equal(data.targets, Noise().labels()[rows])
    assert "file 3 is broken" in summary_text(data) and data.fingerprint != opened_fingerprint(tmp_path)
    with pytest.raises(UserError, match="2 of 150 images cannot be read"):
        write_shards(Noise(bad=(3, 70)), tmp_path / "t", on_error="raise")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["all", "s"]


def opened_fingerprint(tmp_path) -> str:
    return opened(write_shards(Noise(), tmp_path / "all", chunk_mb=1)).fingerprint


def test_nothing_is_left_of_shards_that_could_not_be_finished(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stylegan_lightning.data.streamed._write_rest", full)
    with pytest.raises(UserError, match="No space left"):
        write_shards(Noise(), tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_what_training_reads(tmp_path, capsys):
    for i in range(6):
        (tmp_path / "in" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 12), (40 * i, 0, 0)).save(tmp_path / "in" / "ab"[i % 2] / f"{i}.png")
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), "--resolution", "8", "--labels", "folders"]
    main([*arguments, "--channels", "1", "--chunk-mb", "0.0002"])
    out = capsys.readouterr().out
    assert "6 images in" in out and f"data=streamed data.path={tmp_path}/out data.resolution=8 data.channels=1" in out
    data = opened(tmp_path / "out", channels=1)
    assert data.label_names == ("a", "b") and data.targets.sum(0).tolist() == [3, 3] and len(data.files.names) > 1
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "exists already" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- order

SIZES = [13] * 11 + [7]


def chunks_of(items) -> np.ndarray:
    return np.searchsorted(np.cumsum(SIZES), np.asarray(items) % COUNT, side="right")


def test_each_pass_shows_every_image_once_and_differs():
    order = ChunkOrder(SIZES, 3, window=4)
    stream = np.concatenate([order.items(i, 7) for i in range(0, 3 * COUNT, 7)])[: 3 * COUNT].reshape(3, COUNT)
    assert (np.sort(stream) == np.arange(COUNT)).all()
    assert len({tuple(p) for p in stream}) == 3
    assert not np.array_equal(ChunkOrder(SIZES, 4, window=4).items(0, COUNT), stream[0])


def test_mirrored_images_come_once_each_way_in_two_passes():
    passes = ChunkOrder(SIZES, 3, window=4, mirror=True).items(0, 4 * COUNT).reshape(4, COUNT)
    assert (np.sort(passes % COUNT) == np.arange(COUNT)).all()
    assert (np.sort(passes[:2].ravel()) == np.arange(2 * COUNT)).all()
    flipped = [set(p[p >= COUNT] - COUNT) for p in passes]
    assert 40 < len(flipped[0]) < 110 and flipped[0] != flipped[2]


@pytest.mark.parametrize("window", [1, 4, 30, 400])
def test_the_order_depends_on_the_position_alone(window):
    whole = ChunkOrder(SIZES, 3, window, mirror=True).items(0, 500)
    for start, count in [(0, 1), (149, 2), (155, 100), (290, 30), (499, 1)]:
        np.testing.assert_array_equal(
            ChunkOrder(SIZES, 3, window, mirror=True).items(start, count), whole[start : start + count]
        )


def test_few_chunks_are_in_use_at_a_time():
    stream = chunks_of(ChunkOrder(SIZES, 3, window=4).items(0, COUNT))
    for start in range(0, COUNT - 28, 4):
        assert len(set(stream[start : start + 28])) <= 8  # seven images of each of four lanes
    stays = [np.ptp(np.flatnonzero(stream == c)) for c in range(12)]
    assert np.median(stays) <= 12 * 4  # until its last image, but for a chunk where one lane ends and the next begins
    assert len(set(chunks_of(np.random.default_rng(0).permutation(COUNT)[:28]))) > 8  # as a full shuffle is not


def test_ranks_read_chunks_of_their_own_and_together_one_batch():
    schedule = FixedSchedule(8, total_kimg=0.144, tick_kimg=0.144, batch_size=12, g_lr=1e-3, d_lr=1e-3)

    def batches(rank=0, world=1, nimg=0):
        return list(StageBatchSampler(0, schedule, 5, lambda: nimg, rank, world, order=ChunkOrder(SIZES, 5, 4)))

    whole, ranks = batches(), [batches(rank, 4) for rank in range(4)]
    for number, batch in enumerate(whole):
        assert all(batch.reals[r::4] == ranks[r][number].reals for r in range(4))
        assert all(batch.soon[r::4] == ranks[r][number].soon for r in range(4))
    assert batches(nimg=60) == whole[5:]
    used = [set(chunks_of(np.concatenate([b.reals for b in rank]))) for rank in ranks]
    assert sum(map(len, used)) <= 12 + 3  # but for chunks where one lane ends and the next begins
    for batch, later in zip(whole, whole[2:], strict=False):  # ahead is 24, half a chunk in each lane
        assert batch.soon == later.reals


# ---------------------------------------------------------------------------------------------- cache


def test_a_pass_through_the_cache_fetches_each_chunk_once_and_stays_below_the_limit(shards, tmp_path, monkeypatch):
    data = opened(f"local:{shards}", cache_dir=tmp_path, window_chunks=2, max_cache="17kB", mirror=True)
    fetched, peak, keep = Counter(), [], data.files._keep

    def counted(name, size=None):
        fetched[name] += 1
        path = keep(name, size)
        peak.append(kept(data.files.folder))
        return path

    monkeypatch.setattr(data.files, "_keep", counted)
    order, served = data.order(seed=1), BatchDataset(data)
    sampler = StageBatchSampler(
        0,
        FixedSchedule(8, total_kimg=0.3, tick_kimg=1, batch_size=10, g_lr=1, d_lr=1),
        1,
        lambda: 0,
        order=order,
    )
    for items in sampler:
        img, c, _ = served.__getitems__(items)
        assert np.array_equal(img.numpy(), expected(items.reals))
        assert np.array_equal(c.numpy(), Noise().labels()[ORDER][np.asarray(items.reals) % COUNT])
    data.files._own().fetcher.submit(int).result()
    assert 13_000 < max(peak) <= 17_000 < sum(data.files.sizes)
    assert set(fetched) == set(data.files.names) and sum(fetched.values()) <= 2 * (12 + 2) + 3  # and what comes next


def _read_share(path, cache, rank, queue):
    data = opened(path, cache_dir=cache, window_chunks=2, max_cache="17kB")
    order = data.order(1)
    same = True
    for start in range(0, 3 * COUNT, 10):
        items = order.items(start, 10)[rank::2]
        data.fetch(items, order.items(start + order.ahead, 10)[rank::2])
        same &= np.array_equal(data.batch(items)[0].numpy(), expected(items))
    queue.put(same)


def test_two_processes_share_a_small_cache(shards, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    path = f"local:{shards}"
    processes = [context.Process(target=_read_share, args=(path, tmp_path, rank, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    most, folder = 0, opened(path, cache_dir=tmp_path).files.folder
    while any(process.is_alive() for process in processes):
        most = max(most, kept(folder))
        time.sleep(0.001)
    assert queue.get(timeout=30) and queue.get(timeout=30)
    assert 0 < most <= 17_000


def test_a_chunk_that_another_process_removed_is_fetched_again(shards, tmp_path):
    data = opened(f"local:{shards}", cache_dir=tmp_path)
    data.fetch(range(13), ())
    path = data.files.folder / "chunk-0-0.bin"
    path.unlink()
    assert np.array_equal(data.batch(range(13))[0].numpy(), IMAGES[:13]) and path.exists()


def test_a_killed_download_is_no_chunk(shards, tmp_path):
    data = opened(f"local:{shards}", cache_dir=tmp_path)
    (data.files.folder / "chunk-0-0.bin.part").write_bytes(b"half")
    assert np.array_equal(data.batch(range(13))[0].numpy(), IMAGES[:13])
    assert not list(data.files.folder.glob("*.part"))


class Store(http.server.BaseHTTPRequestHandler):
    """As much of S3 as reading objects takes."""

    protocol_version, folder, asked = "HTTP/1.1", Path(), Counter()

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(content=False)

    def do_GET(self):
        self.answer(content=True)

    def answer(self, content):
        path = self.folder / self.path.split("?")[0].rsplit("/", 1)[1]
        data = path.read_bytes() if path.exists() else b""
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.asked["part" if part else path.name] += content
        if part:
            first, last = int(part[1]), int(part[2])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[first : last + 1]
        else:
            self.send_response(200 if path.exists() else 404)
        for key, value in {"Content-Length": len(data), "ETag": '"x"', "Accept-Ranges": "bytes"}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if content:
            self.wfile.write(data)


@pytest.fixture
def store(shards, monkeypatch):
    pytest.importorskip("litdata")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Store, "folder", shards)
    monkeypatch.setattr(Store, "asked", Counter())
    for key, value in {
        "ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "ACCESS_KEY_ID": "x",
        "SECRET_ACCESS_KEY": "x",
        "DEFAULT_REGION": "us-east-1",
        "MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(f"AWS_{key}", value)
    yield Store
    server.shutdown()


def test_an_object_store_is_read_by_chunks_for_training_and_by_parts_for_few_images(store, tmp_path):
    data = opened("s3://bucket/some/prefix", cache_dir=tmp_path)
    few = [3, 50, 120]
    assert np.array_equal(data.batch(few)[0].numpy(), IMAGES[few])
    assert store.asked == {META: 1, "labels.npy": 1, "part": 6} and kept(data.files.folder) == 0
    data.fetch(few, [140])
    data.files._own().fetcher.submit(int).result()
    assert np.array_equal(data.batch(few)[0].numpy(), IMAGES[few])
    chunks = [data.files.names[c] for c in data._chunks([*few, 140])]
    assert store.asked == {META: 1, "labels.npy": 1, "part": 6} | dict.fromkeys(chunks, 1)
    copy = pickle.loads(pickle.dumps(data))  # as a worker gets it
    assert np.array_equal(copy.batch(range(COUNT))[0].numpy(), IMAGES) and len(pickle.dumps(data)) < 4000


def test_what_a_store_does_not_have_is_named(store, tmp_path, monkeypatch, shards):
    data = opened("s3://bucket/x", cache_dir=tmp_path / "c")
    shutil.copytree(shards, tmp_path / "s")
    (tmp_path / "s" / "chunk-0-0.bin").unlink()
    (tmp_path / "s" / "chunk-0-1.bin").write_bytes(b"short")
    monkeypatch.setattr(Store, "folder", tmp_path / "s")
    for rows, text in ((range(13), r"s3://bucket/x/chunk-0-0.bin cannot be read.*404"), (range(13, 26), "is damaged")):
        with pytest.raises(UserError, match=text):
            data.batch(rows)
    assert kept(data.files.folder) == len(b"short")  # the part, which the next fetch removes
    monkeypatch.setattr(Store, "folder", tmp_path)
    with pytest.raises(UserError, match=r"s3://bucket/y/shards.json cannot be read.*are written with"):
        opened("s3://bucket/y", cache_dir=tmp_path / "c")


# ---------------------------------------------------------------------------------------------- as a data set


def test_everything_that_a_prepared_set_can_do(shards, tmp_path):
    streamed = opened(f"local:{shards}", cache_dir=tmp_path, mirror=True)
    prepared = PreparedDataset(IMAGES, Noise().labels()[ORDER], name="n", fingerprint="f", mirror=True)
    add_levels(prepared, (2, 4, 8))
    add_levels(streamed, (2, 4, 8))  # which reads nothing
    assert kept(streamed.files.folder) == 0
    items = [3, 149, 153, 299, 0]
    for resolution in (None, 8, 4, 2):
        for a, b in zip(streamed.batch(items, resolution), prepared.batch(items, resolution), strict=True):
            assert torch.equal(a, b)
    first = streamed.first(20)
    assert np.array_equal(first.images, IMAGES[:20]) and not isinstance(first, StreamedDataset)
    preset = get_preset("quick")
    ours, theirs = (real_images(data, preset, 100) for data in (streamed, prepared))
    rows = torch.arange(len(ours))
    assert len(ours) == 100 and torch.equal(ours.batch(rows, "cpu"), theirs.batch(rows, "cpu"))
    assert torch.equal(streamed[7][0], prepared[7][0])


def test_labels_can_be_left_out(shards):
    data = opened(shards, labels=False)
    assert data.c_dim == 0 and data.label_names == () and "unconditional" in summary_text(data)


def test_balance_is_refused(shards):
    schedule = FixedSchedule(8, total_kimg=1, tick_kimg=1, batch_size=8, g_lr=1, d_lr=1)
    with pytest.raises(UserError, match=r"data\.balance must be false"):
        StageDataModule(opened(shards), schedule, 0, balance=True)


def damage(folder: Path, kind: str) -> None:
    meta = json.loads((folder / META).read_text())
    if kind == "missing chunk":
        (folder / "chunk-0-4.bin").unlink()
    elif kind == "short chunk":
        (folder / "chunk-0-4.bin").write_bytes(b"short")
    elif kind == "no index":
        (folder / META).unlink()
    elif kind == "half an index":
        (folder / META).write_text((folder / META).read_text()[:100])
    elif kind == "another format":
        (folder / META).write_text(json.dumps(meta | {"format": 99}))
    elif kind == "a path out of the folder":
        meta["chunks"][0][0] = "../chunk-0-0.bin"
        (folder / META).write_text(json.dumps(meta))
    elif kind == "half the labels":
        (folder / "labels.npy").write_bytes((folder / "labels.npy").read_bytes()[:200])
    elif kind == "other labels":
        np.save(folder / "labels.npy", np.zeros((3, 3), np.float32))


DAMAGES = {
    "missing chunk": "chunk-0-4.bin is missing",
    "short chunk": "chunk-0-4.bin has 5 bytes",
    "no index": "shards.json cannot be read",
    "half an index": "shards.json is damaged",
    "another format": "another version",
    "a path out of the folder": "shards.json is damaged",
    "half the labels": "labels.npy is damaged",
    "other labels": "labels.npy is damaged",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_shards_are_refused_before_work(shards, tmp_path, kind):
    shutil.copytree(shards, tmp_path / "s")
    damage(tmp_path / "s", kind)
    with pytest.raises(UserError, match=re.escape(DAMAGES[kind])):
        opened(tmp_path / "s")


def test_a_damaged_image_is_refused(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "s")
    content = bytearray((tmp_path / "s" / "chunk-0-0.bin").read_bytes())
    content[80:] = bytes(len(content) - 80)
    (tmp_path / "s" / "chunk-0-0.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"chunk-0-0.bin is damaged"):
        opened(tmp_path / "s").batch([0])


def test_what_cannot_be_is_refused(shards, tmp_path, monkeypatch):
    for options, text in (
        ({"resolution": 16}, "data.resolution=8 data.channels=3"),
        ({"channels": 1}, "8 pixels and 3 channels"),
    ):
        with pytest.raises(UserError, match=text):
            opened(shards, **options)
    with pytest.raises(UserError, match=r"max_cache=10kB is too little for data.window_chunks=4"):
        opened(f"local:{shards}", cache_dir=tmp_path, window_chunks=4, max_cache="10kB")
    with pytest.raises(UserError, match="foo://x is no place for shards: give a folder"):
        opened("foo://x")
    for options, text in (
        ({"folder": shards}, "exists already"),
        ({"folder": "s3://bucket/x"}, "written to a folder"),
        ({"chunk_mb": 0}, "chunk_mb"),
        ({"source": Noise(channels=2)}, "it has 2|has 2"),
    ):
        with pytest.raises(UserError, match=text):
            write_shards(**{"source": Noise(), "folder": tmp_path / "w"} | options)
    monkeypatch.setitem(sys.modules, "litdata", None)
    monkeypatch.setitem(sys.modules, "litdata.streaming", None)
    for work in (lambda: opened("s3://b/x"), lambda: write_shards(Noise(), tmp_path / "w")):
        with pytest.raises(UserError, match=r'pip install "stylegan_lightning\[streaming\]"'):
            work()
    assert opened(shards).batch([0])[0].shape == (1, 3, 8, 8)  # a folder does not need it


def test_sizes_are_powers_of_ten():
    assert [size_in_bytes(x) for x in ("500MB", "1.5 TB", None)] == [500_000_000, 1_500_000_000_000, None]
    with pytest.raises(ValueError):
        size_in_bytes("10")


# ---------------------------------------------------------------------------------------------- training


def training(shards, *more: str) -> list[str]:
    plain = [a for a in TINY if not a.startswith("data.size")]
    data = ["data=streamed", f"data.path=local:{shards}", "data.labels=true", "data.window_chunks=2"]
    return [*plain, *data, "data.max_cache=17kB", "data.mirror=true", "logger=csv", *more]


def test_a_run_on_shards_resumes_bit_for_bit(run, shards, tmp_path):
    arguments = training(shards, f"data.cache_dir={tmp_path}", "schedule.total_kimg=0.192")
    assert run("train.py", *arguments, "data.num_workers=0", f"run_dir={tmp_path}/straight").code == 0
    parts = [f"run_dir={tmp_path}/parts", "data.num_workers=1", "schedule.total_kimg=0.088"]  # inside a tick
    stopped = run("train.py", *arguments, *parts)
    assert stopped.code == 0, stopped.err
    done = run("train.py", f"resume={tmp_path}/parts", "schedule.total_kimg=0.192")
    assert done.code == 0, done.err
    straight, parts = (read_checkpoint(tmp_path / d / "checkpoints/last.ckpt") for d in ("straight", "parts"))
    assert straight["progress"]["nimg"] == parts["progress"]["nimg"] == 192  # into the second pass
    for name, value in straight["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][name]), name
    assert 0 < kept(next((tmp_path / "streamed").glob("*/labels.npy")).parent) <= 17_000


@pytest.mark.slow
def test_two_ranks_train_as_one(run, command, shards, tmp_path):
    arguments = training(
        shards, "model.use_noise=false", "model.mbstd_group_size=2", "schedule.total_kimg=0.032", "trainer=cpu",
        "data.num_workers=0",
    )  # fmt: skip
    assert run("train.py", *arguments, f"run_dir={tmp_path}/one").code == 0
    command("train.py", *arguments, "trainer.devices=2", f"run_dir={tmp_path}/two")
    one, two = (read_checkpoint(tmp_path / d / "checkpoints/last.ckpt")["state_dict"] for d in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=2e-3, atol=2e-4, msg=name)


def test_growing_on_shards(run, shards, tmp_path):
    plain = [a for a in TINY if not a.startswith(("data.size", "model.", "schedule.", "data.resolution"))]
    done = run(
        "train.py", *plain, "data=streamed", f"data.path={shards}", "data.resolution=8", "data.num_workers=0",
        "model=progan", "schedule=progressive", "schedule.total_kimg=0.064", "schedule.tick_kimg=0.032",
        "schedule.stabilise_kimg=0.016", "schedule.fade_kimg=0.016", "schedule.batch_sizes={4: 8, 8: 8}",
        "model.z_dim=8", "model.channel_base=64", "model.channel_max=8", "logger=csv", f"run_dir={tmp_path}/r",
    )  # fmt: skip
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "data=streamed needs data.path="),
        (["data.path=/nowhere"], "/nowhere/shards.json cannot be read"),
        (["data.path=/x", "data.balance=true"], "data.balance must be false with data=streamed"),
        (["data.path=/x", "data.max_cache=10"], "data.max_cache must be a size such as 500MB"),
        (["data.path=/x", "data.window_chunks=0"], "data.window_chunks must be a whole number >= 1"),
    ],
)
def test_bad_settings_are_one_message(run, tmp_path, arguments, text):
    plain = [a for a in TINY if not a.startswith("data.size")]
    done = run("train.py", *plain, "data=streamed", *arguments, "logger=csv", f"run_dir={tmp_path}/r")
    assert done.code == 2 and text in done.err and "Traceback" not in done.err
