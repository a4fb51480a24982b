"""Distances of classes: which reals and which fakes, cached apart, the same on one rank and on two."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from frechet_helpers import ALL, Pixels, TinyG, dataset, random_images, values_of
from rank_helpers import on_two_ranks
from torch import Tensor, nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.by_features import Frechet
from stylegan_lightning.metrics.metric import Subject
from stylegan_lightning.metrics.real_stats import Part, real_images
from stylegan_lightning.metrics.value import MetricValue

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


def labelled(targets: np.ndarray, mirror: bool = False) -> PreparedDataset:
    images = random_images(len(targets)) // 16 + 140
    names = ("plain", "T-shirt/top", "rare")
    return dataset(images, "f", mirror=mirror, targets=targets, label_names=names)


def by_class(subject: Subject, extractor: Pixels | None = None) -> list[MetricValue]:
    """Without the value of all."""
    with pytest.warns(UserWarning, match="1 of 3 classes, which have fewer than 2 real images: rare"):
        return Frechet(ALL, extractor or Pixels(), per_class=True).measure(subject).values[1:]


def test_each_class_is_measured_against_itself() -> None:
    data, G = labelled(ONE_HOT), ShiftG()
    values = by_class(Subject(G, data))
    assert [v.metric for v in values] == ["fd_pixels/class/plain", "fd_pixels/class/T-shirt_top"]
    assert [(v.num_real, v.num_fake) for v in values] == [(20, 50), (12, 50)]
    assert torch.equal(torch.cat(G.labels)[-100:], torch.eye(3)[[0] * 50 + [1] * 50])
    for value, rows in zip(values, (slice(0, 20), slice(20, 32)), strict=True):
        alone = dataset(data.images[rows], "p", targets=ONE_HOT[rows])
        expected = values_of(Frechet(ALL, Pixels()), Subject(G, alone))["fd_pixels"]
        assert value.value == pytest.approx(expected, rel=1e-9)
    assert values[0].value < 2000 < values[1].value  # class 0 is drawn at the reals' grey, class 1 is not


def test_the_value_of_all_comes_first_and_is_the_same() -> None:
    (alone,) = Frechet(ALL, Pixels()).measure(Subject(ShiftG(), labelled(ONE_HOT))).values
    with pytest.warns(UserWarning, match="fewer than 2 real"):
        whole, *_ = Frechet(ALL, Pixels(), per_class=True).measure(Subject(ShiftG(), labelled(ONE_HOT))).values
    assert whole == alone


def test_an_attribute_is_measured_on_the_images_that_have_it() -> None:
    targets = np.zeros((30, 3), np.float32)
    targets[:10, 0] = targets[5:30, 1] = targets[0, 2] = 1
    G = ShiftG()
    assert [v.num_real for v in by_class(Subject(G, labelled(targets)))] == [10, 25]
    first, second = torch.cat(G.labels)[-100:].split(50)
    assert first[:, 0].min() == 1 and 0 < first[:, 1].mean() < 1  # with and without the second one, as in the data
    assert second[:, 1].min() == 1 and 0 < second[:, 0].mean() < 1


def test_classes_are_those_of_the_reals_also_where_labels_come_from_elsewhere() -> None:
    values = by_class(Subject(ShiftG(), labelled(ONE_HOT)))
    elsewhere = dataset(random_images(3), targets=ONE_HOT[:3])
    assert by_class(Subject(ShiftG(), labelled(ONE_HOT), labels=elsewhere)) == values


def test_statistics_are_cached_for_each_class(tmp_path: Path) -> None:
    data, first, second = labelled(ONE_HOT), Pixels(), Pixels()
    values = by_class(Subject(ShiftG(), data, cache_dir=tmp_path), first)
    assert by_class(Subject(ShiftG(), data, cache_dir=tmp_path), second) == values
    assert (first.seen, second.seen) == (33 + 20 + 12 + 150, 150)  # no real once more
    assert len(list(tmp_path.glob("*.npz"))) == 3


def test_statistics_are_prepared_before_there_are_fakes(tmp_path: Path) -> None:
    extractor, G = Pixels(), ShiftG()
    with pytest.warns(UserWarning, match="fewer than 2 real"):
        Frechet(ALL, extractor, per_class=True).prepare(Subject(G, labelled(ONE_HOT), cache_dir=tmp_path))
    assert extractor.seen == 33 + 20 + 12 and not G.labels and len(list(tmp_path.glob("*.npz"))) == 3


def test_items_of_a_part_with_mirror_images_and_a_limit() -> None:
    data, part = labelled(ONE_HOT, mirror=True), Part("x", np.arange(20, 32))
    everything = real_images(data, replace(ALL, mirror_real=True), part=part).items
    assert everything.tolist() == [*range(20, 32), *range(53, 65)]
    few = real_images(data, replace(ALL, num_real=5), part=part)
    assert len(set(few.items.tolist())) == 5 and set(few.items.tolist()) <= set(range(20, 32))
    assert len({few.key, real_images(data, replace(ALL, num_real=5), part=Part("y", part.rows)).key}) == 2


@pytest.mark.parametrize("targets", [np.zeros((9, 0), np.float32), np.full((9, 3), 0.5, np.float32)])
def test_labels_that_have_no_classes_are_refused(targets: np.ndarray) -> None:
    data = dataset(random_images(9), targets=targets)
    with pytest.raises(UserError, match=r"metrics\.per_class=true needs class labels"):
        Frechet(ALL, Pixels(), per_class=True).check(Subject(TinyG(), data))


def test_stored_images_have_no_classes() -> None:
    with pytest.raises(UserError, match=r"metrics\.per_class=true needs a generator; test is a set of images"):
        Frechet(ALL, Pixels(), per_class=True).check(Subject(labelled(ONE_HOT), labelled(ONE_HOT)))


@pytest.mark.filterwarnings("ignore:fd_pixels is NaN")
def test_a_class_that_is_not_finite_is_nan_and_the_others_are_measured() -> None:
    class Bad(ShiftG):
        def forward(self, z: Tensor, c: Tensor, **options) -> Tensor:
            return super().forward(z, c, **options) + torch.where(c[:, 1] == 1, torch.nan, 0.0).view(-1, 1, 1, 1)

    with pytest.warns(UserWarning, match="fd_pixels/class/T-shirt_top is NaN"):
        values = by_class(Subject(Bad(), labelled(ONE_HOT)))
    assert np.isnan([v.value for v in values]).tolist() == [False, True]


def measure_on_a_rank(folder: Path) -> list[MetricValue]:
    return Frechet(ALL, Pixels(), per_class=True).measure(Subject(ShiftG(), labelled(ONE_HOT), cache_dir=folder)).values


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    found = on_two_ranks(measure_on_a_rank, tmp_path)
    with warnings.catch_warnings(action="ignore"):
        single = [v.value for v in measure_on_a_rank(tmp_path / "single")]
    for values in found:
        assert [v.value for v in values] == pytest.approx(single, rel=1e-9) and len(values) == 3
