"""The prepared cache: what it holds, when it is reused, and that nothing half-written is ever seen."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numbers_source import Numbers
from PIL import Image

from stylegan_lightning.data import cache
from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.cache import cache_name, default_cache_dir, prepare
from stylegan_lightning.data.image_folder import ImageFolder
from stylegan_lightning.data.summary import summary_text
from stylegan_lightning.errors import UserError


def left_in(folder):
    """Every name in the cache directory, less lock files."""
    return sorted(p.name for p in Path(folder).iterdir() if not p.name.endswith(".lock"))


def test_holds_images_labels_and_attributes(tmp_path):
    source = Numbers()
    data = prepare(source, tmp_path)
    assert isinstance(data, PreparedDataset) and isinstance(data.images.base, np.memmap)
    assert data.images.dtype == np.uint8 and data.images.shape == (10, 2, 4, 4)
    assert all(np.array_equal(data.images[i], source.read(i)) for i in range(10))
    assert np.array_equal(data.targets, source.labels()) and data.targets.dtype == np.float32
    assert data.attributes["number"].tolist() == list(range(10))
    assert (data.name, data.fingerprint, data.label_names) == (source.name, "f", ("even", "odd"))
    assert left_in(tmp_path) == [cache_name(source)]
    images, labels = data.batch([3, 0])
    images += 1  # a batch is the caller's own, not the file
    assert labels.tolist() == [[0, 1], [1, 0]] and data.images[3, 0, 0, 0] == 3


def test_second_call_reads_nothing(tmp_path):
    prepare(Numbers(), tmp_path)
    again = Numbers()
    data = prepare(again, tmp_path)
    assert again.reads == 0 and len(data) == 10 and data.stats["count"] == 10


def test_each_fingerprint_has_its_own_cache(tmp_path, monkeypatch):
    prepare(Numbers(), tmp_path)
    other = Numbers(fingerprint="g")
    prepare(other, tmp_path)
    assert other.reads == 10 and len(left_in(tmp_path)) == 2
    before = cache_name(other)
    monkeypatch.setattr(cache, "CACHE_FORMAT", cache.CACHE_FORMAT + 1)
    assert cache_name(other) != before
    assert "/" not in cache_name(other) and cache_name(other).startswith("numbers-")


def test_changed_image_or_option_makes_a_new_cache(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for i in range(3):
        Image.new("RGB", (9, 7), (i, 0, 0)).save(root / f"{i}.png")
    first = prepare(ImageFolder(root, 4), tmp_path / "c")
    prepare(ImageFolder(root, 4, crop="pad"), tmp_path / "c")
    Image.new("RGB", (9, 7), (77, 0, 0)).save(root / "1.png")
    changed = prepare(ImageFolder(root, 4), tmp_path / "c")
    assert len(left_in(tmp_path / "c")) == 3
    assert first.images[1, 0, 0, 0] == 1 and changed.images[1, 0, 0, 0] == 77


def test_mirror_is_each_item_flipped_after_all_items(tmp_path):
    plain, mirrored = prepare(Numbers(), tmp_path), prepare(Numbers(), tmp_path, mirror=True)
    assert len(plain) == 10 and len(mirrored) == 20 and len(left_in(tmp_path)) == 1
    images, labels = mirrored.batch(list(range(20)))
    assert torch.equal(images[:10], plain.batch(list(range(10)))[0])
    assert torch.equal(images[10:], images[:10].flip(-1)) and not torch.equal(images[10:], images[:10])
    assert torch.equal(labels[10:], labels[:10])


def test_unreadable_images_are_skipped_named_and_counted(tmp_path):
    data = prepare(Numbers(bad=(0, 4, 9)), tmp_path)
    assert data.stats["skipped"] == [[f"image {i}", f"file {i} is broken"] for i in (0, 4, 9)]
    assert data.stats["count"] == len(data) == 7
    kept = [1, 2, 3, 5, 6, 7, 8]
    assert data.images[:, 0, 0, 0].tolist() == kept and data.attributes["number"].tolist() == kept
    assert data.targets.argmax(1).tolist() == [i % 2 for i in kept]
    assert data.stats["labels"] == {"even": 3, "odd": 4}


def test_on_error_raise_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match=r"(?s)1 of 10 images cannot be read:\n  image 4: file 4 is broken"):
        prepare(Numbers(bad=(4,)), tmp_path, on_error="raise")
    assert left_in(tmp_path) == []
    prepare(Numbers(bad=(4,)), tmp_path)  # now there is a cache, and it knows what it left out
    with pytest.raises(UserError, match="file 4 is broken"):
        prepare(Numbers(bad=(4,)), tmp_path, on_error="raise")


def test_fewer_than_two_readable_images_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"(?s)at least 2.*file 0 is broken"):
        prepare(Numbers(3, bad=(0, 1)), tmp_path)
    assert left_in(tmp_path) == []


def test_broken_files_of_a_folder_are_skipped_by_name(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for i in range(4):
        Image.effect_noise((64, 64), 50).save(root / f"{i}.png")
    (root / "1.png").write_bytes((root / "1.png").read_bytes()[:500])
    (root / "2.png").write_bytes(b"")
    data = prepare(ImageFolder(root, 8), tmp_path / "c")
    (first, why), second = data.stats["skipped"]
    assert first == "1.png" and "truncated" in why and second == ["2.png", "the file is empty"]
    assert len(data) == 2
    assert "1.png: " in summary_text(data) and "2.png: the file is empty" in summary_text(data)


def test_programming_errors_are_not_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr(Numbers, "read", lambda self, i: np.zeros((2, 4, 5), np.uint8))
    with pytest.raises(TypeError, match="image 0"):
        prepare(Numbers(), tmp_path)
    assert left_in(tmp_path) == []


# ---- what is on disk is complete or absent ----


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    for name in (f".tmp-{cache_name(Numbers())}-dead", ".tmp-other-0123-alive"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "images.npy").write_bytes(b"half")
    assert len(prepare(Numbers(), tmp_path)) == 10
    assert left_in(tmp_path) == [".tmp-other-0123-alive", cache_name(Numbers())]


def test_killed_while_writing_leaves_no_cache(tmp_path):
    """A process that dies by a signal between two images: the next call starts afresh."""
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2]); from numbers_source import Numbers\n"
        "from stylegan_lightning.data.cache import prepare\n"
        "prepare(Numbers(200), sys.argv[1], progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    )
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)], timeout=60)
    assert child.returncode == -9
    assert [n[:5] for n in left_in(tmp_path)] == [".tmp-"]
    source = Numbers(200)
    assert len(prepare(source, tmp_path)) == 200 and source.reads == 200
    assert left_in(tmp_path) == [cache_name(source)]


class FullDisk:
    """A file that takes `room` bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.room -= len(bytes(data))
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)


