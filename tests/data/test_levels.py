"""Smaller versions of prepared images for growing runs."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numbers_source import Numbers

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.cache import prepare
from stylegan_lightning.data.levels import add_levels, box_reduce
from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import fade_reals

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 3, 16, 16), dtype=np.uint8)


def memory(images=IMAGES, mirror=False):
    labels = np.zeros((len(images), 0), np.float32)
    return PreparedDataset(images, labels, name="x", fingerprint="f", mirror=mirror)


def stored(tmp_path):
    (tmp_path / "x-0").mkdir()
    np.save(tmp_path / "x-0" / "images.npy", IMAGES)
    return memory(np.load(tmp_path / "x-0" / "images.npy", mmap_mode="r"))


@pytest.mark.parametrize("resolution", [8, 4])
def test_levels_are_averages_of_squares(resolution):
    averages = F.avg_pool2d(torch.from_numpy(IMAGES).double(), 16 // resolution).numpy()
    assert np.abs(box_reduce(IMAGES, resolution) - averages).max() <= 0.5
    assert (box_reduce(np.full((1, 1, 16, 16), 255, np.uint8), resolution) == 255).all()


def test_levels_are_stored_once_and_served_with_flips(tmp_path):
    data = stored(tmp_path)
    add_levels(data, (4, 8, 16))
    assert sorted(data.levels) == [4, 8]
    file = tmp_path / "x-0" / "images_8.npy"
    assert np.array_equal(np.load(file), box_reduce(IMAGES, 8))
    before = file.stat().st_mtime_ns
    again = memory(np.load(tmp_path / "x-0" / "images.npy", mmap_mode="r"), mirror=True)
    add_levels(again, (8,))
    assert file.stat().st_mtime_ns == before
    imgs, _ = again.batch([3, 73], 8)
    assert np.array_equal(imgs[0].numpy(), box_reduce(IMAGES, 8)[3]) and torch.equal(imgs[1], imgs[0].flip(2))
    assert again.batch([3], 16)[0].shape == (1, 3, 16, 16)
    content = pickle.dumps(again)  # workers open the files again
    assert len(content) < 5000 and torch.equal(pickle.loads(content).batch([3, 73], 8)[0], imgs)


def test_a_damaged_level_is_made_again(tmp_path):
    data = stored(tmp_path)
    (tmp_path / "x-0" / "images_8.npy").write_bytes(b"half")
    add_levels(data, (8,))
    assert np.array_equal(data.levels[8], box_reduce(IMAGES, 8))
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_disk_that_cannot_be_written_is_one_message(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    data = stored(tmp_path)
    monkeypatch.setattr("stylegan_lightning.data.levels.box_reduce", full)
    with pytest.raises(UserError, match="No space left"):
        add_levels(data, (8,))
    assert not list(tmp_path.rglob("*.tmp"))


def test_prepared_and_in_memory_sets_agree(tmp_path):
    data = prepare(Numbers(40), tmp_path)
    other = memory(np.array(data.images))
    for part in (data, other):
        add_levels(part, (2,))
    assert np.array_equal(data.levels[2], other.levels[2])


def test_reals_fade_from_half_the_resolution():
    imgs = torch.randn(2, 3, 8, 8)
    low = F.interpolate(F.avg_pool2d(imgs, 2), scale_factor=2)
    assert fade_reals(imgs, 1.0) is imgs
    torch.testing.assert_close(fade_reals(imgs, 0.25), 0.75 * low + 0.25 * imgs)
    torch.testing.assert_close(F.avg_pool2d(fade_reals(imgs, 0.25), 2), F.avg_pool2d(imgs, 2))
