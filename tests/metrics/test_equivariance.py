"""Equivariance: resampling on known signals, a perfect and a sticky generator, and what StyleGAN3's filters do."""

from __future__ import annotations

import math

import pytest
import torch
from rank_helpers import as_two_ranks
from torch import nn

from stylegan_lightning.metrics.equivariance import (
    SquaredError,
    equivariance,
    limit_band,
    rotate,
    rotation_filter,
    shift_fractional,
    shift_integer,
)
from stylegan_lightning.networks import StyleGAN3Synthesis
from stylegan_lightning.networks.stylegan3 import rigid_transform

R = {"conv_kernel": 1, "use_radial_filters": True}
SIZE = 32


class Waves(nn.Module):
    """Sinusoids of up to `cutoff` of the highest frequency, evaluated where the transform says: equivariant."""

    def __init__(self, cutoff: float = 0.4, sticky: float = 0.0) -> None:
        super().__init__()
        self.input = self
        self.w_dim, self.num_ws, self.img_resolution, self.img_channels = 8, 1, SIZE, 2
        radius, angle = cutoff * SIZE / 2 * torch.rand(8), 2 * math.pi * torch.rand(8)
        self.freqs = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
        self.mix, self.sticky = torch.randn(2, 8), sticky
        self.transform = torch.eye(3)
        self.seen = 0

    def set_transform(self, *, angle=0.0, translate=(0.0, 0.0)):
        self.transform.copy_(torch.linalg.inv(rigid_transform(angle, translate)))

    def signal(self, ws, transform):
        self.seen += len(ws)
        x = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
        p = torch.stack([*torch.meshgrid(x, x, indexing="xy"), torch.ones(SIZE, SIZE)])
        p = torch.einsum("ij,jhw->ihw", transform, p)[:2]
        waves = torch.sin(2 * math.pi * torch.einsum("kj,jhw->khw", self.freqs, p)[None] + ws[:, 0, :, None, None])
        return 0.3 * torch.einsum("ck,nkhw->nchw", self.mix, waves)

    def forward(self, ws, *, noise_mode="random"):
        return self.signal(ws, self.transform) + self.sticky * self.signal(ws, torch.eye(3))


def styles(count, num_ws, w_dim=8):
    torch.manual_seed(1)
    return [torch.randn(2, 1, w_dim).expand(-1, num_ws, -1) for _ in range(count)]


def masked_difference(a, b, mask):
    return float(((a - b).abs() * mask).max())


def test_integer_shift_moves_and_masks():
    img = torch.arange(24.0).view(1, 1, 4, 6)
    moved, mask = shift_integer(img, 2, -1)
    assert torch.equal(moved[0, 0, :3, 2:], img[0, 0, 1:, :4])
    assert mask.sum() == 12 and mask[0, 0, :3, 2:].all()


def test_fractional_shift_of_whole_pixels_is_the_integer_shift():
    img = torch.randn(2, 3, 20, 18)
    moved, mask = shift_fractional(img, 2.0, -1.0)
    assert masked_difference(moved, shift_integer(img, 2, -1)[0], mask) < 1e-5
    assert mask.sum() == (18 - 5) * (20 - 5)  # of the 6 pixels seen, 2 lie before and 3 after


@pytest.mark.parametrize("angle", [0.4, -2.2])
def test_rotation_agrees_with_the_analytic_picture(angle):
    torch.manual_seed(0)
    waves, ws = Waves(), styles(1, 1)[0]
    turned, inside = rotate(waves(ws), angle)
    waves.set_transform(angle=angle)
    limited, mask = limit_band(waves(ws), angle)
    assert (mask * inside).sum() > 100
    assert masked_difference(turned, limited, mask * inside) < 0.02
    assert masked_difference(limited, waves(ws), mask) < 0.03  # the band is below the limit


def test_rotation_filter_keeps_the_intersection_of_both_squares():
    """At 45 degrees a frequency near the corner of the square is outside the turned one; at 0 both are the same."""

    def response(angle, fx, fy):
        f = rotation_filter(angle).double()
        x = torch.arange(-7, 8, dtype=torch.float64) * 2 * math.pi
        return float((f * torch.cos(fx * x[None, :] + fy * x[:, None])).sum())

    assert response(0.7, 0, 0) == pytest.approx(1)
    assert response(0.0, 0.4, 0.4) > 0.4 > 0.25 > response(math.pi / 4, 0.4, 0.4)
    assert response(math.pi / 4, 0.25, 0.25) > 0.9
    # turned counter-clockwise by 20 degrees, the lower right corner comes 25 degrees below the axis
    assert response(0.35, 0.453, 0.211) > response(0.35, 0.453, -0.211) + 0.02


