"""Distances of classes: which reals and which fakes, cached apart, the same on one rank and on two."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from frechet_helpers import ALL, Pixels, random_images
from torch import Tensor, nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.frechet import FrechetDistance
from stylegan_lightning.metrics.per_class import ClassDistances
from stylegan_lightning.metrics.real_stats import Part, real_items

CLASSES = np.array([0] * 20 + [1] * 12 + [2])
ONE_HOT = np.eye(3, dtype=np.float32)[CLASSES]


class ShiftG(nn.Module):
    """Grey levels around 100 + 50 c_0 - 50 c_1. Records the labels it is asked for."""

    z_dim = 4

    def __init__(self, c_dim: int = 3) -> None:
        super().__init__()
        self.c_dim = c_dim
        self.labels: list[Tensor] = []

    def forward(self, z: Tensor, c: Tensor, *, truncation_psi: float, noise_mode: str) -> Tensor:
        self.labels.append(c)
        grey = 100 + 50 * (c[:, :1] - c[:, 1:2]) + 10 * torch.tanh(z)
        return (grey / 127.5 - 1).reshape(-1, 1, 2, 2)


def labelled(targets: np.ndarray, mirror: bool = False, names=("plain", "T-shirt/top", "rare")) -> PreparedDataset:
    images = random_images(len(targets)) // 16 + 140
    return PreparedDataset(images, targets, name="set", fingerprint="f", label_names=names, mirror=mirror)


def by_class(data: PreparedDataset, **options) -> ClassDistances:
    with pytest.warns(UserWarning, match="1 of 3 classes, which have fewer than 2 real images: rare"):
        return ClassDistances(Pixels(), ALL, data, options.pop("cache_dir", None), **options)


def test_each_class_is_measured_against_itself() -> None:
    data, G = labelled(ONE_HOT), ShiftG()
    results = by_class(data).evaluate_generator(G)
    assert [r.metric for r in results] == ["fd_pixels/class/plain", "fd_pixels/class/T-shirt_top"]
    assert [(r.num_real, r.num_fake) for r in results] == [(20, 50), (12, 50)]
    assert torch.equal(torch.cat(G.labels), torch.eye(3)[[0] * 50 + [1] * 50])
    for result, rows in zip(results, (slice(0, 20), slice(20, 32)), strict=True):
        alone = FrechetDistance(Pixels(), ALL)
        alone.set_real(PreparedDataset(data.images[rows], ONE_HOT[rows], name="part", fingerprint="p"))
        value = alone.evaluate_generator(G, lambda n, seed, k=rows.start and 1: torch.eye(3)[[k] * n])
        assert result.value == pytest.approx(value, rel=1e-9)
    assert results[0].value < 2000 < results[1].value  # class 0 is drawn at the reals' grey, class 1 is not


def test_an_attribute_is_measured_on_the_images_that_have_it() -> None:
    targets = np.zeros((30, 3), np.float32)
    targets[:10, 0] = targets[5:30, 1] = targets[0, 2] = 1
    G = ShiftG()
    results = by_class(labelled(targets)).evaluate_generator(G)
    assert [r.num_real for r in results] == [10, 25]
    first, second = torch.cat(G.labels).split(50)
    assert first[:, 0].min() == 1 and 0 < first[:, 1].mean() < 1  # with and without the second one, as in the data
    assert second[:, 1].min() == 1 and 0 < second[:, 0].mean() < 1


def test_statistics_are_cached_for_each_class(tmp_path: Path) -> None:
    data = labelled(ONE_HOT)
    first = by_class(data, cache_dir=tmp_path)
    values = [r.value for r in first.evaluate_generator(ShiftG())]
    seen = first.distance.extractor.seen
    again = [r.value for r in first.evaluate_generator(ShiftG())]
    assert again == values and first.distance.extractor.seen == seen + 100 and seen == 132  # no real once more
    assert len(list(tmp_path.glob("*.npz"))) == 2
    whole = FrechetDistance(Pixels(), ALL)
    whole.set_real(data, tmp_path)
    assert whole.num_real == 33 and len(list(tmp_path.glob("*.npz"))) == 3


def test_items_of_a_part_with_mirror_images_and_a_limit() -> None:
    data, part = labelled(ONE_HOT, mirror=True), Part("x", np.arange(20, 32))
    everything = real_items(data, dataclasses.replace(ALL, mirror_real=True), part)
    assert everything.tolist() == [*range(20, 32), *range(53, 65)]
    few = real_items(data, dataclasses.replace(ALL, num_real=5), part)
    assert len(set(few.tolist())) == 5 and set(few.tolist()) <= set(range(20, 32))


@pytest.mark.parametrize("targets", [np.zeros((9, 0), np.float32), np.full((9, 3), 0.5, np.float32)])
def test_labels_that_have_no_classes_are_refused(targets: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"metrics\.per_class=true needs"):
        ClassDistances(Pixels(), ALL, labelled(targets), None)


def _run_rank(rank: int, world: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    warnings.simplefilter("ignore")
    classes = ClassDistances(Pixels(), ALL, labelled(ONE_HOT), folder)
    np.save(f"{folder}/{rank}.npy", [r.value for r in classes.evaluate_generator(ShiftG())])
    torch.distributed.destroy_process_group()


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    mp.spawn(_run_rank, (2, str(tmp_path)), nprocs=2)
    single = [r.value for r in by_class(labelled(ONE_HOT)).evaluate_generator(ShiftG())]
    for rank in range(2):
        assert np.load(tmp_path / f"{rank}.npy").tolist() == pytest.approx(single, rel=1e-9)
