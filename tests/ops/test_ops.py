"""Operators: parity with stored references, equality with the slow version, adjoints, derivatives."""

from __future__ import annotations

import itertools

import pytest
import torch

from stylegan_lightning import ops
from tests.conftest import Reference

REF = Reference("ops")
F1331 = ops.setup_filter([1, 3, 3, 1])


def _filter(case):
    return ops.setup_filter(REF[f"f/{case['filter']}"], case["normalize"])


@pytest.mark.parametrize("case", REF.meta["upfirdn"], ids=lambda c: f"{c['id']}-{c['filter']}")
@pytest.mark.parametrize("function", [ops.upfirdn2d, ops.upfirdn2d_ref], ids=["fast", "specification"])
def test_upfirdn2d_parity(case, function, parity):
    options = {k: case[k] for k in ("up", "down", "padding", "gain", "flip_filter")}
    ours = function(REF["x"], _filter(case), **options)
    parity(f"upfirdn2d {case['id']} {function.__name__}", ours, REF[f"upfirdn/{case['id']}"], 1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", {}),
        ("nodemod", {"demodulate": False}),
        ("up2", {"up": 2, "resample_filter": F1331}),
        ("down2", {"down": 2, "resample_filter": F1331}),
    ],
)
@pytest.mark.parametrize("function", [ops.modulated_conv2d, ops.modulated_conv2d_ref])
def test_modulated_conv2d_parity(name, options, function, parity):
    ours = function(REF["mod_x"], REF["mod_w"], REF["mod_s"], **options)
    parity(f"{function.__name__} {name}", ours, REF[f"mod/{name}"], 1e-5)


@pytest.mark.parametrize("act", list(ops.ACTIVATIONS))
def test_bias_act_parity(act, parity):
    parity(f"bias_act {act}", ops.bias_act(REF["x"], REF["act_b"], act=act), REF[f"act/{act}"], 1e-6)
    clamped = ops.bias_act(REF["x"], REF["act_b"], act=act, gain=1.7, clamp=0.6)
    parity(f"bias_act {act} clamp", clamped, REF[f"act_clamp/{act}"], 1e-6)


GEOMETRIES = list(itertools.product([1, 2, (2, 1)], [1, 2, (1, 3)], [(0, 0, 0, 0), (2, 1, 1, 2), (-1, 2, 3, -2)]))


@pytest.mark.parametrize(("up", "down", "padding"), GEOMETRIES)
def test_upfirdn2d_equals_its_specification_to_second_order(up, down, padding):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 9, 7, dtype=torch.float64, requires_grad=True)
    f = torch.rand(4)

    def fast(x):
        return ops.upfirdn2d(x, f, up=up, down=down, padding=padding, gain=1.5)

    slow = ops.upfirdn2d_ref(x, f, up=up, down=down, padding=padding, gain=1.5)
    torch.testing.assert_close(fast(x), slow)
    assert torch.autograd.gradcheck(fast, x)
    assert torch.autograd.gradgradcheck(fast, x)


@pytest.mark.parametrize("factor", [2, 4])
def test_resampling_keeps_constants_and_is_adjoint(factor):
    f = F1331 if factor == 2 else ops.setup_filter([1, 2, 3, 4, 4, 3, 2, 1])
    x, y = (
        torch.randn(2, 3, 16, 16, dtype=torch.float64),
        torch.randn(2, 3, 16 // factor, 16 // factor, dtype=torch.float64),
    )
    down, up = ops.downsample2d(x, f, factor), ops.upsample2d(y, f, factor)
    torch.testing.assert_close((down * y).sum(), (x * up).sum() / factor**2)
    inner = ops.downsample2d(torch.ones(1, 1, 32, 32), f, factor)[..., 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.ones_like(inner))


@pytest.mark.parametrize(("stride", "padding", "size"), [(1, 1, 8), (2, 0, 9), (2, 1, 8), (1, 0, 5)])
@pytest.mark.parametrize("transposed", [False, True])
def test_conv_equals_pytorch_to_second_order(stride, padding, size, transposed):
    torch.manual_seed(1)
    x = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
    shape = (3, 4, 3, 3) if transposed else (4, 3, 3, 3)
    w = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    ours = ops.conv_transpose2d if transposed else ops.conv2d
    theirs = torch.nn.functional.conv_transpose2d if transposed else torch.nn.functional.conv2d
    torch.testing.assert_close(ours(x, w, stride=stride, padding=padding), theirs(x, w, stride=stride, padding=padding))

    def penalty(function):
        (g,) = torch.autograd.grad(function(x, w, stride=stride, padding=padding).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), (x, w))

    for a, b in zip(penalty(ours), penalty(theirs), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradgradcheck(lambda x, w: ours(x, w, stride=stride, padding=padding), (x, w))


def test_demodulation_gives_unit_variance():
    torch.manual_seed(0)
    x, s = torch.randn(4, 64, 32, 32), torch.rand(4, 64) * 5 + 0.1
    y = ops.modulated_conv2d(x, torch.randn(32, 64, 3, 3), s)
    assert y[..., 1:-1, 1:-1].std() == pytest.approx(1, abs=0.03)


def test_minibatch_std_of_known_groups():
    x = torch.zeros(4, 2, 4, 4)
    x[2:] = 2.0  # groups of two are samples {0, 2} and {1, 3}: standard deviation 1 in each
    torch.testing.assert_close(ops.minibatch_std(x, 2)[:, 2], torch.ones(4, 4, 4))
    same = ops.minibatch_std(torch.ones(4, 2, 4, 4), 4)
    assert same.shape == (4, 3, 4, 4) and same[:, 2].abs().max() < 1e-3
    with pytest.raises(ValueError, match="group_size=3"):
        ops.minibatch_std(x, 3)


def test_pixel_norm_has_unit_mean_square():
    z = ops.pixel_norm(torch.randn(8, 512) * 7)
    torch.testing.assert_close(z.square().mean(1), torch.ones(8))
    torch.testing.assert_close(ops.pixel_norm(z * 3), z)


def test_resampling_convolution_refuses_other_factors():
    with pytest.raises(ValueError, match="up=3"):
        ops.conv2d_resample(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3), F1331, up=3)


def test_blur_keeps_brightness_and_spreads_by_its_law():
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1.0
    spread = ops.blur2d(point, 4.0)
    torch.testing.assert_close(spread.sum(), torch.tensor(1.0))
    row = spread[0, 0, 20] / spread[0, 0, 20, 20]
    torch.testing.assert_close(row[[16, 12, 24, 28]], torch.tensor([0.5, 0.0625, 0.5, 0.0625]), rtol=1e-4, atol=1e-6)
    assert row[20 - 13] == 0 and row[20 - 12] > 0
    assert ops.blur2d(point, 0.3) is point
