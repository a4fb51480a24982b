"""Colour maps: laws of each, what they leave alone, and how strong they are."""

from __future__ import annotations

import pytest
import torch
from augment_helpers import only, seeded

from stylegan_lightning.augment import AugmentPipe
from stylegan_lightning.augment.color import recolor

GREY = torch.tensor([0.4, 0.4, 0.4, 1.0])


def drawn(name, n=32, **strengths):
    return only(name, **strengths).draw((n, 3, 4, 4), seeded()).color


def test_hue_and_saturation_keep_grey_and_luma():
    imgs = torch.rand(32, 3, 4, 4)
    for name in ("hue", "saturation"):
        m = drawn(name)
        torch.testing.assert_close(m @ GREY, GREY.expand(32, 4))
        torch.testing.assert_close(recolor(imgs, m).mean(1), imgs.mean(1))


def test_hue_is_a_rotation():
    m = drawn("hue")[:, :3, :3]
    torch.testing.assert_close(m @ m.mT, torch.eye(3).expand(32, 3, 3))
    torch.testing.assert_close(torch.linalg.det(m), torch.ones(32))
    turn = drawn("hue", hue_max=1 / 3, n=4000)[:, :3, :3]  # at most 60 degrees: the trace is 1 + 2 cos
    assert ((turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).min() == pytest.approx(0.5, abs=0.01)


def test_luma_flip_is_an_involution_that_keeps_differences():
    m = drawn("lumaflip")
    torch.testing.assert_close(m @ m, torch.eye(4).expand(32, 4, 4))
    grey = (m @ GREY)[:, :3]
    assert torch.allclose(grey.abs(), GREY[:3]) and 8 < (grey[:, 0] < 0).sum() < 24
    color = torch.tensor([0.3, -0.3, 0.0, 1.0])
    torch.testing.assert_close(m @ color, color.expand(32, 4))


def test_brightness_and_contrast_have_their_strengths():
    shift = drawn("brightness", n=20000)[:, :3, 3]
    assert float(shift[:, 0].std()) == pytest.approx(0.2, rel=0.03) and torch.equal(shift[:, 0], shift[:, 2])
    factor = drawn("contrast", n=20000)[:, 0, 0]
    assert float(factor.log2().std()) == pytest.approx(0.5, rel=0.03)
    saturation = drawn("saturation", n=20000)
    assert float((saturation[:, 0, 0] - saturation[:, 0, 1]).log2().std()) == pytest.approx(1.0, rel=0.03)


def test_alpha_is_left_alone():
    imgs = torch.rand(8, 4, 6, 5)
    pipe = AugmentPipe("color", p=1.0)
    out = pipe(imgs, seeded())
    assert torch.equal(out[:, 3], imgs[:, 3])
    torch.testing.assert_close(out[:, :3], pipe(imgs[:, :3], seeded()))


def test_one_channel_is_the_grey_of_three():
    grey = torch.rand(8, 1, 6, 5)
    pipe = AugmentPipe("color", p=1.0)
    torch.testing.assert_close(pipe(grey, seeded()), pipe(grey.expand(-1, 3, -1, -1), seeded()).mean(1, keepdim=True))
    for name in ("hue", "saturation"):
        torch.testing.assert_close(only(name)(grey, seeded()), grey)


def test_steps_act_in_the_published_order():
    """Contrast scales what brightness has added."""
    names = ("brightness", "contrast", "lumaflip", "hue", "saturation")
    whole = AugmentPipe("color", p=1.0).draw((16, 3, 4, 4), seeded()).color
    product = torch.eye(4)
    for name in names:
        product = only(name).draw((16, 3, 4, 4), seeded()).color @ product
    torch.testing.assert_close(whole, product)
