"""Adversarial losses against closed forms, symmetries and finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from stylegan_lightning.losses import Hinge, LeastSquares, Minimax, NonSaturating, Relativistic, Wasserstein

LOG2 = math.log(2)
LOSSES = [NonSaturating(), Minimax(), LeastSquares(), Hinge(), Wasserstein(), Relativistic()]
all_losses = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)


def logits(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


CLOSED = [  # loss, real and fake logits, the generator's loss, the discriminator's
    (NonSaturating(), (0, 0), (0, 0), LOG2, 2 * LOG2),
    (NonSaturating(), (50, 50), (-50, -50), 50, 0),
    (Minimax(), (0, 0), (0, 0), -LOG2, 2 * LOG2),
    (Minimax(), (50, 50), (-50, -50), 0, 0),
    (Minimax(), (50, 50), (50, 30), -40, 40),
    (LeastSquares(), (1, 1), (0, 0), 0.5, 0),
    (LeastSquares(), (0, 3), (1, -1), 1, (0.5 + 2) / 2 + 0.5),
    (Hinge(), (1, 7), (-1, -3), 2, 0),
    (Hinge(), (0, 0), (0, 0), 0, 2),
    (Hinge(), (-1, 0.5), (2, -0.5), -0.75, 1.25 + 1.75),
    (Wasserstein(drift=0), (3, 5), (1, -2), 0.5, -0.5 - 4),
    (Wasserstein(drift=0.5), (3, 5), (1, -2), 0.5, -0.5 - 4 + 0.5 * 17),
    (Relativistic(), (4, -7), (4, -7), LOG2, LOG2),
    (Relativistic(), (20, 90), (-30, 40), 50, 0),
    (Relativistic(), (0, 50), (50, 0), 25, 25),
]


@pytest.mark.parametrize(("loss", "reals", "fakes", "generator", "discriminator"), CLOSED)
def test_values_at_known_logits(loss, reals, fakes, generator, discriminator):
    assert float(loss.generator(logits(*fakes), logits(*reals))) == pytest.approx(generator, abs=1e-9)
    assert float(loss.discriminator(logits(*reals), logits(*fakes))) == pytest.approx(discriminator, abs=1e-9)


@all_losses
def test_gradients_equal_finite_differences(loss):
    torch.manual_seed(0)
    real, fake = (torch.randn(5, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(loss.generator, (fake, real))
    assert torch.autograd.gradcheck(loss.discriminator, (real, fake))


@all_losses
def test_generator_raises_fake_logits_and_discriminator_parts_the_two(loss):
    real, fake = (torch.zeros(3, 1, requires_grad=True) for _ in range(2))
    (g,) = torch.autograd.grad(loss.generator(fake, real), fake)
    real_slope, fake_slope = torch.autograd.grad(loss.discriminator(real + 0.5, fake + 0.25), (real, fake))
    assert (g < 0).all() and (real_slope < 0).all() and (fake_slope > 0).all()


@all_losses
def test_the_order_of_samples_does_not_matter(loss):
    real, fake = torch.randn(6, 1), torch.randn(6, 1)
    turned = real.flip(0), fake.flip(0)
    torch.testing.assert_close(loss.discriminator(*turned), loss.discriminator(real, fake))
    torch.testing.assert_close(loss.generator(turned[1], turned[0]), loss.generator(fake, real))


@pytest.mark.parametrize("loss", [NonSaturating(), Minimax(), Hinge(), Relativistic(), Wasserstein(drift=0)])
def test_reals_and_fakes_may_change_places_with_the_sign(loss):
    real, fake = torch.randn(6, 1), torch.randn(6, 1)
    torch.testing.assert_close(loss.discriminator(-fake, -real), loss.discriminator(real, fake))


def test_minimax_is_a_zero_sum_game_and_shares_the_discriminator():
    real, fake = torch.randn(6, 1), torch.randn(6, 1)
    game = Minimax()
    value = -torch.nn.functional.softplus(-real).mean() + game.generator(fake)  # eq. 1 of the paper
    torch.testing.assert_close(game.discriminator(real, fake), -value)
    torch.testing.assert_close(game.discriminator(real, fake), NonSaturating().discriminator(real, fake))


def test_minimax_saturates_where_the_other_does_not():
    fake = torch.full((2, 1), -20.0, requires_grad=True)
    (saturated,) = torch.autograd.grad(Minimax().generator(fake), fake)
    (alive,) = torch.autograd.grad(NonSaturating().generator(fake), fake)
    assert saturated.abs().max() < 1e-8 and alive == pytest.approx(torch.full((2, 1), -0.5))


def test_hinge_is_flat_beyond_its_margins():
    real, fake = logits(1.5, 2).requires_grad_(), logits(-1.5, -2).requires_grad_()
    for slope in torch.autograd.grad(Hinge().discriminator(real, fake), (real, fake)):
        assert slope.abs().max() == 0


def test_relativistic_game_is_symmetric_and_sees_differences_of_pairs_only():
    loss, real, fake = Relativistic(), torch.randn(6, 1), torch.randn(6, 1)
    torch.testing.assert_close(loss.generator(fake, real), loss.discriminator(fake, real))
    shift = torch.randn(6, 1)
    torch.testing.assert_close(loss.discriminator(real + shift, fake + shift), loss.discriminator(real, fake))
    assert not torch.allclose(loss.discriminator(real, fake.flip(0)), loss.discriminator(real, fake))


def test_only_the_relativistic_generator_needs_reals():
    assert [loss.needs_reals for loss in LOSSES] == [False] * 5 + [True]
    for loss in LOSSES[:-1]:
        fake = torch.randn(4, 1)
        torch.testing.assert_close(loss.generator(fake), loss.generator(fake, torch.randn(4, 1)))
    with pytest.raises(ValueError, match="real_logits"):
        Relativistic().generator(torch.zeros(2, 1))
