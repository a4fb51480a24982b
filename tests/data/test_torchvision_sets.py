"""The named sets, with stand-ins for torchvision's classes and one real file layout."""

import pickle
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from PIL import Image

from stylegan_lightning.data.base import ImageError, ImageSource
from stylegan_lightning.data.torchvision_sets import TorchvisionImages
from stylegan_lightning.errors import UserError


class FakeClasses:
    """Behaves like CIFAR10: `train` picks the part, nothing is there until it is downloaded."""

    downloads = 0
    there = True
    classes = ("plane", "car", "bird")

    def __init__(self, root, train=True, download=False):
        type(self).downloads += download
        if not type(self).there:
            if download:
                raise OSError("no network")
            raise RuntimeError("Dataset not found or corrupted.")
        count = 5 if train else 3
        self.targets = [i % 3 for i in range(count)]
        self.base = 10 if train else 100

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return Image.new("RGB", (12, 8), (self.base + index, 0, 7)), self.targets[index]


class FakeCelebA:
    attr_names = ("Smiling", "Young", "")

    def __init__(self, root, split, download=False):
        assert split in ("train", "valid", "test")
        self.attr = torch.tensor([[1, 0], [0, 1], [1, 1]])

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 2:
            raise OSError("image file is truncated")
        return Image.new("L", (4, 4), 50 * index), self.attr[index]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeClasses)
    monkeypatch.setattr(FakeClasses, "downloads", 0)
    return FakeClasses


def test_images_and_labels(fake, tmp_path):
    source = TorchvisionImages("CIFAR-10", tmp_path, 8, labels=True)
    assert isinstance(source, ImageSource) and source.name == "cifar10" and len(source) == 5
    assert source.read(2)[:, 3, 3].tolist() == [12, 0, 7] and source.read(2).shape == (3, 8, 8)
    assert source.read_with_info(0)[1] == {"size": (12, 8), "mode": "RGB"}
    assert source.label_names == ("plane", "car", "bird")
    assert source.labels().tolist() == np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]].tolist()
    assert fake.downloads == 0  # it was there already
    assert TorchvisionImages("cifar10", tmp_path, 8).labels().shape == (5, 0)


def test_all_parts_follow_each_other(fake, tmp_path):
    source = TorchvisionImages("cifar10", tmp_path, 8, split="all", labels=True)
    assert [int(source.read(i)[0, 0, 0]) for i in range(8)] == [10, 11, 12, 13, 14, 100, 101, 102]
    assert source.labels().argmax(1).tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    with pytest.raises(IndexError):
        source.read(8)


def test_fingerprint_follows_options_and_content(fake, tmp_path, monkeypatch):
    def of(**options):
        return TorchvisionImages("cifar10", tmp_path, **{"resolution": 8, **options}).fingerprint

    assert of() == of(download=False)
    prints = {of(), of(resolution=16), of(split="test"), of(split="all"), of(labels=True), of(crop="pad")}
    monkeypatch.setattr(FakeClasses, "__getitem__", lambda self, i: (Image.new("RGB", (12, 8), (1, 0, 7)), 0))
    assert len(prints | {of()}) == 7


def test_celeba_attributes_and_unreadable_image(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.datasets, "CelebA", FakeCelebA)
    monkeypatch.setattr(TorchvisionImages, "_fingerprint", lambda self: "0")
    source = TorchvisionImages("celeba", tmp_path, 4, channels=1, split="valid", labels=True)
    assert source.label_names == ("Smiling", "Young") and source.labels().tolist() == [[1, 0], [0, 1], [1, 1]]
    assert {k: v.tolist() for k, v in source.attributes().items()} == {
        "Smiling": [1, 0, 1],
        "Young": [0, 1, 1],
    }
    assert (source.read(1) == 50).all()
    with pytest.raises(ImageError, match="celeba image 2: image file is truncated"):
        source.read(2)


def test_failed_download_says_what_to_place_where(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeClasses, "there", False)
    with pytest.raises(UserError) as caught:
        TorchvisionImages("cifar10", tmp_path / "sets", 8)
    for words in ("no network", str(tmp_path / "sets"), "cifar-10-python.tar.gz"):
        assert words in str(caught.value)
    assert fake.downloads == 1
    with pytest.raises(UserError, match="download=true"):
        TorchvisionImages("cifar10", tmp_path, 8, download=False)
    assert fake.downloads == 1


def test_bad_names_and_splits(fake, tmp_path):
    with pytest.raises(UserError, match="Did you mean 'cifar10'"):
        TorchvisionImages("cifar100", tmp_path, 8)
    with pytest.raises(UserError, match="split must be one of train, test, all"):
        TorchvisionImages("cifar10", tmp_path, 8, split="val")


def test_real_file_layout_and_pickling(tmp_path):
    """Fashion-MNIST's own files, five tiny records each: the real torchvision class reads them."""
    raw = tmp_path / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    images = np.arange(5, dtype=np.uint8)[:, None, None] + np.zeros((5, 28, 28), np.uint8)
    for part in ("train", "t10k"):
        header = np.array([0x803, 5, 28, 28], ">u4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.array([3, 0, 9, 9, 1], np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x801, 5], ">u4").tobytes() + labels.tobytes())
    source = TorchvisionImages("fashion_mnist", tmp_path, 32, 1, crop="pad", labels=True, download=False)
    assert len(source) == 5 and source.labels().argmax(1).tolist() == [3, 0, 9, 9, 1]
    assert source.label_names[9] == "Ankle boot"
    data = pickle.dumps(source)
    assert len(data) < 4000  # the images stay on disk
    copy = pickle.loads(data)
    assert [copy.read(i)[0, 16, 16] for i in range(5)] == [0, 1, 2, 3, 4]
    assert copy.fingerprint == source.fingerprint


def test_flowers_in_their_real_file_layout(monkeypatch, tmp_path):
    """Six tiny pictures and torchvision's own class, whose checksums are left out."""
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for i in range(1, 7):
        Image.new("RGB", (16, 8), (30 * i, 0, 0)).save(folder / f"jpg/image_{i:05d}.jpg", quality=100)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [77, 1, 2, 102, 1, 3]})
    scipy.io.savemat(folder / "setid.mat", {"trnid": [6, 2], "valid": [1, 3], "tstid": [4, 5]})
    options: dict[str, Any] = {"resolution": 8, "labels": True, "download": False}
    source = TorchvisionImages("Flowers-102", tmp_path, **options)
    assert source.name == "flowers102" and len(source) == 2 and len(source.label_names) == 102
    assert source.labels().argmax(1).tolist() == [2, 0] and source.labels().sum(1).tolist() == [1, 1]
    everything = TorchvisionImages("flowers102", tmp_path, split="all", **options)
    assert everything.labels().argmax(1).tolist() == [2, 0, 76, 1, 101, 0]
    reds = [int(everything.read(i)[0, 4, 4]) for i in range(6)]
    assert np.allclose(reds, [180, 60, 30, 90, 120, 150], atol=3)
    assert len({source.fingerprint, everything.fingerprint}) == 2
    with pytest.raises(UserError, match="split must be one of train, val, test, all"):
        TorchvisionImages("flowers102", tmp_path, 8, split="valid")
