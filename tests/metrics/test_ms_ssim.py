"""MS-SSIM diversity: laws, the number of scales, pairs within classes, and independence of the batches."""

from __future__ import annotations

import math

import pytest
import torch
from rank_helpers import as_two_ranks
from torch import Tensor, nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.ms_ssim import BETAS, diversity, ms_ssim, scale_weights


def noise(n: int, size: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)


class Patterns(nn.Module):
    """A picture of its label's noise, and `spread` of noise that z decides."""

    z_dim, img_resolution = 4, 32

    def __init__(self, c_dim: int = 0, spread: float = 0.0, bad: bool = False) -> None:
        super().__init__()
        self.c_dim, self.spread, self.bad = c_dim, spread, bad
        generator = torch.Generator().manual_seed(0)
        self.of_class = torch.randn(max(c_dim, 1), 32 * 32, generator=generator) / 4
        self.of_z = torch.randn(4, 32 * 32, generator=generator) / 8
        self.seen = 0

    def forward(self, z: Tensor, c: Tensor, *, truncation_psi: float, noise_mode: str) -> Tensor:
        assert noise_mode == "const" and not self.training
        self.seen += len(z)
        img = (c @ self.of_class if self.c_dim else self.of_class) + self.spread * truncation_psi * z @ self.of_z
        return img.view(-1, 1, 32, 32) * (math.nan if self.bad else 1)


def labels(count: int, seed: int) -> Tensor:
    return torch.eye(3)[torch.randint(3, (count,), generator=torch.Generator().manual_seed(seed))]


@pytest.mark.parametrize(
    ("size", "scales"), [(11, 1), (21, 1), (22, 2), (32, 2), (44, 3), (64, 3), (98, 3), (99, 4), (128, 4), (176, 5)]
)
def test_number_of_scales(size: int, scales: int) -> None:
    weights = scale_weights(size)
    assert len(weights) == scales and sum(weights) == pytest.approx(1 if scales < 5 else sum(BETAS))
    assert all(w / weights[0] == pytest.approx(b / BETAS[0]) for w, b in zip(weights, BETAS, strict=False))
    value = ms_ssim(noise(2, size), noise(2, size, seed=1))
    assert value.shape == (2,) and (value.abs() < 0.5).all()


def test_equal_pictures_have_one_and_damage_lowers_it() -> None:
    a = (noise(3, 48) // 2 + 40).to(torch.uint8)
    torch.testing.assert_close(ms_ssim(a, a), torch.ones(3))
    damaged = [(a + s * (noise(3, 48, seed=1) / 255 - 0.5)).clamp(0, 255).to(torch.uint8) for s in (20, 80, 200)]
    values = [ms_ssim(a, b) for b in damaged]
    assert (values[0] > values[1]).all() and (values[1] > values[2]).all() and (values[0] < 1).all()
    torch.testing.assert_close(ms_ssim(a, damaged[0]), ms_ssim(damaged[0], a))


def test_one_scale_is_ssim_by_hand_for_constant_pictures() -> None:
    """Without contrast only (2 m n + c1) / (m^2 + n^2 + c1) is left, c1 = (0.01 * 255)^2."""
    a, b = (torch.full((1, 3, 16, 16), v, dtype=torch.uint8) for v in (1, 4))
    c1 = 2.55**2
    expected = (2 * 1 * 4 + c1) / (1**2 + 4**2 + c1)
    assert float(ms_ssim(a, b)) == pytest.approx(expected, rel=1e-3)


def test_pairs_do_not_influence_each_other() -> None:
    a, b = noise(3), noise(3, seed=1) // 2 + noise(3) // 2
    alone = torch.cat([ms_ssim(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(ms_ssim(a, b), alone)
    torch.testing.assert_close(ms_ssim(a[:, :1], b[:, :1]), ms_ssim(*(x[:, :1].expand(-1, 3, -1, -1) for x in (a, b))))


def test_collapse_is_one_and_spread_lowers_it() -> None:
    values = [diversity(Patterns(spread=s), 40).value for s in (0, 0.3, 1, 3)]
    assert values[0] == pytest.approx(1) and values == sorted(values, reverse=True) and values[-1] < 0.5
    assert diversity(Patterns(spread=1), 40, truncation_psi=0.3).value > values[2]


def test_pairs_within_classes() -> None:
    G = Patterns(c_dim=3)
    within = diversity(G, 30, c_sampler=labels)
    across = diversity(G, 30, c_sampler=labels, within_class=False)
    assert within.value == pytest.approx(1) and within.within_class and G.seen == 120
    assert across.value < 0.7 and not across.within_class
    assert not diversity(Patterns(), 2).within_class
    with pytest.raises(UserError, match="label sampler"):
        diversity(G, 30)


def test_batches_and_ranks_do_not_matter_and_the_seed_does(monkeypatch: pytest.MonkeyPatch) -> None:
    G = Patterns(spread=1).train()
    values = [diversity(G, 7, batch_size=batch).value for batch in (7, 2)]
    assert values[0] == pytest.approx(values[1], rel=1e-6) and G.training
    shared = as_two_ranks(monkeypatch, lambda: diversity(G, 7, batch_size=2))
    assert shared.value == pytest.approx(values[0], rel=1e-6) and shared.scales == 2
    assert diversity(G, 7, seed=1).value != values[0]


def test_bad_input() -> None:
    assert math.isnan(diversity(Patterns(bad=True), 3).value)
    with pytest.raises(UserError, match="at least 11 pixels; these have 8"):
        ms_ssim(noise(1, 8), noise(1, 8))
    with pytest.raises(ValueError, match="one shape"):
        ms_ssim(noise(1), noise(2))
    with pytest.raises(UserError, match="at least 1; got 0 and 32"):
        diversity(Patterns(), 0)
