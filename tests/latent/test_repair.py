"""Degradations, what is put back, and repairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from latent_helpers import FAMILIES, tiny

from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import to_dynamic_range, to_uint8
from stylegan_lightning.latent.codes import render, styles_of
from stylegan_lightning.latent.degradations import AddedNoise, Downscale, Grey, Identity, Mask
from stylegan_lightning.latent.repair import repair, settings_for
from stylegan_lightning.latent.restoring import (
    _carry,
    _cosines,
    add_missing_means,
    add_structure,
    blurred_around,
    luma,
    with_luma,
    with_surroundings,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def img():
    return noise(2, 3, 16, 16)


@pytest.fixture
def hole():
    hole = torch.zeros(1, 1, 16, 16)
    hole[..., 4:10, 5:12] = 1
    return hole


# ------------------------------------------------------------------------------------------- degradations


def test_masks(img, hole):
    mask = Mask(hole, img)
    left = mask.apply(img)
    assert torch.equal(mask.apply(left), left) and torch.equal(left * (1 - hole), left)
    assert torch.equal(left + img * hole, img) and mask.check(3, 16) == (3, 16, 16)
    other = torch.where(hole > 0, noise(2, 3, 16, 16, seed=1), img)
    assert torch.equal(Mask(hole, other).view(other), mask.view(img))  # what is in the hole does not count
    assert torch.equal(mask.view(img) * (1 - hole), left)


def test_holes_are_filled_from_around(hole):
    constant = torch.full((1, 3, 16, 16), 0.7)
    torch.testing.assert_close(blurred_around(constant, 1 - hole), constant)
    one = torch.zeros(1, 1, 16, 16)
    one[..., 0, 0] = 1
    torch.testing.assert_close(blurred_around(constant, one), constant)  # known at one corner alone
    two_sides = torch.cat([torch.full((1, 1, 16, 8), -1.0), torch.full((1, 1, 16, 8), 1.0)], 3)
    filled = blurred_around(two_sides, 1 - hole)
    assert filled.abs().max() <= 1 + 1e-6 and filled[..., 6, 5] == -1


def test_downscaling_is_linear_keeps_means_and_has_this_adjoint(img):
    small = Downscale(4)
    assert small.check(3, 16) == (3, 4, 4)
    torch.testing.assert_close(small.apply(torch.full_like(img, 0.3)), torch.full((2, 3, 4, 4), 0.3))
    y = noise(2, 3, 4, 4, seed=2)
    adjoint = F.interpolate(y, scale_factor=4) / 16
    torch.testing.assert_close((small.apply(img) * y).sum(), (img * adjoint).sum())
    torch.testing.assert_close(small.view(torch.full((1, 3, 4, 4), 0.3)), torch.full((1, 3, 16, 16), 0.3))


def test_grey_is_luma(img):
    grey = Grey()
    torch.testing.assert_close(grey.apply(noise(1, 1, 4, 4).expand(-1, 3, -1, -1)), noise(1, 1, 4, 4))
    torch.testing.assert_close(grey.apply(torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1)).item(), 0.299 * 2 - 1)
    rgba = noise(1, 4, 8, 8)
    left = grey.apply(rgba)
    assert grey.check(4, 8) == (2, 8, 8) == tuple(left.shape[1:]) and torch.equal(left[:, 1:], rgba[:, 3:])
    assert grey.view(left).shape == (1, 4, 8, 8) and grey.view(grey.apply(img)).shape == (2, 1, 16, 16)


@pytest.mark.parametrize("degradation", [Identity(), AddedNoise(25), Downscale(2), Grey()])
def test_gradients_reach_the_picture(degradation, img):
    img.requires_grad_()
    degradation.view(degradation.apply(img)).square().sum().backward()
    assert (img.grad != 0).float().mean() > 0.9


def test_bad_degradations(img, hole):
    for wrong, message in (
        (torch.zeros_like(hole), "covers nothing"),
        (torch.ones_like(hole), "covers everything"),
        (hole * 0.5, "0 .known. and 1"),
        (hole[0], "N or 1"),
        (hole[..., :8], "does not fit"),
        (hole.expand(3, -1, -1, -1), "does not fit"),
    ):
        with pytest.raises(UserError, match=message):
            Mask(wrong, img)
    with pytest.raises(UserError, match="from 2 on; got 1"):
        Downscale(1)
    with pytest.raises(UserError, match="must divide the model's 16 pixels; 3"):
        Downscale(3).check(3, 16)
    for sigma in (0, -1, 300, float("nan")):
        with pytest.raises(UserError, match="sigma"):
            AddedNoise(sigma)
    with pytest.raises(UserError, match="draws grey"):
        Grey().check(1, 16)


# -------------------------------------------------------------------------------------------- putting back


def test_surroundings_meet_without_a_seam(img, hole):
    kept = with_surroundings(img, noise(2, 3, 16, 16, seed=4), hole)
    assert torch.equal(kept * (1 - hole), noise(2, 3, 16, 16, seed=4) * (1 - hole))
    brighter = img * 0.5 + 0.2
    torch.testing.assert_close(with_surroundings(img * 0.5, brighter, hole), brighter)  # one tone apart all around
    assert torch.equal(with_surroundings(img, img, hole), img)


def test_differences_are_carried_harmonically():
    hole = torch.zeros(12, 12, dtype=torch.bool)
    hole[3:9, 0:7] = True  # as far as the picture's edge
    values = noise(2, 12, 12).double().numpy()
    carried = torch.from_numpy(_carry(values, hole.numpy()))
    assert torch.equal(carried[:, ~hole], torch.from_numpy(values)[:, ~hole])
    padded = F.pad(carried, (1, 1, 1, 1), value=float("nan"))
    around = torch.stack([padded[:, 2:, 1:-1], padded[:, :-2, 1:-1], padded[:, 1:-1, 2:], padded[:, 1:-1, :-2]])
    torch.testing.assert_close(around.nanmean(0)[:, hole], carried[:, hole])
    assert carried.abs().max() <= 1


def test_missing_means_are_added(img):
    left = Downscale(4).apply(noise(2, 3, 16, 16, seed=5))
    found = add_missing_means(img, left, 4)
    torch.testing.assert_close(F.avg_pool2d(found, 4), left, atol=1e-3, rtol=0)
    assert found.abs().max() <= 1
    torch.testing.assert_close(add_missing_means(img, Downscale(4).apply(img), 4), img, atol=1e-5, rtol=0)
    white = torch.ones(2, 3, 4, 4)
    torch.testing.assert_close(add_missing_means(img, white, 4), torch.ones_like(img), atol=1e-3, rtol=0)


def test_luma_is_kept_and_colours_stay_possible(img):
    wanted = noise(2, 1, 16, 16, seed=6)
    found = with_luma(img, wanted)
    torch.testing.assert_close(luma(found), wanted, atol=1e-6, rtol=0)
    assert found.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(with_luma(img, luma(img)), img, atol=1e-5, rtol=0)


def test_structure_is_added_and_noise_is_not(img):
    waves = _cosines(8).flatten(1)
    torch.testing.assert_close(waves @ waves.T, torch.eye(64), atol=1e-5, rtol=0)
    other = noise(2, 3, 16, 16, seed=7)
    torch.testing.assert_close(add_structure(img, other, 1e-7), other, atol=1e-5, rtol=0)
    flat = torch.zeros(2, 3, 32, 32)
    noisy = flat + 0.1 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    assert add_structure(flat, noisy, 0.1).square().mean() < 0.05 * 0.1**2
    edge = flat.clone()
    edge[..., 16:] = 0.8
    assert (add_structure(flat, noisy + edge, 0.1) - edge).square().mean() < 0.3 * 0.1**2
    assert add_structure(flat[:, :1, :4, :4], noisy[:, :1, :4, :4], 0.1).shape == (2, 1, 4, 4)


# ------------------------------------------------------------------------------------------------ repairs

QUICK = {"steps": 3, "perceptual_weight": 0.0}


def damages(picture, hole):
    yield Mask(hole, picture), picture * (1 - hole)
    yield Downscale(4), Downscale(4).apply(picture)
    yield AddedNoise(25), to_dynamic_range(to_uint8(picture + 0.2 * noise(*picture.shape)))
    if picture.shape[1] > 1:
        yield Grey(), Grey().apply(picture)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_model_repairs_and_keeps(family, hole):
    G = tiny(family)
    picture = to_dynamic_range(render(G, styles_of(G, [7, 8])))
    for degradation, left in damages(picture, hole):
        result = repair(G, left, degradation, replace(settings_for(degradation), **QUICK))
        assert result.images.shape == (2, 3, 16, 16) and result.images.dtype == torch.uint8
        kept(degradation, left, result.images)


def kept(degradation, left, images):
    if isinstance(degradation, Mask):
        where = degradation.hole.expand(len(images), images.shape[1], -1, -1) == 0
        assert torch.equal(images[where], to_uint8(left)[where])
    elif not isinstance(degradation, AddedNoise):
        again = degradation.apply(to_dynamic_range(images))
        assert (again - left).abs().max() * 127.5 <= 1


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_pictures(channels, hole):
    G = tiny("stylegan2", channels=channels)
    picture = to_dynamic_range(render(G, styles_of(G, [7])))
    for degradation, left in damages(picture, hole):
        result = repair(G, left, degradation, replace(settings_for(degradation), steps=2))
        assert result.images.shape == (1, channels, 16, 16)
        kept(degradation, left, result.images)


def test_what_the_model_can_draw_is_restored(hole):
    G = tiny("stylegan2")
    truth = render(G, styles_of(G, [7]))
    picture = to_dynamic_range(truth)
    least = {"Mask": 30, "Downscale": 22, "AddedNoise": 26, "Grey": 22}
    for degradation, left in damages(picture, hole):
        settings = replace(settings_for(degradation), space="w", steps=200, perceptual_weight=0, prior_weight=0)
        images = to_dynamic_range(repair(G, left, degradation, settings).images)
        where = degradation.hole if isinstance(degradation, Mask) else torch.ones_like(hole)
        error = ((images - picture).square() * where).sum() / where.sum() / 3
        assert 10 * torch.log10(4 / error) > least[type(degradation).__name__], type(degradation)


def test_what_is_in_the_hole_does_not_count(hole):
    G = tiny("stylegan2")
    picture = render(G, styles_of(G, [7]))
    scribbled = torch.where(hole > 0, torch.zeros_like(picture), picture)
    first, second = (
        repair(G, p, Mask(hole, to_dynamic_range(p)), replace(settings_for(Mask(hole, to_dynamic_range(p))), steps=3))
        for p in (picture, scribbled)
    )
    assert torch.equal(first.images, second.images)


def test_what_is_left_must_fit():
    with pytest.raises(UserError, match=r"\[N, 3, 4, 4\]; got \[1, 3, 16, 16\]"):
        repair(tiny("stylegan2"), torch.zeros(1, 3, 16, 16), Downscale(4))
    with pytest.raises(UserError, match="NaN"):
        repair(tiny("stylegan2"), torch.full((1, 3, 16, 16), float("nan")), AddedNoise(25))
