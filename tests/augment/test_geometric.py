"""Resampling against a plain version and closed forms; laws and frequencies of the maps that are drawn."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from augment_helpers import only, seeded, smooth

from stylegan_lightning import ops
from stylegan_lightning.augment import AugmentPipe
from stylegan_lightning.augment.geometric import warp
from stylegan_lightning.augment.wavelets import SYM6

WAVELET = ops.setup_filter(SYM6)


def affine(a, b, x, c, d, y):
    return torch.tensor([[a, b, x], [c, d, y], [0, 0, 1]], dtype=torch.float64)[None]


def rotation(angle, x=0.0, y=0.0):
    c, s = math.cos(angle), math.sin(angle)
    return affine(c, -s, x, s, c, y)


IDENTITY, FLIP, QUARTER = affine(1, 0, 0, 0, 1, 0), affine(-1, 0, 0, 0, 1, 0), affine(0, -1, 0, 1, 0, 0)


def sources(matrix, size):
    """[N, 3, H, W]: where every pixel comes from, from the centre."""
    h, w = size
    y, x = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) - (s - 1) / 2 for s in (h, w)), indexing="ij")
    return torch.einsum("nij,jyx->niyx", matrix, torch.stack([x, y, torch.ones_like(x)]))


def plain(x, matrix):
    """The published procedure with the largest margins: pad, enlarge, sample, reduce, crop."""
    h, w = x.shape[2:]
    x = F.pad(x, [w - 1, w - 1, h - 1, h - 1], mode="reflect")
    x = ops.upfirdn2d_ref(x, WAVELET, up=2, padding=[6, 5, 6, 5], gain=4)
    # Enlarged by 2, pixel r is at 2 r - 1/2 from the centre, before and after.
    half = affine(2, 0, -0.5, 0, 2, -0.5)
    m = half @ matrix @ torch.linalg.inv(half)
    grid = sources(m, (2 * h + 12, 2 * w + 12))[:, :2].permute(0, 2, 3, 1)
    grid = grid / torch.tensor([x.shape[3] / 2, x.shape[2] / 2])
    x = F.grid_sample(x, grid, align_corners=False)
    return ops.upfirdn2d_ref(x, WAVELET, down=2, padding=-1, flip_filter=True)


@pytest.mark.parametrize("size", [(12, 12), (9, 16), (17, 10)])
def test_equals_the_plain_version(size):
    """Near the rim of the reflected picture, where the plain version filters some of the zeros, they differ."""
    torch.manual_seed(0)
    h, w = size
    matrix = torch.eye(3).double() + torch.randn(40, 3, 3).double() * torch.tensor(
        [[0.4, 0.4, w / 2], [0.4, 0.4, h / 2], [0, 0, 0]]
    )
    x = torch.randn(40, 3, h, w, dtype=torch.float64)
    ours, theirs = warp(x, matrix, WAVELET), plain(x, matrix)
    r = sources(matrix, size)[:, :2].abs()
    reach = 3 * matrix[:, :2, :2].abs().sum(2)[:, :, None, None]  # of the final filter
    rim = torch.tensor([1.5 * w - 1, 1.5 * h - 1])[:, None, None]
    inside, outside = (r + reach < rim - 3.5).all(1, keepdim=True), (r - reach > rim + 1).any(1, keepdim=True)
    assert inside.double().mean() > 0.2 and outside.any()
    torch.testing.assert_close(ours * inside, theirs * inside)
    assert (ours * outside == 0).all() and (theirs * outside == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_smooth_pictures_are_what_the_map_says(seed):
    """Cosines continue by reflection, so a warped picture is the same cosines at other places; within the tenth of a
    pixel by which the wavelet's centre of mass is off."""
    matrix = AugmentPipe("bg", p=1.0).draw((6, 3, 40, 48), seeded(seed)).geometric.double()
    x = smooth(6, 3, 40, 48, waves=1)
    k = torch.arange(2.0).double()
    r = sources(matrix, (40, 48))
    cx, cy = (torch.cos(math.pi * k[:, None, None, None] * (r[:, i] / (s - 1) + 0.5)) for i, s in ((0, 48), (1, 40)))
    at_pixels = [torch.cos(math.pi * k[:, None] * torch.arange(s).double() / (s - 1)) for s in (48, 40)]
    weights = torch.einsum("ncyx,xi,yj->ncij", x, *(torch.linalg.pinv(a) for a in at_pixels))
    expected = torch.einsum("ncij,inyx,jnyx->ncyx", weights, cx, cy)
    torch.testing.assert_close(warp(x, matrix, WAVELET), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize(("x", "y"), [(3, 0), (-2, 5), (7, -7)])
def test_whole_shifts_are_exact(x, y):
    imgs = torch.randn(2, 3, 16, 12)
    shifted = warp(imgs, affine(1, 0, -x, 0, 1, -y).float().expand(2, 3, 3), WAVELET)
    padded = F.pad(imgs, [8] * 4, mode="reflect")
    torch.testing.assert_close(shifted, padded[:, :, 8 - y : 24 - y, 8 - x : 20 - x], atol=2e-5, rtol=0)


def test_flips_and_quarter_turns_of_smooth_pictures():
    """Within the tenth of a pixel by which the wavelet's centre of mass is off, as published."""
    x = smooth(1, 3, 64, 64)
    close = {"atol": 0.2 * float(x.diff(dim=3).abs().max()), "rtol": 0}
    torch.testing.assert_close(warp(x, FLIP, WAVELET), x.flip(3), **close)
    torch.testing.assert_close(warp(x, QUARTER, WAVELET), x.rot90(1, (2, 3)), **close)
    torch.testing.assert_close(warp(warp(x, FLIP, WAVELET), FLIP, WAVELET), x, **close)
    y = x
    for _ in range(4):
        y = warp(y, QUARTER, WAVELET)
    torch.testing.assert_close(y, x, **close)


def test_drawn_flips_and_turns_form_their_groups_exactly():
    flips = only("xflip").draw((64, 3, 8, 8), seeded()).geometric
    turns = only("rotate90").draw((64, 3, 8, 8), seeded()).geometric
    assert torch.equal(flips @ flips, torch.eye(3).expand(64, 3, 3)) and flips.unique(dim=0).shape[0] == 2
    assert (
        torch.equal(turns @ turns @ turns @ turns, torch.eye(3).expand(64, 3, 3)) and turns.unique(dim=0).shape[0] == 4
    )


@pytest.mark.parametrize("angle", [0.3, 1.2, -2.5])
def test_a_round_picture_keeps_its_looks_when_turned(angle):
    x, y = torch.meshgrid(*[torch.linspace(-4, 4, 97, dtype=torch.float64)] * 2, indexing="ij")
    blob = torch.exp(-(x.square() + y.square()))[None, None]
    torch.testing.assert_close(warp(blob, rotation(angle), WAVELET), blob, atol=0.01, rtol=0)


def test_untouched_images_are_returned_bit_by_bit():
    x = torch.randn(2, 3, 8, 12)
    y = warp(x, torch.cat([IDENTITY, FLIP]).float(), WAVELET)
    assert torch.equal(y[0], x[0]) and not torch.equal(y[1], x[1])


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (5, 3), (4, 32)])
def test_tiny_and_narrow_pictures(size):
    """Where networks begin to grow, the resampling filter reaches far beyond the picture."""
    x = torch.randn(8, 3, *size)
    y = AugmentPipe("bgcfnc", p=1.0)(x, seeded())
    assert y.shape == x.shape and y.isfinite().all()
    whole = warp(x, affine(1, 0, 1, 0, 1, -1).float().expand(8, 3, 3), WAVELET)
    padded = F.pad(x, [1] * 4, mode="reflect")
    torch.testing.assert_close(whole, padded[:, :, :-2, 2:], atol=2e-5, rtol=0)


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_the_identity_stays_the_most_probable_turn(p):
    """Up to p = 0.8 what happens most is nothing, so that G need not learn the turned pictures (section 2.2)."""
    n = 20000
    m = only("rotate90", p=p).draw((n, 3, 8, 8), seeded()).geometric
    count = [int(((m[:, 0, 0] == c) & (m[:, 1, 0] == s)).sum()) / n for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    assert count == pytest.approx([1 - p * 3 / 4, p / 4, p / 4, p / 4], abs=0.015)
    assert count[0] > 1.5 * max(count[1:])


def test_one_of_two_rotations_happens_with_probability_p():
    m = only("rotate", p=0.6).draw((20000, 3, 8, 8), seeded()).geometric
    assert float((m[:, 0, 1] == 0).double().mean()) == pytest.approx(0.4, abs=0.015)
    angle = torch.atan2(m[:, 1, 0], m[:, 0, 0])[m[:, 0, 1] != 0]
    assert float(angle.square().mean()) == pytest.approx(math.pi**2 / 3, rel=0.05)  # uniform in +-pi


def test_strengths_are_the_published_ones():
    shape = (20000, 3, 10, 40)
    drawn = {name: only(name).draw(shape, seeded()).geometric for name in ("scale", "aniso", "xfrac", "xint")}
    assert float(drawn["scale"][:, 0, 0].log2().std()) == pytest.approx(0.2, rel=0.03)
    assert torch.equal(drawn["scale"][:, 0, 0], drawn["scale"][:, 1, 1])
    assert float(drawn["aniso"][:, 0, 0].log2().std()) == pytest.approx(0.2, rel=0.03)
    torch.testing.assert_close(drawn["aniso"][:, 0, 0] * drawn["aniso"][:, 1, 1], torch.ones(shape[0]))
    assert (drawn["xfrac"][:, :2, 2].std(0) / torch.tensor([40, 10])).tolist() == pytest.approx([0.125] * 2, rel=0.03)
    shifts = drawn["xint"][:, :2, 2]
    assert torch.equal(shifts, shifts.round()) and shifts.abs().amax(0).tolist() == [5, 1]