@pytest.mark.parametrize("room", [0, 1000])
def test_full_disk_is_one_message_and_leaves_nothing(tmp_path, monkeypatch, room):
    def fake_open(path, mode):
        return FullDisk(open(path, mode), room) if "images.npy" in str(path) else open(path, mode)

    monkeypatch.setattr(cache, "open", fake_open, raising=False)
    with pytest.raises(UserError) as caught:
        prepare(Numbers(200), tmp_path)
    for words in (str(tmp_path), "No space left on device", "data.cache_dir="):
        assert words in str(caught.value)
    assert left_in(tmp_path) == []


def test_too_little_space_is_found_before_reading(tmp_path, monkeypatch):
    class Usage:
        free = 200 * 32 - 1

    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: Usage)
    source = Numbers(200)
    with pytest.raises(UserError, match=r"need .* GB and .* has .* GB free.*data\.cache_dir="):
        prepare(source, tmp_path)
    assert source.reads == 0 and left_in(tmp_path) == []


@pytest.mark.parametrize("failing", ["rename", "fsync"])
def test_failure_at_the_very_end_leaves_nothing(tmp_path, monkeypatch, failing):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(cache.os, failing, refuse)
    with pytest.raises(UserError, match="Permission denied"):
        prepare(Numbers(), tmp_path)
    monkeypatch.undo()
    assert left_in(tmp_path) == []


def test_cache_directory_that_cannot_exist(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write prepared images to .*file/x: .*data\.cache_dir="):
        prepare(Numbers(), tmp_path / "file" / "x")


@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "attributes.npz", "meta.json"])
@pytest.mark.parametrize("keep", [0, 0.5, None])
def test_damaged_cache_is_made_again(tmp_path, file, keep):
    prepare(Numbers(), tmp_path)
    path = tmp_path / cache_name(Numbers()) / file
    data = path.read_bytes()
    path.unlink() if keep is None else path.write_bytes(data[: int(len(data) * keep)])
    source = Numbers()
    dataset = prepare(source, tmp_path)
    assert source.reads == 10 and dataset.images[:, 0, 0, 0].tolist() == list(range(10))
    assert left_in(tmp_path) == [cache_name(source)]


