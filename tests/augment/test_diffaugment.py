"""DiffAugment: each policy's law, second derivatives, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from augment_helpers import seeded

from stylegan_lightning.augment import DiffAugment
from stylegan_lightning.augment.diffaugment import cut_out_pixels, jitter, translate
from stylegan_lightning.losses import squared_gradient_norm


def numbers(n, *values):
    return (torch.full((n, 1, 1, 1), float(v)) for v in values)


def test_the_middle_of_all_ranges_changes_no_color():
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(jitter(x, *numbers(2, 0.5, 0.5, 0.5)), x)


def test_brightness_saturation_and_contrast():
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(jitter(x, *numbers(2, 0.9, 0.5, 0.5)), x + 0.4)
    grey = jitter(x, *numbers(2, 0.5, 0.0, 0.5))
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand_as(x))
    strong = jitter(x, *numbers(2, 0.5, 0.5, 0.9))
    torch.testing.assert_close(strong.mean((1, 2, 3)), x.mean((1, 2, 3)))
    torch.testing.assert_close(strong - strong.mean((1, 2, 3), True), 1.4 * (x - x.mean((1, 2, 3), True)))


def test_color_of_one_and_four_channels():
    x = torch.randn(6, 4, 5, 6)
    color = DiffAugment("color")
    out = color(x, seeded())
    assert torch.equal(out[:, 3], x[:, 3])
    torch.testing.assert_close(out[:, :3], color(x[:, :3], seeded()))
    grey = x[:, :1]
    torch.testing.assert_close(color(grey, seeded()), color(grey.expand(-1, 3, -1, -1), seeded())[:, :1])


@pytest.mark.parametrize(("place", "shift"), [(0.0, (2, 1)), (0.5, (0, 0)), (0.999, (-2, -1))])
def test_translation_moves_pixels_and_shows_zeros(place, shift):
    x = torch.randn(2, 3, 8, 16)
    dx, dy = -shift[0], -shift[1]
    padded = F.pad(x, [2, 2, 1, 1])
    expected = padded[:, :, 1 - dy : 9 - dy, 2 - dx : 18 - dx]
    assert torch.equal(translate(x, torch.full((2, 2), place), 1 / 8), expected)


def test_translation_is_uniform_over_whole_shifts():
    x = torch.zeros(9000, 1, 8, 16)
    x[:, :, 4, 8] = 1
    place = DiffAugment("translation")(x, seeded()).mean(0)[0]
    torch.testing.assert_close(place[3:6, 6:11], torch.full((3, 5), 1 / 15), atol=0.01, rtol=0)


@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
def test_cutout_is_half_of_each_side_around_its_centre(size):
    x = torch.ones(1, 3, *size)
    h, w = (int(s / 2 + 0.5) for s in size)
    y = cut_out_pixels(x, torch.tensor([[0.5, 0.5]]), 0.5)
    assert (y == 0).sum() == 3 * h * w
    corner = cut_out_pixels(x, torch.tensor([[0.0, 0.0]]), 0.5)
    first = [e - e // 2 for e in (h, w)]  # the centre is on the first pixel: the rest is outside
    assert (corner[0, 0, : first[0], : first[1]] == 0).all() and (corner == 0).sum() == 3 * first[0] * first[1]


def test_each_image_is_changed_on_its_own_and_repeatably():
    augment, x = DiffAugment(), torch.randn(1, 3, 16, 16).expand(4, -1, -1, -1)
    first = augment(x, seeded())
    assert torch.equal(first, augment(x, seeded())) and len(first.unique(dim=0)) == 4
    torch.manual_seed(1)
    default = augment(x)
    torch.manual_seed(1)
    assert torch.equal(default, augment(x))
    drawn = augment.draw(x.shape, seeded())
    torch.testing.assert_close(augment.transform(x[2:3], drawn[2:3]), first[2:3])


@pytest.mark.parametrize("policy", ["color", "translation", "cutout", "cutout, color", "color,translation,cutout"])
def test_derivatives_to_second_order(policy):
    augment = DiffAugment(policy)
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64, requires_grad=True)
    drawn = augment.draw(x.shape, seeded())
    assert torch.autograd.gradcheck(lambda x: augment.transform(x, drawn), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: augment.transform(x, drawn).pow(3), x, fast_mode=True)
    penalty = squared_gradient_norm(lambda imgs: augment.transform(imgs, drawn).sum((1, 2, 3)), x)
    assert penalty.isfinite().all()


def test_compiles_into_one_graph():
    torch._dynamo.reset()
    augment, x = DiffAugment(), torch.randn(2, 3, 8, 8)
    torch.manual_seed(0)
    expected = augment(x)
    torch.manual_seed(0)
    torch.testing.assert_close(torch.compile(augment, fullgraph=True, backend="eager")(x), expected)


def test_other_policies_and_images_are_refused():
    with pytest.raises(ValueError, match="policy must be one of color, translation, cutout; got 'flip'"):
        DiffAugment("color,flip")
    with pytest.raises(ValueError, match="channels"):
        DiffAugment()(torch.zeros(2, 2, 8, 8))
