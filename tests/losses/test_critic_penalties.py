"""Penalties on the critic's gradient against closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from stylegan_lightning.losses import R1, R2, GradientPenalty, squared_gradient_norm

SHAPE = (3, 4, 4)


def linear(a):
    return lambda x: (x * a).sum((1, 2, 3))[:, None]


def quadratic(x):
    """Its gradient is x."""
    return x.square().sum((1, 2, 3))[:, None] / 2


def mean_square(x):
    return float(x.square().sum((1, 2, 3)).mean())


@pytest.fixture
def batches():
    torch.manual_seed(0)
    return torch.randn(5, *SHAPE), 2 * torch.randn(5, *SHAPE)


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        (R1(gamma=3.0), lambda n: 1.5 * n**2),
        (R2(gamma=3.0), lambda n: 1.5 * n**2),
        (GradientPenalty(gamma=3.0), lambda n: 3 * (n - 1) ** 2),
        (GradientPenalty(gamma=3.0, center=4.0), lambda n: 3 * (n / 4 - 1) ** 2),
        (GradientPenalty(gamma=3.0, center=0.0), lambda n: 3 * n**2),
    ],
)
def test_of_a_linear_critic(penalty, expected, batches):
    a = torch.randn(SHAPE)
    assert float(penalty(linear(a), *batches)) == pytest.approx(expected(float(a.norm())), rel=1e-5)


def test_r1_is_taken_on_reals_and_r2_on_fakes(batches):
    reals, fakes = batches
    assert float(R1(gamma=2.0)(quadratic, reals, fakes).detach()) == pytest.approx(mean_square(reals), rel=1e-5)
    assert float(R2(gamma=2.0)(quadratic, reals, fakes).detach()) == pytest.approx(mean_square(fakes), rel=1e-5)


def test_gradient_penalty_lies_on_the_segments(batches):
    reals, fakes = batches
    judged = []

    def critic(x):
        judged.append(x.detach())
        return quadratic(x)

    value = GradientPenalty(gamma=1.0, center=0.0)(critic, reals, fakes)
    (mixed,) = judged
    assert float(value) == pytest.approx(mean_square(mixed), rel=1e-5)
    t = ((mixed - reals) / (fakes - reals)).flatten(1)
    torch.testing.assert_close(t, t[:, :1].expand_as(t), rtol=0, atol=1e-3)  # one place for all pixels of a sample
    assert (t > 0).all() and (t < 1).all() and t[:, 0].unique().numel() == len(reals)


def test_gradient_penalty_is_uniform_on_the_segments_and_repeats_with_the_seed():
    reals, fakes, penalty = torch.zeros(4000, 1, 1, 1), torch.ones(4000, 1, 1, 1), GradientPenalty(1.0, center=0.0)
    torch.manual_seed(3)
    first = penalty(quadratic, reals, fakes)
    assert float(first) == pytest.approx(1 / 3, abs=0.02)  # the mean of t^2
    assert float(penalty(linear(torch.ones(1)), reals, fakes)) == pytest.approx(1)
    torch.manual_seed(3)
    assert penalty(quadratic, reals, fakes) == first


def test_gradient_penalty_vanishes_at_its_center_only(batches):
    a = torch.randn(SHAPE)
    for center in (1.0, 750.0):
        unit = a / a.norm() * center
        assert float(GradientPenalty(center=center)(linear(unit), *batches)) == pytest.approx(0, abs=1e-8)
        assert float(GradientPenalty(center=center)(linear(unit * 1.5), *batches)) == pytest.approx(2.5, rel=1e-4)


def test_gradient_penalty_of_a_flat_critic_is_finite(batches):
    a = torch.zeros(SHAPE, requires_grad=True)
    value = GradientPenalty(gamma=2.0)(linear(a), *batches)
    (slope,) = torch.autograd.grad(value, a)
    assert float(value) == pytest.approx(2) and torch.isfinite(slope).all()


PENALTIES = [R1(2.0), R2(2.0), GradientPenalty(2.0), GradientPenalty(2.0, center=0.0), R1(2.0, full_resolution=4)]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_gradients_of_the_critics_parameters_equal_finite_differences(penalty):
    torch.manual_seed(0)
    w = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    v = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    reals, fakes = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)

    def value(w, v):
        torch.manual_seed(1)
        return penalty(lambda x: torch.tanh(x.flatten(1) @ w.t()) @ v.t(), reals, fakes)

    assert torch.autograd.gradcheck(value, (w, v))


def test_norms_with_respect_to_enlarged_images_are_smaller_by_the_squared_ratio():
    torch.manual_seed(0)
    w, small = torch.randn(48), torch.randn(6, 3, 4, 4)

    def critic(x):
        return torch.tanh(x.flatten(1) * w).sum(1, keepdim=True)

    large = F.interpolate(small, scale_factor=4.0, mode="nearest")
    published = squared_gradient_norm(lambda x: critic(F.avg_pool2d(x, 4)), large)
    torch.testing.assert_close(published, squared_gradient_norm(critic, small) * (4 / 16) ** 2)
    for ours, theirs in (
        (R1(3.0, full_resolution=16)(critic, small), 1.5 * published.mean()),
        (R2(3.0, full_resolution=16)(critic, torch.zeros_like(small), small), 1.5 * published.mean()),
        (
            GradientPenalty(3.0, full_resolution=16)(critic, small, small),
            3.0 * (published.sqrt() - 1).square().mean(),
        ),
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("penalty", [R1, R2, GradientPenalty])
def test_the_full_resolution_itself_changes_nothing(penalty, batches):
    values = []
    for full_resolution in (None, SHAPE[2]):
        torch.manual_seed(0)
        values.append(penalty(gamma=1.0, full_resolution=full_resolution)(quadratic, *batches))
    torch.testing.assert_close(*values)


def test_what_each_needs_and_how_often():
    assert [p.needs_fakes for p in (R1(1.0), R2(1.0), GradientPenalty())] == [False, True, True]
    assert [p.interval for p in (R1(1.0), R2(1.0), GradientPenalty())] == [16, 16, 1]
    assert [p.interval for p in (R1(1.0, 2), R2(1.0, 2), GradientPenalty(interval=2))] == [2, 2, 2]
    assert GradientPenalty().gamma == 10 and math.isclose(GradientPenalty().center, 1)


@pytest.mark.parametrize("penalty", [R2(1.0), GradientPenalty()])
def test_missing_fakes_are_reported(penalty):
    with pytest.raises(ValueError, match="fakes"):
        penalty(quadratic, torch.zeros(2, *SHAPE), None)