def test_psnr_by_hand():
    error = SquaredError()
    assert math.isnan(error.psnr())
    mask = torch.zeros(1, 1, 2, 2)
    mask[..., 0, 0] = 1
    error.add(torch.full((1, 3, 2, 2), 0.2), torch.zeros(1, 3, 2, 2), mask)
    assert error.psnr() == pytest.approx(20)  # 2 / 0.2 is a factor of 10
    assert error.count == 3


def test_an_equivariant_generator_scores_high_and_a_sticky_one_low():
    torch.manual_seed(0)
    good = equivariance(Waves(), styles(6, 1))
    assert good["eqt_int"] > 100 and good["eqt_frac"] > 45 and good["eqr"] > 45
    torch.manual_seed(0)
    sticky = equivariance(Waves(sticky=1.0), styles(6, 1))
    assert all(value < 20 for value in sticky.values())


def test_moves_come_from_the_seed_and_the_transform_is_put_back():
    torch.manual_seed(0)
    waves, ws = Waves(sticky=0.1), styles(2, 1)
    waves.set_transform(angle=0.3, translate=(0.1, 0.2))
    before = waves.transform.clone()
    first = equivariance(waves, ws, seed=5)
    assert equivariance(waves, ws, seed=5) == first and equivariance(waves, ws, seed=6) != first
    assert equivariance(waves, ws, kinds=("eqr",)).keys() == {"eqr"}
    assert torch.equal(waves.transform, before)
    with pytest.raises(ValueError, match="eqt_int, eqt_frac, eqr, got eqx"):
        equivariance(waves, ws, kinds=("eqx",))


@pytest.mark.parametrize("count", [5, 1])
def test_two_ranks_share_the_batches(count, monkeypatch):
    torch.manual_seed(0)
    waves, ws = Waves(sticky=0.1), styles(count, 1)
    single, seen = equivariance(waves, ws, seed=5), waves.seen
    shared = as_two_ranks(monkeypatch, lambda: equivariance(waves, iter(ws), seed=5))
    assert shared == pytest.approx(single, rel=1e-9) and waves.seen == 2 * seen


def fresh(**options):
    torch.manual_seed(0)
    return StyleGAN3Synthesis(SIZE, 3, w_dim=8, channel_base=512, channel_max=16, num_layers=6, **options)


def score(synthesis):
    return equivariance(synthesis, styles(4, synthesis.num_ws))


def with_boxes(synthesis, kind):
    """Nearest-neighbour filters in the place of the designed ones, of the same length."""
    for layer in synthesis.layers:
        f, factor = getattr(layer, f"{kind}_filter"), getattr(layer, kind)
        if f is not None:
            box = torch.zeros(f.shape[-1])
            box[(len(box) - factor) // 2 :][:factor] = 1 / factor
            setattr(layer, f"{kind}_filter", box if f.ndim == 1 else torch.outer(box, box))
    return synthesis


@pytest.mark.parametrize("options", [{}, R], ids=["T", "R"])
def test_stylegan3_is_equivariant_because_of_its_filters(options):
    """Measured with these sizes, seeds 0-2: T 110-113 / 77-79 / 31-36 dB, R 113-114 / 74-75 / 69-74 dB."""
    good = score(fresh(**options))
    assert good["eqt_int"] > 95 and good["eqt_frac"] > 68
    assert good["eqr"] > 62 if options else good["eqr"] < 45
    up, down = score(with_boxes(fresh(**options), "up")), score(with_boxes(fresh(**options), "down"))
    assert up["eqt_int"] < good["eqt_int"] - 25 and down["eqt_int"] < good["eqt_int"] - 12
    both = score(with_boxes(with_boxes(fresh(**options), "up"), "down"))
    assert both["eqt_int"] < 50 and both["eqt_frac"] < 50 and both["eqr"] < 50
