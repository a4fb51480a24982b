"""Regions of pictures that take another style."""

from __future__ import annotations

import pytest
import torch
from latent_helpers import STYLE_BASED, tiny

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.codes import noise_maps, render, styles_of
from stylegan_lightning.latent.editing import edit_region, feather, keep_outside


def half(size=16):
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 2 :] = 1
    return mask


@pytest.mark.parametrize("family", STYLE_BASED)
def test_no_mask_is_the_one_picture_and_a_full_one_the_other(family):
    G = tiny(family)
    a, b = styles_of(G, [0, 1]), styles_of(G, [2, 3])
    none, full = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    for mask, expected in ((none, a), (full, b)):
        assert (edit_region(G, a, b, mask).int() - render(G, expected).int()).abs().max() <= 1
    assert torch.equal(edit_region(G, a, a, half()), edit_region(G, a, a, none))
    images = edit_region(G, a, b, half())
    assert not torch.equal(images, edit_region(G, a, b, none))
    assert torch.equal(render(G, a), render(G, a.clone()))  # no hook is left behind
    assert all(not m._forward_hooks for m in G.modules())


def test_each_side_shows_its_style():
    G = tiny("stylegan2", resolution=32)
    a, b = styles_of(G, [0]), styles_of(G, [1])
    image, left, right = edit_region(G, a, b, half(32)).int(), render(G, a).int(), render(G, b).int()
    mostly = [(image - side).abs().float().mean((0, 1, 2)) for side in (left, right)]  # for each column of pixels
    assert mostly[0][:8].mean() < mostly[1][:8].mean() and mostly[1][-8:].mean() < mostly[0][-8:].mean()


def test_noise_of_the_picture_is_kept():
    G = tiny("stylegan2")
    a = styles_of(G, [0])
    noise = {m.name: torch.randn(1, 1, *m.size) for m in noise_maps(G)}
    assert (edit_region(G, a, a, half(), noise=noise).int() - render(G, a, noise=noise).int()).abs().max() <= 1


def test_one_style_has_no_regions():
    G = tiny("progan")
    with pytest.raises(UserError, match="style-based"):
        edit_region(G, styles_of(G, [0]), styles_of(G, [1]), half())


def test_feathering():
    mask = half(32)
    assert torch.equal(feather(mask, 0), mask)
    soft = feather(mask, 4)
    row = soft[0, 0, 5]
    assert torch.allclose(row + row.flip(0), torch.ones(32), atol=1e-5) and bool((row.diff() >= -1e-6).all())
    assert torch.allclose(row[:9], torch.zeros(9), atol=1e-4) and 0.05 < float(row[14]) < 0.5
    assert torch.allclose(feather(torch.ones(1, 1, 8, 8), 3), torch.ones(1, 1, 8, 8), atol=1e-6)


def test_pixels_outside_are_the_photo():
    photo = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    edited = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    kept = keep_outside(photo, edited, half())
    assert torch.equal(kept[..., :8], photo[..., :8]) and torch.equal(kept[..., 8:], edited[..., 8:])
    soft = keep_outside(photo, edited, torch.full((1, 1, 16, 16), 0.5)).float()
    assert (soft - (photo.float() + edited.float()) / 2).abs().max() <= 0.5
