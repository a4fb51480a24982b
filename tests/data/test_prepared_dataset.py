"""Pickling a prepared data set: worker processes open its memory map again instead of receiving a copy."""

import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from numbers_source import Numbers

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.cache import prepare

IMAGES = np.random.default_rng(0).integers(0, 256, (500, 3, 8, 8), dtype=np.uint8)


def dataset(images):
    return PreparedDataset(images, np.zeros((len(images), 0), np.float32), name="x", fingerprint="f")


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    return tmp_path / "images.npy"


def test_pickle_of_a_prepared_set_is_small_and_equal(tmp_path):
    data = prepare(Numbers(600), tmp_path, mirror=True)
    content = pickle.dumps(data)
    assert len(content) < 10_000 < data.images.nbytes  # labels and attributes travel, images do not
    copy = pickle.loads(content)
    assert isinstance(copy.images.base, np.memmap) and not copy.images.flags.writeable
    assert np.array_equal(copy.images, data.images) and len(copy) == len(data) == 1200
    for a, b in zip(copy.batch([3, 1199]), data.batch([3, 1199]), strict=True):
        assert torch.equal(a, b)
    for name in ("name", "fingerprint", "label_names", "mirror", "stats"):
        assert getattr(copy, name) == getattr(data, name)
    assert np.array_equal(copy.attributes["number"], data.attributes["number"])
    assert len(pickle.dumps(copy)) == len(content)  # and again, from the copy
    assert np.array_equal(data.images[5], Numbers().read(5))  # the original still works


def _report(data, queue):
    queue.put((isinstance(data.images.base, np.memmap), int(data.images.sum(dtype=np.int64))))


def test_a_started_process_maps_the_same_file(path):
    context = multiprocessing.get_context("forkserver")
    queue = context.Queue()
    child = context.Process(target=_report, args=(dataset(np.load(path, mmap_mode="r")), queue))
    child.start()
    assert queue.get(timeout=60) == (True, int(IMAGES.sum(dtype=np.int64)))
    child.join(30)


@pytest.mark.parametrize("as_array", [False, True])
def test_either_form_of_a_map_is_opened_again(path, as_array):
    images = np.load(path, mmap_mode="r")
    content = pickle.dumps(dataset(np.asarray(images) if as_array else images))
    assert len(content) < 2000 and np.array_equal(pickle.loads(content).images, IMAGES)


OTHERS = {
    "in memory": lambda path: IMAGES,
    "part": lambda path: np.load(path, mmap_mode="r")[10:],
    "first part": lambda path: np.load(path, mmap_mode="r")[:400],
    "array of a part": lambda path: np.asarray(np.load(path, mmap_mode="r")[10:]),
    "part of an array": lambda path: np.asarray(np.load(path, mmap_mode="r"))[::-1],
    "reshaped": lambda path: np.load(path, mmap_mode="r").reshape(250, 6, 8, 8),
    "other numbers": lambda path: np.load(path, mmap_mode="r").view(np.int8),
    "private copy": lambda path: np.load(path, mmap_mode="c"),
    "not an .npy file": lambda path: np.memmap(path, mode="r", offset=64, shape=(400, 3, 8, 8)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_any_other_array_travels_itself(path, kind):
    images = OTHERS[kind](path)
    if kind == "private copy":
        images[0] = 7  # not in the file
    copy = pickle.loads(pickle.dumps(dataset(images)))
    assert np.array_equal(copy.images, images) and copy.images.dtype == images.dtype


@pytest.mark.parametrize("content", [None, b"something else"])
def test_a_map_whose_file_is_gone_travels_itself(path, content):
    data = dataset(np.load(path, mmap_mode="r"))
    path.unlink()  # the map keeps the old content
    if content is not None:
        path.write_bytes(content)
    assert np.array_equal(pickle.loads(pickle.dumps(data)).images, IMAGES)
