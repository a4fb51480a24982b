from __future__ import annotations

import numpy as np
import pytest
import torch

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.datamodule import StageDataModule
from stylegan_lightning.data.sampler import BalancedOrder, BatchDataset, BatchItems, DataOrder, StageBatchSampler
from stylegan_lightning.errors import UserError
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


GROUPS = np.array([0] * 5 + [1] * 20 + [2] * 3)
"""Of 28 items in three unequal groups."""


def balanced(nimg=0, rank=0, world=1):
    return list(StageBatchSampler(28, SCHEDULE, 5, lambda: nimg, rank, world, GROUPS))


def test_balanced_groups_come_up_equally_often():
    stream = BalancedOrder(GROUPS, seed=3).items(0, 600)
    turns = [tuple(GROUPS[part]) for part in stream.reshape(-1, 3)]
    assert len(set(turns)) == 6 and all(sorted(t) == [0, 1, 2] for t in turns)  # each once in three, in every order


@pytest.mark.parametrize("group", [0, 1, 2])
def test_a_balanced_group_shows_each_item_once_in_every_pass(group):
    stream = BalancedOrder(GROUPS, seed=3).items(0, 600)
    members = np.flatnonzero(np.equal(GROUPS, group))
    mine = stream[np.isin(stream, members)]
    passes = mine[: len(mine) // len(members) * len(members)].reshape(-1, len(members))
    assert (np.sort(passes) == members).all()
    assert len({tuple(p) for p in passes}) > 1


def test_the_balanced_order_depends_on_the_position_alone():
    order = BalancedOrder(GROUPS, seed=3)
    whole, labels = order.items(0, 90), order.label_items(0, 90)
    for start, count in [(55, 10), (0, 1), (20, 1), (17, 44), (89, 1)]:
        np.testing.assert_array_equal(BalancedOrder(GROUPS, seed=3).items(start, count), whole[start : start + count])
        np.testing.assert_array_equal(order.label_items(start, count), labels[start : start + count])
    assert not np.array_equal(BalancedOrder(GROUPS, seed=4).items(0, 90), whole)


def test_labels_of_generated_images_are_balanced_alike_but_drawn_apart():
    order = BalancedOrder(GROUPS, seed=3)
    fakes = GROUPS[order.label_items(0, 300)]
    assert np.bincount(fakes).tolist() == [100, 100, 100]
    assert not np.array_equal(fakes, GROUPS[order.items(0, 300)])


def test_balanced_batches_resume_and_ranks_share_them():
    tick = balanced()
    assert len(tick) == 4 and balanced(nimg=24) == tick[2:]
    a, b = balanced(rank=0, world=2), balanced(rank=1, world=2)
    for whole, first, second in zip(tick, a, b, strict=True):
        assert (whole.reals[0::2], whole.reals[1::2]) == (first.reals, second.reals)
        assert (whole.labels[0::2], whole.labels[1::2]) == (first.labels, second.labels)


def test_the_data_module_balances_mirrored_items_too_and_refuses_what_has_no_classes():
    labels = np.eye(3, dtype=np.float32)[GROUPS]
    images = np.zeros((28, 1, 8, 8), np.uint8)
    data = PreparedDataset(images, labels, name="n", fingerprint="f", mirror=True)
    groups = StageDataModule(data, SCHEDULE, 5, balance=True).groups
    assert groups.tolist() == [*GROUPS, *GROUPS] and StageDataModule(data, SCHEDULE, 5).groups is None
    for bad in (labels[:, :0], labels + 0.5):
        with pytest.raises(UserError, match=r"data\.balance"):
            StageDataModule(PreparedDataset(images, bad, name="n", fingerprint="f"), SCHEDULE, 5, balance=True)
