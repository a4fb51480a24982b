from __future__ import annotations

import numpy as np
import torch

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.sampler import BatchDataset, BatchItems, DataOrder, StageBatchSampler
from stylegan_lightning.schedule import FixedSchedule

SCHEDULE = FixedSchedule(8, total_kimg=0.1, tick_kimg=0.04, batch_size=12, g_lr=1e-3, d_lr=1e-3)


def batches(nimg=0, rank=0, world=1, items=30):
    return list(StageBatchSampler(items, SCHEDULE, 5, lambda: nimg, rank, world))


def test_each_pass_shows_every_item_once():
    order = DataOrder(30, seed=3)
    stream = np.concatenate([order.items(i, 7) for i in range(0, 90, 7)])[:90]
    for start in (0, 30, 60):
        assert sorted(stream[start : start + 30]) == list(range(30))
    assert not np.array_equal(stream[:30], stream[30:60])
    assert not np.array_equal(DataOrder(30, seed=4).items(0, 30), stream[:30])


def test_order_depends_on_the_position_alone():
    order = DataOrder(30, seed=3)
    late = order.items(55, 10)
    np.testing.assert_array_equal(DataOrder(30, seed=3).items(55, 10), late)
    np.testing.assert_array_equal(order.items(58, 2), late[3:5])


def test_one_pass_over_the_sampler_is_one_tick_and_resumes_inside_it():
    tick = batches()
    assert len(tick) == 4  # 48 images: the first multiple of 12 past 40
    assert all((b.resolution, len(b.reals), len(b.labels)) == (8, 12, 12) for b in tick)
    assert batches(nimg=24) == tick[2:]
    assert len(batches(nimg=96)) == 1 and batches(nimg=108) == []


def test_ranks_share_a_batch_without_overlap():
    whole, a, b = batches()[0].reals, batches(rank=0, world=2)[0].reals, batches(rank=1, world=2)[0].reals
    assert whole[0::2] == a and whole[1::2] == b


def test_batches_carry_images_and_both_labels():
    images = np.arange(30, dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3)
    labels = np.arange(30, dtype=np.float32)[:, None]
    data = BatchDataset(PreparedDataset(images, labels, name="n", fingerprint="f", mirror=True))
    img, c, fake_c = data.__getitems__(BatchItems(8, [3, 33], [7, 59]))
    assert img[:, 0, 0, 0].tolist() == [3, 3] and c[:, 0].tolist() == [3, 3] and fake_c[:, 0].tolist() == [7, 29]
    assert img.dtype == torch.uint8 and fake_c.dtype == torch.float32
