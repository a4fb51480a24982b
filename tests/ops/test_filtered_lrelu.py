"""Filtered leaky ReLU, separable filtering, and filter design."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from stylegan_lightning import ops
from stylegan_lightning.ops.fir import SEPARABLE_TAPS
from tests.conftest import Reference

REF = Reference("ops")


def test_filtered_lrelu_parity(parity):
    options = {"up": 2, "down": 2, "padding": [5, 4, 5, 4], "gain": math.sqrt(2), "slope": 0.2, "clamp": 0.8}
    ours = ops.filtered_lrelu(REF["x"], REF["flr_fu"], REF["flr_fd"], REF["act_b"], **options)
    parity("filtered_lrelu", ours, REF["flr"], 1e-6)


def test_filtered_lrelu_without_filters_is_the_activation():
    x, b = torch.randn(2, 3, 5, 4), torch.randn(3)
    expected = ops.bias_act(x, b, act="lrelu", clamp=1.0)
    before = x.clone()
    torch.testing.assert_close(ops.filtered_lrelu(x, bias=b, clamp=1.0), expected)
    torch.testing.assert_close(ops.filtered_lrelu(x, bias=b, clamp=1.0, padding=-1), expected[..., 1:-1, 1:-1])
    assert torch.equal(x, before)


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_filtered_lrelu_to_second_order(clamp):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, dtype=torch.float64, requires_grad=True)
    fu, fd = torch.rand(8), torch.rand(9)

    def fn(x, b):
        return ops.filtered_lrelu(x, fu / 4, fd / 4, b, up=2, down=2, padding=[6, 5, 6, 5], clamp=clamp)

    up = ops.upfirdn2d_ref(x + b[:, None, None], fu / 4, up=2, padding=[6, 5, 6, 5], gain=4)
    y = torch.nn.functional.leaky_relu(up, 0.2) * math.sqrt(2)
    y = y if clamp is None else y.clamp(-clamp, clamp)
    torch.testing.assert_close(fn(x, b), ops.upfirdn2d_ref(y, fd / 4, down=2))
    assert torch.autograd.gradcheck(fn, (x, b))
    assert torch.autograd.gradgradcheck(lambda x, b: fn(x, b).pow(2), (x, b))


FACTORS = [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, (1, 3)), ((2, 1), (1, 3))]
PADDINGS = [(0, 0, 0, 0), (9, 8, 9, 8), (3, 11, 6, 2), (-2, 5, 7, -3), (14, 13, 12, 15)]


@pytest.mark.parametrize("taps", [1, SEPARABLE_TAPS - 1, SEPARABLE_TAPS, 9, 12, 24])
@pytest.mark.parametrize("channels_last", [False, True])
def test_separable_equals_the_specification(taps, channels_last):
    torch.manual_seed(taps)
    f = torch.randn(taps, dtype=torch.float64)
    x = torch.randn(1, 2, 27, 25, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    for (up, down), padding, flip in itertools.product(FACTORS, PADDINGS, [False, True]):
        options = {"up": up, "down": down, "padding": padding, "gain": 1.7, "flip_filter": flip}
        expected = ops.upfirdn2d_ref(x, f, **options)
        torch.testing.assert_close(ops.upfirdn2d(x, f, **options), expected, msg=lambda m, o=options: f"{o}: {m}")


@pytest.mark.parametrize(
    ("up", "down", "padding"), [(2, 1, (6, 5, 6, 5)), (1, 2, (0, 0, 0, 0)), (4, 2, (9, 12, -1, 8))]
)
def test_separable_to_second_order(up, down, padding):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 9, 10, dtype=torch.float64, requires_grad=True)
    f = torch.rand(SEPARABLE_TAPS + 1)

    def fn(x):
        return ops.upfirdn2d(x, f, up=up, down=down, padding=padding, gain=1.5)

    assert torch.autograd.gradcheck(fn, x)
    assert torch.autograd.gradgradcheck(lambda x: fn(x).pow(2), x)


@pytest.mark.parametrize("radial", [False, True])
def test_lowpass_response(radial):
    """One at zero, a half at the cutoff, nothing beyond the transition; the same in all directions if radial."""
    taps, cutoff, width, fs = 48, 4.0, 3.0, 32.0
    f = ops.design_lowpass_filter(taps, cutoff, width, fs, radial=radial).double().numpy()
    f = f if radial else np.outer(f, f)

    def response(frequency, angle):
        x = (np.arange(taps) - (taps - 1) / 2) / fs
        phase = 2 * np.pi * frequency
        return (f * np.cos(phase * math.cos(angle) * x[None]) * np.cos(phase * math.sin(angle) * x[:, None])).sum()

    for angle in (0.0, math.pi / 2, *([0.3, math.pi / 4] if radial else [])):
        assert response(0.0, angle) == pytest.approx(1, abs=1e-6)
        assert response(cutoff - width / 2, angle) == pytest.approx(1, abs=0.03)
        assert response(cutoff, angle) == pytest.approx(0.5, abs=0.05)
        assert response(cutoff + width / 2, angle) == pytest.approx(0, abs=0.03)


def test_radial_filter_is_symmetric_about_its_centre():
    f = ops.design_lowpass_filter(13, 2.0, 2.0, 16.0, radial=True)
    assert f.shape == (13, 13) and f.argmax() == 6 * 13 + 6
    torch.testing.assert_close(f, f.t())
    torch.testing.assert_close(f, f.flip((0, 1)))


def test_one_tap_is_no_filter():
    assert ops.design_lowpass_filter(1, 2.0, 1.0, 8.0) is None


@pytest.mark.parametrize(("taps", "cutoff"), [(0, 1.0), (6, 0.0), (6, 4.1)])
def test_impossible_filters_are_refused(taps, cutoff):
    with pytest.raises(ValueError, match="0 < cutoff <= fs / 2"):
        ops.design_lowpass_filter(taps, cutoff, 1.0, 8.0)
