"""Kernel distance: by hand, its laws, that blocks and the order of computing have no influence, the draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.kid import kid, numpy_subsets, polynomial_mmd2, torch_subsets


def rows(n: int, d: int = 6, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double() + shift


def by_definition(x: Tensor, y: Tensor) -> float:
    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    xx = np.mean([k(a, b) for a, b in itertools.permutations(x, 2)])
    yy = np.mean([k(a, b) for a, b in itertools.permutations(y, 2)])
    return float(xx + yy - 2 * np.mean([k(a, b) for a in x for b in y]))


def test_definition_and_blocks() -> None:
    x, y = rows(11), rows(7, seed=1, shift=0.3)
    expected = by_definition(x, y)
    for block in (1, 3, 100):
        assert polynomial_mmd2(x, y, block=block) == pytest.approx(expected, rel=1e-10)
    assert polynomial_mmd2(y, x) == pytest.approx(expected, rel=1e-10)


def test_by_hand() -> None:
    """d = 1, x = {0, 2}, y = {1, -1}: k(0, 2) = 1, k(1, -1) = 0; across 1, 1, 27, -1, mean 7."""
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [-1.0]])
    assert polynomial_mmd2(x, y) == pytest.approx(1 + 0 - 2 * 7)


@pytest.mark.parametrize("size", [5, 30])
def test_both_ways_of_computing_are_the_mean_over_subsets(size: int) -> None:
    """Few small subsets are computed one by one; many large ones share the kernel of the whole sets."""
    x, y = rows(40), rows(50, seed=1, shift=0.2)
    subsets = numpy_subsets(40, 50, subsets=6, size=size)
    values = [by_definition(x[r], y[f]) for r, f in subsets]
    result = kid(x, y, subsets, block=16)
    assert result.mean == pytest.approx(np.mean(values), rel=1e-9)
    assert result.std == pytest.approx(np.std(values), rel=1e-9)


def test_equal_distributions_have_mean_zero_and_different_ones_do_not() -> None:
    values = [polynomial_mmd2(*rows(60, seed=seed).split(30)) for seed in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values)) and min(values) < 0
    assert kid(rows(200), rows(200, seed=1, shift=0.5), numpy_subsets(200, 200, 10, 50)).mean > 0.5


def test_draws() -> None:
    for draw in (numpy_subsets, torch_subsets):
        subsets = draw(30, 20, subsets=4, size=25, seed=7)
        assert len(subsets) == 4
        for reals, fakes in subsets:
            assert len(set(reals.tolist())) == len(reals) == 20 == len(set(fakes.tolist()))
            assert reals.max() < 30 and fakes.max() < 20
        again = draw(30, 20, subsets=4, size=25, seed=7)
        for one, two in zip(subsets, again, strict=True):
            assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    torch.manual_seed(7)
    assert torch.equal(torch_subsets(30, 20, 1, 9, seed=7)[0][0], torch.randperm(30)[:9])


def test_default_draws() -> None:
    x, y = rows(25), rows(30, seed=1)
    assert kid(x, y) == kid(x, y, numpy_subsets(25, 30, 100, 1000, 2020))


def test_misuse_is_explained() -> None:
    with pytest.raises(UserError, match=r"one d; got \[5, 6\] and \[5, 4\]"):
        kid(rows(5), rows(5, 4))
    with pytest.raises(UserError, match="at least 2 rows"):
        kid(rows(1), rows(5))
    with pytest.raises(UserError, match="as many reals as fakes"):
        kid(rows(5), rows(5), [(torch.arange(3), torch.arange(2))])
