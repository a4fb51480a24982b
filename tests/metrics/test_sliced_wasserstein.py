"""Sliced Wasserstein distance: known shifts, the pyramid, and what it does and does not notice."""

from __future__ import annotations

import math

import pytest
import torch
from rank_helpers import as_two_ranks
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.sliced_wasserstein import (
    PatchSet,
    cut_patches,
    enlarge,
    laplacian_pyramid,
    level_sizes,
    patch_distance,
    random_directions,
    shrink,
    sliced_distance,
    sliced_wasserstein,
)

FEW = {"patches": 8, "repeats": 1, "directions": 32}


def noise(n: int, size: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)


def measure(a: Tensor, b: Tensor, batch: int = 5, **options):
    return sliced_wasserstein(a.split(batch), b.split(batch), len(a), **{**FEW, **options})


# ------------------------------------------------------------------------------------------------ distance


def test_shift_of_gaussians_in_one_dimension() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 20_000, 1, generator=generator)
    one = torch.ones(1, 1)
    assert sliced_distance(a, a + 0.7, one) == pytest.approx(0.7, rel=1e-5)
    assert sliced_distance(a, b - 0.7, one) == pytest.approx(0.7, abs=0.03)
    assert sliced_distance(a, 2 * b, one) == pytest.approx(math.sqrt(2 / math.pi), abs=0.03)  # E|2x - x|
    assert sliced_distance(a, a[torch.randperm(len(a), generator=generator)], one) == 0


def test_shift_in_many_dimensions() -> None:
    """The mean of |v . theta| over the sphere is |v| Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))."""
    d = 5
    a = torch.randn(50, d, generator=torch.Generator().manual_seed(0))
    v = torch.tensor([3.0, 0, 4, 0, 0])
    mean = 5 * math.gamma(d / 2) / (math.sqrt(math.pi) * math.gamma((d + 1) / 2))
    assert sliced_distance(a, a + v, random_directions(4000, d, [0])) == pytest.approx(mean, rel=0.03)


def test_different_numbers_of_points() -> None:
    with pytest.raises(ValueError, match="same number of points"):
        sliced_distance(torch.zeros(3, 2), torch.zeros(4, 2), torch.ones(1, 2))


# ------------------------------------------------------------------------------------------------- pyramid


def test_pyramid_adds_up_to_the_picture() -> None:
    img = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    levels = laplacian_pyramid(img, 2)
    assert [tuple(level.shape[2:]) for level in levels] == [(64, 32), (32, 16)]
    torch.testing.assert_close(levels[0] + enlarge(levels[1]), img)


def test_smooth_pictures_are_all_in_the_smallest_level() -> None:
    flat = torch.full((1, 1, 32, 32), 7.0)
    torch.testing.assert_close(shrink(flat), torch.full((1, 1, 16, 16), 7.0))
    high, low = laplacian_pyramid(flat, 2)
    assert high.abs().max() < 1e-5 and low.mean() == pytest.approx(7)
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    assert laplacian_pyramid(ramp, 2)[0][..., 4:-4].abs().max() < 1e-4  # mirrored borders bend it


@pytest.mark.parametrize(
    ("size", "levels"),
    [
        ((16, 16), [(16, 16)]),
        ((128, 128), [(128, 128), (64, 64), (32, 32), (16, 16)]),
        ((72, 72), [(72, 72), (36, 36), (18, 18)]),
        ((100, 60), [(100, 60), (50, 30)]),
        ((66, 33), [(66, 33)]),
    ],
)
def test_level_sizes(size: tuple[int, int], levels: list[tuple[int, int]]) -> None:
    assert level_sizes(*size) == levels


def test_patches_are_cut_where_they_are_asked_for() -> None:
    img = torch.arange(2 * 3 * 10 * 9.0).view(2, 3, 10, 9)
    places = torch.tensor([[[0.0, 0.0], [0.999, 0.999]]] * 2)
    patches = cut_patches(img, places)
    assert patches.shape == (2, 2, 3, 49)
    assert torch.equal(patches[1, 0].view(3, 7, 7), img[1, :, :7, :7])
    assert torch.equal(patches[0, 1].view(3, 7, 7), img[0, :, 3:, 2:])


# --------------------------------------------------------------------------------------------------- value


def test_equal_sets_have_no_distance_and_it_is_symmetric() -> None:
    a, b = noise(20), noise(20, seed=1) // 2 + noise(20, 1, seed=2) // 2
    assert measure(a, a).levels == {32: 0, 16: 0} and measure(a, a).average == 0
    one, other = measure(a, b), measure(b, a)
    assert one == other and one.average == pytest.approx(sum(one.levels.values()) / 2) and one.average > 0


def test_batches_do_not_matter_and_the_seed_does() -> None:
    a, b = noise(13), noise(13, seed=1)
    values = [measure(a, b, batch).average for batch in (13, 4, 1)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)
    assert measure(a, b).average == measure(a, b).average != measure(a, b, seed=1).average


def test_it_notices_texture_at_its_scale_but_neither_tint_nor_contrast() -> None:
    clean, other = noise(40), noise(40, seed=1)
    options = {"patches": 100, "directions": 64}
    baseline = measure(clean, other, **options)
    smoothed = torch.nn.functional.avg_pool2d(other.float(), 3, 1, 1, count_include_pad=False).to(torch.uint8)
    assert measure(clean, smoothed, **options).levels[32] > 2 * baseline.levels[32]
    blots = noise(40, 16, seed=2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert measure(clean, blots, **options).levels[32] > 1.3 * baseline.levels[32]
    tinted = measure(clean, (other // 2 + torch.tensor([0, 20, 100])[:, None, None]).to(torch.uint8), **options)
    assert tinted.average == pytest.approx(baseline.average, rel=0.1)


def test_grey_is_grey_rgb() -> None:
    a, b = noise(6, channels=1), noise(6, channels=1, seed=1)
    assert measure(a, b) == measure(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1))
    flat = torch.full_like(a, 9)
    assert math.isfinite(measure(a, flat).average) and measure(flat, flat).average == 0


def test_two_ranks_share_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = noise(7), noise(7, seed=1)

    def share():
        rank = torch.distributed.get_rank()
        rows, sets = torch.arange(rank, 7, 2), []
        for images in (a, b):
            sets.append(PatchSet(7, 32, 32, patches=8))
            sets[-1].add(images[rows], rows)
        return patch_distance(*sets, repeats=1, directions=32)

    assert as_two_ranks(monkeypatch, share).average == pytest.approx(measure(a, b).average, rel=1e-6)


def test_bad_input() -> None:
    with pytest.raises(UserError, match="at least 16 x 16 pixels; these have 8 x 8"):
        measure(noise(3, 8), noise(3, 8))
    with pytest.raises(UserError, match="4 generated images; there are 3"):
        sliced_wasserstein([noise(4)], [noise(3)], 4, **FEW)
    with pytest.raises(UserError, match="4 real images; there are 0"):
        sliced_wasserstein([], [noise(3)], 4, **FEW)
    with pytest.raises(UserError, match=r"got 2 of 16 x 16 pixels.*and 3 of 16 x 16"):
        patch_distance(PatchSet(2, 16, 16), PatchSet(3, 16, 16))
    with pytest.raises(ValueError, match="added once"):
        patch_distance(PatchSet(2, 16, 16), PatchSet(2, 16, 16))
    with pytest.raises(UserError, match="patches must be at least 1"):
        PatchSet(2, 16, 16, patches=0)
    with pytest.raises(ValueError, match="pixels"):
        PatchSet(2, 16, 16).add(noise(1, 32), torch.tensor([0]))