def test_no_pickles_on_disk(tmp_path):
    prepare(Numbers(), tmp_path)
    folder = tmp_path / cache_name(Numbers())
    assert sorted(p.name for p in folder.iterdir()) == [
        "attributes.npz",
        "images.npy",
        "labels.npy",
        "meta.json",
    ]
    assert json.loads((folder / "meta.json").read_text())["fingerprint"] == "f"
    for name in ("images.npy", "labels.npy"):
        np.load(folder / name, allow_pickle=False)


# ---- several processes ----


def _prepare_and_report(folder, log, barrier, queue):
    source = Numbers(100, log=log, wait=0.005)
    barrier.wait()
    data = prepare(source, folder)
    queue.put((source.reads, int(data.images.astype(np.int64).sum())))


def test_two_processes_at_once_make_one_cache(tmp_path):
    context = multiprocessing.get_context("fork")  # quick, and nothing in this test has started threads
    barrier, queue = context.Barrier(2), context.Queue()
    folder, log = tmp_path / "c", tmp_path / "log"
    children = [context.Process(target=_prepare_and_report, args=(folder, log, barrier, queue)) for _ in range(2)]
    for child in children:
        child.start()
    answers = [queue.get(timeout=30) for _ in children]
    for child in children:
        child.join(30)
    assert sorted(reads for reads, _ in answers) == [0, 100]
    assert answers[0][1] == answers[1][1] > 0
    assert len(log.read_text().split()) == 100 and left_in(folder) == [cache_name(Numbers())]


def test_worker_processes_give_the_same_cache(tmp_path):
    """Other processes really read (this one reads the first chunk only), and order and skips are kept."""
    bad = (70, 299)
    here, there = Numbers(300, bad), Numbers(300, bad)
    one = prepare(here, tmp_path / "1", workers=0)
    calls = []
    two = prepare(there, tmp_path / "2", workers=2, progress=lambda done, total: calls.append((done, total)))
    assert here.reads == 300 and there.reads == 64
    assert calls == [(64, 300), (128, 300), (192, 300), (256, 300), (300, 300)]
    assert np.array_equal(one.images, two.images) and np.array_equal(one.targets, two.targets)
    for stats in (one.stats, two.stats):
        stats.pop("prepare_img_per_s")
    assert one.stats == two.stats and len(two.stats["skipped"]) == 2


def test_workers_start_only_when_reading_is_slow(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("started workers")

    monkeypatch.setattr(cache, "_parallel", refuse)
    prepare(Numbers(300), tmp_path)
    monkeypatch.setattr(cache, "WORTH_WORKERS", 0.0)
    monkeypatch.setattr(cache, "_cores", lambda: 2)
    with pytest.raises(AssertionError, match="started workers"):
        prepare(Numbers(300, fingerprint="g"), tmp_path)


def test_dead_workers_do_not_lose_images(tmp_path, monkeypatch):
    def die_after_one(source, starts, step, workers):
        yield cache._read_chunk(source, starts[0], step)
        raise cache.BrokenProcessPool

    monkeypatch.setattr(cache, "_parallel", die_after_one)
    with pytest.warns(UserWarning, match="worker processes ended early"):
        data = prepare(Numbers(300), tmp_path, workers=2)
    assert np.array_equal(data.images[:, 0, 0, 0], np.arange(300) % 200)


def test_prepare_while_a_worker_imports_the_script_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match="__main__"):
        prepare(Numbers(), tmp_path)


def test_options_and_default_directory(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="on_error"):
        prepare(Numbers(), tmp_path, on_error="ignore")
    with pytest.raises(UserError, match="workers"):
        prepare(Numbers(), tmp_path, workers=-1)
    monkeypatch.setenv("STYLEGAN_LIGHTNING_CACHE", str(tmp_path / "here"))
    assert default_cache_dir() == tmp_path / "here"
    prepare(Numbers())
    assert left_in(tmp_path / "here") == [cache_name(Numbers())]
    monkeypatch.delenv("STYLEGAN_LIGHTNING_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "stylegan_lightning"
