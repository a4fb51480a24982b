"""Pictures of classes: what stands in which row."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.imaging import name_rows
from stylegan_lightning.networks import Generator, MappingNetwork, StyleGAN2Synthesis
from stylegan_lightning.training import samples
from stylegan_lightning.training.samples import MOST_ROWS, class_picture, generate, latents

CELL = 64


def dataset(targets, names=()):
    targets = np.asarray(targets, np.float32)
    images = np.zeros((len(targets), 3, 8, 8), np.uint8)
    return PreparedDataset(images, targets, name="n", fingerprint="f", label_names=names)


def generator(c_dim, channels=3):
    torch.manual_seed(0)
    synthesis = StyleGAN2Synthesis(8, channels, w_dim=8, channel_base=64, channel_max=8)
    return Generator(synthesis, partial(MappingNetwork, z_dim=8, c_dim=c_dim, num_layers=2)).eval()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_rows_are_classes_and_columns_are_latents(channels):
    G, data = generator(4, channels), dataset(np.eye(4)[[0, 1, 3, 3]], ("ab", "b", "no image", "d"))
    picture = class_picture(G, data, 5, seed=3, psi=0.7, device="cpu")
    assert picture.shape[0] == 3 * CELL and picture.shape[2] == channels and picture.dtype == np.uint8
    left, cells = np.split(picture, [picture.shape[1] - 5 * CELL], 1)
    cells = cells.reshape(3, CELL, 5, CELL, channels)[:, ::8, :, ::8]
    z = latents(G, 5, 3)
    for row, k in enumerate((0, 1, 3)):
        c = torch.eye(4)[[k] * 5]
        expected = generate(G, z, c, 0.7, "cpu").permute(2, 0, 3, 1).numpy()
        np.testing.assert_allclose(cells[row].astype(int), expected, atol=1)  # batches of another size round apart
        assert left[row * CELL : (row + 1) * CELL, :, 0].min() < 128  # a name is written there
    assert channels != 4 or (left[..., 3] == 255).all()


@pytest.mark.parametrize(
    "targets",
    [np.zeros((3, 0)), [[1, 1], [0, 0]], [[0.5], [1]], [[1, 0], [1, 0]]],
    ids=["unconditional", "attributes", "vectors", "one class"],
)
def test_no_picture_without_classes(targets):
    c_dim = np.asarray(targets).shape[1]
    assert class_picture(generator(c_dim), dataset(targets), 2, 0, 1.0, "cpu") is None


def test_of_many_classes_the_first_are_shown():
    picture = class_picture(generator(30), dataset(np.eye(30)), 1, 0, 1.0, "cpu")
    assert picture.shape[0] == MOST_ROWS * CELL


def test_names_of_any_kind_are_written():
    grid = np.zeros((3 * CELL, CELL, 3), np.uint8)
    widths = [name_rows(grid, [name, "b", "c"]).shape[1] for name in ("a", "a" * 24, "a" * 300, "\n\t", "名 \x00")]
    assert widths[0] < widths[1] == widths[2]
    np.testing.assert_array_equal(name_rows(grid, "abc")[:, -CELL:], grid)


@pytest.mark.parametrize("count", [5, 1])
def test_ranks_share_the_images(monkeypatch, count):
    G = generator(0)
    z, c = latents(G, count, 3), torch.zeros(count, 0)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(samples, "own_rows", lambda n, rank=rank: torch.arange(rank, n, 2))
        monkeypatch.setattr(samples, "join_ranks", lambda values: values)
        parts.append(generate(G, z, c, 1.0, "cpu", together=True).int())
    assert not bool(((parts[0] > 0) & (parts[1] > 0)).any())
    torch.testing.assert_close(parts[0] + parts[1], generate(G, z, c, 1.0, "cpu").int(), atol=1, rtol=0)
