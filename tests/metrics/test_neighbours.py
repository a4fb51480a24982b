"""Neighbours: sets whose answer is known, laws, blocks and float16, the nearest training images and their picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.neighbours import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    distances,
    memorisation,
    memorisation_picture,
    nearest_training,
    precision_recall,
    radii,
)


def rows(n: int, d: int = 8, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def line(*positions: float) -> Tensor:
    return torch.tensor(positions)[:, None]


# -------------------------------------------------------------------------- precision, recall, density, coverage


def test_radii_by_hand() -> None:
    x = line(0, 1, 3, 7, 20)
    assert radii(x, 1).tolist() == [1, 1, 2, 4, 13]
    assert radii(x, 3).tolist() == [7, 6, 4, 7, 19]
    assert radii(line(2, 2, 2, 9), 2).tolist() == [0, 0, 0, 7]


def test_known_answer() -> None:
    """k = 1: real balls [-1, 1], [0, 2], [8, 12], [6, 14]; fake balls [-4, 2], [2 - 3, 5], [1, 9] and [-75, 115]."""
    reals, fakes = line(0, 1, 10, 14), line(-1, 2, 5, 20)
    assert radii(reals, 1).tolist() == [1, 1, 4, 4] and radii(fakes, 1).tolist() == [3, 3, 3, 15]
    # fakes -1 (edge), 2 (edge) are held, 5 is not (6 is the edge), 20 is not; reals: 0, 1; 10 and 14 by 20's ball
    assert precision_recall(reals, fakes, k=1) == PrecisionRecall(0.5, 1.0)
    # open balls: -1 and 2 only touch edges
    assert density_coverage(reals, fakes, k=1) == DensityCoverage(0.0, 0.0)
    assert density_coverage(reals, line(0.5, 9), k=1) == DensityCoverage((2 + 1) / 2, 3 / 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_identical_sets(dtype: torch.dtype) -> None:
    x = rows(60)
    assert precision_recall(x, x[torch.randperm(60)], dtype=dtype) == PrecisionRecall(1.0, 1.0)
    measured = density_coverage(x, x, dtype=dtype)
    assert measured.coverage == 1 and measured.density == pytest.approx(1, abs=0.03 if dtype == torch.float16 else 0)


def test_disjoint_sets() -> None:
    a, b = rows(40), rows(50, seed=1, shift=100.0)
    assert precision_recall(a, b) == PrecisionRecall(0.0, 0.0)
    assert density_coverage(a, b) == DensityCoverage(0.0, 0.0)


def test_mode_loss_lowers_recall_and_coverage_alone() -> None:
    reals = torch.cat([rows(60), rows(60, seed=1, shift=50.0)])
    fakes = rows(100, seed=2)
    pr, dc = precision_recall(reals, fakes), density_coverage(reals, fakes)
    assert pr.precision > 0.7 and pr.recall < 0.5 and 0.6 < dc.density < 1.4 and dc.coverage <= 0.5


def test_exchanging_the_sets_exchanges_precision_and_recall() -> None:
    a, b = rows(50), 1.3 * rows(70, seed=1)
    one, other = precision_recall(a, b), precision_recall(b, a)
    assert (one.precision, one.recall) == (other.recall, other.precision) and 0 < one.precision < one.recall


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_block_size_has_no_influence(dtype: torch.dtype) -> None:
    """Small whole numbers, many of them at equal distances, so that every sum is exact and any slip shows."""
    a, b = (2 * rows(53, 3)).round(), (2 * rows(61, 3, seed=1)).round()
    expected = [f(a, b, dtype=dtype) for f in (precision_recall, density_coverage)]
    for block in (1, 10, 60):
        assert [f(a, b, dtype=dtype, block=block) for f in (precision_recall, density_coverage)] == expected


def test_against_the_whole_matrix() -> None:
    a, b = rows(45).double(), rows(38, seed=1, shift=0.3).double()
    ra, rb = (torch.cdist(s, s).sort(1).values for s in (a, b))
    d = torch.cdist(b, a)  # [fakes, reals]
    pr, dc = precision_recall(a, b, block=7, dtype=torch.float64), density_coverage(a, b, block=7)
    assert pr.precision == pytest.approx(float((d <= ra[:, 3]).any(1).double().mean()))
    assert pr.recall == pytest.approx(float((d <= rb[:, 3, None]).any(0).double().mean()))
    assert dc.density == pytest.approx(float((d < ra[:, 5]).sum(1).double().mean()) / 5)
    assert dc.coverage == pytest.approx(float((d < ra[:, 5]).any(0).double().mean()))


def test_float16_rounds_features_and_distances() -> None:
    x, y = line(0), line(1 / 3)
    assert distances(x, y, torch.float16).dtype == torch.float16
    assert float(distances(x, y, torch.float16)) == float(torch.tensor(1 / 3).half())
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        distances(x, y, torch.float32)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(UserError, match=r"k = 3 needs features .* at least 4 rows .* got \[3, 8\] and \[9, 8\]"):
        precision_recall(rows(3), rows(9))
    with pytest.raises(UserError, match=r"k = 5 .* at least 6 rows"):
        density_coverage(rows(5), rows(9))


# ------------------------------------------------------------------------------------------ nearest training


@pytest.mark.parametrize("block", [5, 1000])
def test_nearest_training(block: int) -> None:
    reals, fakes = rows(90, shift=30.0), rows(23, seed=1, shift=30.0)
    fakes[4] = reals[71]
    found = nearest_training(fakes, reals, block=block)
    d = (fakes.double()[:, None] - reals.double()).norm(dim=2)
    assert torch.equal(found.index, d.argmin(1)) and found.index[4] == 71 and found.distance[4] == 0
    torch.testing.assert_close(found.distance, d.min(1).values)


def test_a_row_can_be_left_out() -> None:
    x = line(0, 1, 5, 5, 9)
    found = nearest_training(x, x, skip=torch.arange(5), block=2)
    assert found.index.tolist() == [1, 0, 3, 2, 2] or found.index.tolist() == [1, 0, 3, 2, 3]
    assert found.distance.tolist() == [1, 1, 0, 0, 4]
    assert nearest_training(line(4), line(3, 9), skip=torch.tensor([0])).index.tolist() == [1]


def test_memorisation_of_new_copied_and_distant_images() -> None:
    reals, new = rows(400), rows(300, seed=1)
    fresh = memorisation(new, reals)
    assert fresh.share == pytest.approx(0.5, abs=0.1) and fresh.fake_median == pytest.approx(fresh.real_median, rel=0.1)
    copied = memorisation(torch.cat([reals[:150] + 1e-3, new[:150]]), reals, quantile=0.01)
    assert copied.share == pytest.approx(0.5, abs=0.02) and copied.threshold < copied.real_median
    assert memorisation(rows(50, seed=2, shift=9.0), reals).share == 0
    few = memorisation(nearest_training(new, reals), reals, max_reals=100)
    assert few.share == pytest.approx(fresh.share, abs=0.15)
    with pytest.raises(UserError, match=r"in \(0, 1\); got 50"):
        memorisation(new, reals, quantile=50)


def test_picture_puts_each_neighbour_under_its_fake() -> None:
    fakes = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 64, 64)
    picture = memorisation_picture(fakes, fakes + 100, columns=3)
    assert picture.shape == (4 * 64, 3 * 64, 3) and picture.dtype == np.uint8
    corners = picture[::64, ::64, 0]
    assert corners.tolist() == [[0, 1, 2], [100, 101, 102], [3, 4, 0], [103, 104, 0]]
    assert memorisation_picture(fakes[:2], fakes[:2]).shape == (128, 128, 3)
    with pytest.raises(UserError, match=r"same shape .* got torch.uint8 \[5, 3, 64, 64\] and torch.float32"):
        memorisation_picture(fakes, fakes.float())
