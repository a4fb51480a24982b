"""Gaussian sums and their distance: known answers, laws, scipy's root; extrapolation and intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.gaussian import (
    GaussianSums,
    bootstrap_interval,
    few_samples,
    fid_infinity,
    frechet_distance,
    trace_root_product,
)

Gaussian = tuple[Tensor, Tensor]


def rows(n: int, d: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    """Correlated features: a random mixture of coordinates of different spread."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, d)) * np.logspace(0, -1, d) @ rng.normal(size=(d, d))
    return torch.from_numpy(mixed + shift)


def fitted(features: Tensor) -> Gaussian:
    sums = GaussianSums(features.shape[1]).update(features)
    return sums.mean(), sums.covariance()


# ------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize(("divisor", "correction"), [("n", 0), ("n-1", 1)])
def test_mean_and_covariance(divisor, correction) -> None:
    x = rows(50, 6)
    sums = GaussianSums(6)
    for piece in x.float().split(7):
        sums.update(piece)
    torch.testing.assert_close(sums.mean(), x.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sums.covariance(divisor), torch.cov(x.T, correction=correction), rtol=1e-5, atol=1e-5)
    assert sums.sum.dtype == sums.outer.dtype == torch.float64 and sums.count == 50


def test_misuse_of_sums_is_explained() -> None:
    with pytest.raises(UserError, match=r"matrix \[N, 5\].*got \[3, 4\]"):
        GaussianSums(5).update(torch.zeros(3, 4))
    with pytest.raises(UserError, match="at least 2 rows of features; got 1"):
        GaussianSums(5).update(torch.zeros(1, 5)).covariance()


# ---------------------------------------------------------------------------------------------- distance


def test_distance_of_gaussians_with_known_answer() -> None:
    """Covariances that commute: |mu1 - mu2|^2 + sum (s1 - s2)^2 of standard deviations along the shared axes."""
    s1, s2 = torch.tensor([1.0, 2.0, 0.0, 5.0]).double(), torch.tensor([3.0, 2.0, 1.0, 0.0]).double()
    axes = torch.linalg.qr(rows(4, 4))[0]
    mu1, mu2 = torch.tensor([1.0, 0, 0, 2]).double(), torch.tensor([0.0, 0, 3, 2]).double()
    cov1, cov2 = (axes * s1**2) @ axes.T, (axes * s2**2) @ axes.T
    assert frechet_distance(mu1, cov1, mu2, cov2) == pytest.approx(10 + 4 + 0 + 1 + 25, rel=1e-12)
    assert frechet_distance(mu1[:1], cov1[:1, :1] * 0 + 4, mu2[:1], cov1[:1, :1] * 0 + 9) == pytest.approx(2)


def test_distance_of_two_dimensions_that_do_not_commute() -> None:
    """For 2 x 2, tr (AB)^(1/2) = (tr AB + 2 (det AB)^(1/2))^(1/2)."""
    a, b = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double(), torch.tensor([[1.0, -0.7], [-0.7, 3.0]]).double()
    expected = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(float((a @ b).det())))
    assert trace_root_product(a, b) == pytest.approx(expected, rel=1e-12)


def test_laws_of_the_distance() -> None:
    a, b = fitted(rows(60, 8)), fitted(rows(70, 8, seed=1, shift=0.5))
    assert frechet_distance(*a, *a) == pytest.approx(0, abs=1e-10 * float(a[1].trace()))
    assert frechet_distance(*a, *b) == pytest.approx(frechet_distance(*b, *a), rel=1e-12)
    moved = frechet_distance(a[0] + 3, a[1], b[0] + 3, b[1])
    assert moved == pytest.approx(frechet_distance(*a, *b), rel=1e-12)
    scaled = frechet_distance(10 * a[0], 100 * a[1], 10 * b[0], 100 * b[1])
    assert scaled == pytest.approx(100 * frechet_distance(*a, *b), rel=1e-12)
    assert math.isnan(frechet_distance(a[0] * math.nan, a[1], *b))


def test_root_against_scipy() -> None:
    (_, a), (_, b) = fitted(rows(200, 40)), fitted(rows(150, 40, seed=1))
    expected = np.trace(scipy.linalg.sqrtm((a @ b).numpy())).real
    assert trace_root_product(a, b) == pytest.approx(float(expected), rel=1e-10)


def test_root_of_covariances_without_full_rank() -> None:
    """Fewer rows than features: exact by the rows themselves, tr (S1 S2)^(1/2) = |X1 X2^T|_* / (n - 1)."""
    x, y = rows(20, 100), rows(20, 100, seed=1)
    expected = torch.linalg.svdvals((x - x.mean(0)) @ (y - y.mean(0)).T).sum() / 19
    assert trace_root_product(fitted(x)[1], fitted(y)[1]) == pytest.approx(float(expected), rel=1e-12)
    assert trace_root_product(torch.zeros(3, 3), torch.eye(3)) == 0


# ----------------------------------------------------------------------------------------- small samples


def test_few_samples() -> None:
    assert few_samples(2049, 2048) is None
    text = few_samples(1000, 2048, "reals")
    assert text is not None and "there are 1000 reals for 2048 features" in text and "more than 2048 reals" in text


def test_extrapolation_removes_the_bias_of_few_fakes() -> None:
    """The truth is 0, as reals and fakes have one distribution, whose real statistics are exact."""
    d = 20
    fakes = torch.randn(2000, d, generator=torch.Generator().manual_seed(0)).double()
    real = torch.zeros(d).double(), torch.eye(d).double()
    fit = fid_infinity(*real, fakes, points=8, smallest=200, seed=3)
    assert fit.sizes[0] == 200 and fit.sizes[-1] == 2000 and len(set(np.diff(fit.sizes))) <= 2
    assert fit.values[-1] == pytest.approx(frechet_distance(*real, *fitted(fakes)), rel=1e-9)
    assert abs(fit.value) < 0.3 * fit.values[-1] < 0.1 * fit.values[0] and fit.slope > 0
    again = fid_infinity(*real, fakes, points=8, smallest=200, seed=3)
    assert again == fit != fid_infinity(*real, fakes, points=8, smallest=200, seed=4)


def test_extrapolation_refuses_too_few_fakes() -> None:
    with pytest.raises(UserError, match="15 sizes from 2 to 10"):
        fid_infinity(torch.zeros(2), torch.eye(2), torch.zeros(10, 2), smallest=2)


def test_interval_of_a_mean_and_its_coverage() -> None:
    rng, held = np.random.default_rng(0), 0
    for trial in range(60):
        x = torch.from_numpy(rng.normal(size=(80, 1)))
        interval = bootstrap_interval(lambda s: float(s.mean()), x, level=0.8, resamples=150, seed=trial)
        assert interval.value == float(x.mean()) and interval.low < interval.value < interval.high
        held += interval.low < 0 < interval.high
    assert 0.65 < held / 60 < 0.92
    wide = bootstrap_interval(lambda s: float(s.mean()), x, level=0.8, resamples=150, seed=59)
    assert wide == interval


def test_interval_of_a_distance_surrounds_it() -> None:
    """Resamples of both sets lie above the distance itself, which must not shift the interval."""
    x, y = rows(100, 10), rows(100, 10, seed=1)
    interval = bootstrap_interval(lambda a, b: frechet_distance(*fitted(a), *fitted(b)), x, y, resamples=50)
    assert interval.low < interval.value < interval.high
    with pytest.raises(UserError, match=r"level in \(0, 1\)"):
        bootstrap_interval(lambda a: 0.0, x, level=95)
