"""Linear separability: known entropies, the SVM's optimum, and independence of the batches."""

from __future__ import annotations

import math

import pytest
import torch
from rank_helpers import as_two_ranks
from torch import Tensor, nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.separability import (
    attribute_entropy,
    conditional_entropy,
    fit_svm,
    linear_separability,
    separability,
    standardize,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Bent(nn.Module):
    """w = (z0, z1, z0^2 + z1^2), img = w; so only w has a plane around the centre."""

    z_dim, c_dim = 2, 0

    def mapping(self, z: Tensor, c: Tensor) -> Tensor:
        return torch.cat([z, z.square().sum(1, keepdim=True)], 1)[:, None].expand(-1, 4, -1)

    def synthesis(self, ws: Tensor, *, noise_mode: str) -> Tensor:
        assert noise_mode == "const"
        return ws[:, 0, :, None, None]


def far_from_the_centre(img: Tensor) -> Tensor:
    return img[:, 2:, 0, 0] - 1.4


# ------------------------------------------------------------------------------------------------ entropy


def test_conditional_entropy_by_hand() -> None:
    y = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0]).bool()
    assert conditional_entropy(y, y) == conditional_entropy(y, ~y) == 0
    nothing = torch.zeros(8).bool()
    of_y = -(3 / 8 * math.log(3 / 8) + 5 / 8 * math.log(5 / 8))
    assert conditional_entropy(y, nothing) == pytest.approx(of_y)
    half = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0]).bool()  # of the four: 2 and 2; of the others: 1 and 3
    expected = (math.log(2) - (1 / 4 * math.log(1 / 4) + 3 / 4 * math.log(3 / 4))) / 2
    assert conditional_entropy(y, half) == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------------- SVM


def test_svm_is_at_the_minimum() -> None:
    """The gradient of the stated objective is zero, and every step away raises it."""
    x = normal(200, 5)
    y = torch.where(x[:, 0] + normal(200, seed=1) > 0.3, 1.0, -1.0).double()
    w, b = fit_svm(x, y, C=0.5)
    best = torch.cat([w, torch.tensor([b])]).requires_grad_()

    def objective(v: Tensor) -> Tensor:
        return v.square().sum() / 2 + 0.5 * (1 - y * (x @ v[:-1] + v[-1])).clamp(min=0).square().sum()

    (gradient,) = torch.autograd.grad(objective(best), best)
    assert gradient.abs().max() < 1e-3 * 200
    away = [objective(best.detach() + 0.05 * normal(6, seed=s)) for s in range(20)]
    assert min(away) > objective(best)


def test_svm_separates_what_can_be_separated() -> None:
    x = normal(500, 20)
    side = x @ normal(20, seed=1) + 0.5
    x, side = x[side.abs() > 0.3], side[side.abs() > 0.3]
    w, b = fit_svm(x, side.sign(), C=100)
    assert torch.equal((x @ w + b).sign(), side.sign())
    with pytest.raises(ValueError, match="-1 and 1"):
        fit_svm(x, (side > 0).double())


def test_standardize() -> None:
    x = standardize(torch.cat([5 + 3 * normal(100, 2), torch.full((100, 1), 4.0)], 1))
    torch.testing.assert_close(x.mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.tensor([1.0, 1, 0]).double(), atol=1e-9, rtol=0)


# -------------------------------------------------------------------------------------------------- value


def test_separable_attributes_score_one() -> None:
    x = normal(2000, 8)
    logits = torch.stack([x @ normal(8, seed=s) + 0.2 for s in (1, 2, 3)], 1)
    value, entropies = linear_separability(100 * x + 7, logits)
    assert value == 1 and entropies == (0, 0, 0)


def test_independent_attributes_score_the_exponential_of_their_entropy() -> None:
    """1/4 of all have the attribute: H = 0.562 nats, less what a plane fits by chance in 3 dimensions."""
    x, logits = normal(20_000, 3), torch.where(normal(20_000, 1, seed=1) > 0.6745, 1.0, -1.0)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    value, (found,) = linear_separability(x, logits, keep=1)
    assert found == pytest.approx(entropy, abs=0.02) and value == pytest.approx(math.exp(found))
    assert linear_separability(x, logits.expand(-1, 2), keep=1)[0] == pytest.approx(value**2)


def test_the_surest_half_counts() -> None:
    """Labels are a plane's where it is sure and random near it."""
    x = normal(4000, 4)
    logits = x[:, 0].clone()
    unsure = logits.abs() < 0.6
    logits[unsure] *= normal(int(unsure.sum()), seed=1).sign()
    assert attribute_entropy(x, logits, 2000) == 0 < 0.1 < attribute_entropy(x, logits, 4000)
    assert attribute_entropy(x, normal(4000, seed=1), 2000) > 0.6  # of both signs


def test_an_attribute_that_all_or_none_have_adds_nothing() -> None:
    x = normal(100, 3)
    assert linear_separability(x, torch.stack([x[:, 0].abs(), -x[:, 0].abs()], 1).float()) == (1, (0, 0))


def test_w_that_unbends_z_scores_better() -> None:
    w, z = (separability(Bent(), far_from_the_centre, space=s, num_images=3000, keep=0.9) for s in ("w", "z"))
    assert w.value < 1.05 and z.value > 1.9 and (w.metric, z.metric) == ("separability_w", "separability_z")
    assert w.kept == 2700 and w.as_dict()["num_images"] == 3000


@pytest.mark.parametrize("num_images", [301, 1])
def test_batches_and_ranks_do_not_matter_and_the_seed_does(num_images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(batch_size: int, seed: int = 0):
        options = {"num_images": num_images, "keep": 1, "space": "z"}
        return separability(Bent(), far_from_the_centre, batch_size=batch_size, seed=seed, **options)

    assert measure(301) == measure(7) == as_two_ranks(monkeypatch, lambda: measure(32))
    assert num_images == 1 or measure(301).value != measure(301, seed=1).value


def test_bad_input() -> None:
    x = normal(10, 2)
    assert math.isnan(linear_separability(x, x / 0)[0])
    with pytest.raises(UserError, match=r"got \[10, 2\] and \[10\]"):
        linear_separability(x, x[:, 0])
    with pytest.raises(UserError, match="keep must be"):
        linear_separability(x, x, keep=0)
    with pytest.raises(UserError, match=r"for N = 3 pictures; it returned \[3\]"):
        separability(Bent(), lambda img: img[:, 0, 0, 0], num_images=3)
    with pytest.raises(UserError, match="space must be z or w; got x"):
        separability(Bent(), far_from_the_centre, space="x")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least 1; got 0 and 32"):
        separability(Bent(), far_from_the_centre, num_images=0)
