"""Perceptual path length: closed forms of linear generators, the crop, the percentiles, and independence."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from rank_helpers import as_two_ranks
from torch import Tensor, nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.path_length import (
    PRESETS,
    PathLengthPreset,
    get_path_length_preset,
    path_length,
    prepare,
    slerp,
    trimmed_mean,
)
from stylegan_lightning.metrics.perceptual import load_distance
from stylegan_lightning.metrics.sampling import draw_pairs
from stylegan_lightning.networks import Generator, MappingNetwork, StyleGAN2Synthesis

ALL = PathLengthPreset("all", num_pairs=4000, percentiles=(0, 100), batch_size=1000)


class SquaredDistance:
    name, weights_hash = "squares", "-"

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().flatten(1).sum(1)


class Linear(nn.Module):
    """w = z in float64 (plus the label), img = A w."""

    def __init__(self, A: Tensor, c_dim: int = 0) -> None:
        super().__init__()
        self.A, self.z_dim, self.c_dim = A.double(), A.shape[1], c_dim
        self.dropout = nn.Dropout(0.5)
        self.labels: list[Tensor] = []

    def mapping(self, z: Tensor, c: Tensor) -> Tensor:
        self.labels.append(c)
        return z.double()[:, None].expand(-1, 2, -1)

    def synthesis(self, ws: Tensor, *, noise_mode: str) -> Tensor:
        assert noise_mode == "const" and not torch.is_grad_enabled()
        return self.dropout(ws[:, 0] @ self.A.T)[:, None, None]


def matrix(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("sampling", ["end", "full"])
def test_linear_generator_in_w_in_closed_form(sampling: str) -> None:
    """d / eps^2 = |A (w1 - w0)|^2 whatever t and eps are; the mean over normal w is 2 |A|_F^2."""
    A = matrix(6, 4)
    preset = dataclasses.replace(ALL, sampling=sampling)
    value = path_length(Linear(A), SquaredDistance(), preset).value
    z, _ = draw_pairs(4, 0, ALL.num_pairs, ALL.seed)
    exact = ((z[:, 1] - z[:, 0]).double() @ A.double().T).square().sum(1).mean()
    assert value == pytest.approx(float(exact), rel=1e-6)
    assert value == pytest.approx(2 * float(A.square().sum()), rel=0.06)
    assert path_length(Linear(A), SquaredDistance(), dataclasses.replace(preset, epsilon=0.1)).value == pytest.approx(
        value, rel=1e-6
    )


@pytest.mark.parametrize("sampling", ["end", "full"])
def test_linear_generator_in_z_in_closed_form(sampling: str) -> None:
    """On a sphere of radius sqrt(d) the chord of an angle eps omega is 2 sqrt(d) sin(eps omega / 2)."""
    d, eps = 6, 1e-2
    rotation, _ = torch.linalg.qr(matrix(d, d).double())
    preset = dataclasses.replace(ALL, space="z", sampling=sampling, epsilon=eps, num_pairs=500)
    value = path_length(Linear(3 * rotation), SquaredDistance(), preset).value
    z = draw_pairs(d, 0, 500, ALL.seed)[0].double()
    omega = torch.cosine_similarity(z[:, 0], z[:, 1], dim=1).acos()
    exact = (9 * 4 * d * torch.sin(eps * omega / 2).square() / eps**2).mean()
    assert value == pytest.approx(float(exact), rel=1e-4)
    assert value == pytest.approx(9 * d * float(omega.square().mean()), rel=1e-4)


def test_full_and_end_differ_where_the_path_bends() -> None:
    class Squared(Linear):
        def synthesis(self, ws: Tensor, *, noise_mode: str) -> Tensor:
            return super().synthesis(ws, noise_mode=noise_mode).square()

    values = [
        path_length(Squared(torch.eye(1)), SquaredDistance(), dataclasses.replace(ALL, sampling=s)).value
        for s in ("end", "full")
    ]
    # the rate is (2 w dw)^2; at the end 4 E[w0^2 (w1 - w0)^2] = 4 (1 + 3). Along the way w = m + s dw with m of
    # variance 1/2 and s of 1/12, both independent of dw: 4 (1/2 * 2 + 1/12 * 12)
    assert values[0] == pytest.approx(16, rel=0.2) and values[1] == pytest.approx(8, rel=0.2)


def test_slerp_keeps_length_and_angle() -> None:
    a, b = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = [slerp(a, b, torch.full((5, 1), t)) for t in (0.0, 1.0)]
    for x, end in zip((a, b), ends, strict=True):
        torch.testing.assert_close(end, x / x.norm(dim=1, keepdim=True) * math.sqrt(7))
    middle = slerp(a, b, torch.full((5, 1), 0.5))
    torch.testing.assert_close(torch.cosine_similarity(middle, a), torch.cosine_similarity(middle, b))
    assert torch.isfinite(slerp(a, a, torch.full((5, 1), 0.5))).all()


def test_percentiles_by_hand() -> None:
    values = np.random.default_rng(0).permutation(np.arange(200.0))
    assert trimmed_mean(values, (1, 99)) == (99.5, 198)  # 1.99 and 197.01, outwards: 1 to 198, both kept
    assert trimmed_mean(np.array([3.0]), (1, 99)) == (3, 1)
    outlier = np.append(np.arange(199.0), 1e9)
    assert trimmed_mean(outlier, (0, 98))[0] < 200 < trimmed_mean(outlier, (0, 100))[0]
    assert math.isnan(trimmed_mean(np.array([1.0, math.nan]), (1, 99))[0])


def test_crop_and_size() -> None:
    img = torch.arange(64 * 64.0).view(1, 1, 64, 64)
    assert torch.equal(prepare(img, True), img[:, :, 24:56, 16:48]) and prepare(img, False) is img
    big = torch.rand(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    assert prepare(big, True).shape[2:] == prepare(big, False).shape[2:] == (256, 256)
    torch.testing.assert_close(prepare(big, False)[0, 0, 0, 1], big[0, 0, :4, 4:8].mean())
    with pytest.raises(UserError, match=r"at least 8 pixels; these have 4 x 4.*ppl2_wend"):
        prepare(img[:, :, :4, :4], True)


def test_batch_size_and_number_of_pairs_do_not_change_a_pair() -> None:
    torch.manual_seed(0)
    G = Generator(
        StyleGAN2Synthesis(16, 3, w_dim=8, channel_base=64, channel_max=8),
        lambda w_dim, num_ws: MappingNetwork(w_dim, num_ws, z_dim=8, num_layers=2),
    )
    values = []
    for batch_size in (5, 2):
        for name in ("ppl2_wend", "ppl_zfull"):
            preset = dataclasses.replace(PRESETS[name], num_pairs=5, batch_size=batch_size)
            values.append(path_length(G, load_distance("efflite0"), preset).value)
    assert values[:2] == pytest.approx(values[2:], rel=1e-2) and min(values) > 0
    few, many = draw_pairs(8, 0, 3, 1)[0], draw_pairs(8, 0, 30, 1)[0]
    assert torch.equal(few, many[:3]) and not torch.equal(few, draw_pairs(8, 0, 3, 2)[0])


@pytest.mark.parametrize("space", ["z", "w"])
def test_labels_are_shared_by_a_pair_and_modes_come_back(space: str) -> None:
    G = Linear(matrix(3, 4), c_dim=5)
    G.train()

    def sample(count: int, seed: int) -> Tensor:
        return torch.eye(5)[torch.arange(count) % 5]

    preset = dataclasses.replace(ALL, space=space, num_pairs=6, batch_size=4)
    result = path_length(G, SquaredDistance(), preset, sample)
    assert [len(c) for c in G.labels] == [8, 4] and all(torch.equal(*c.chunk(2)) for c in G.labels)
    assert G.training and G.dropout.training and result.kept == 6
    assert result.as_dict()["metric"] == "all" and result.distance == "squares"
    with pytest.raises(UserError, match="c_dim 5"):
        path_length(G, SquaredDistance(), preset)
    with pytest.raises(UserError, match=r"labels \[N, 5\]; the data set gives \[6, 3\]"):
        path_length(G, SquaredDistance(), preset, lambda count, seed: torch.zeros(count, 3))


def test_diverged_generator_gives_nan() -> None:
    assert math.isnan(path_length(Linear(torch.full((2, 2), math.nan)), SquaredDistance(), ALL).value)


def test_presets() -> None:
    assert not PRESETS["ppl2_wend"].crop and PRESETS["ppl2_wend"].num_pairs == 50_000
    assert [(p.space, p.sampling) for n, p in PRESETS.items() if p.crop and n == f"ppl_{p.space}{p.sampling}"] == [
        ("z", "full"), ("w", "full"), ("z", "end"), ("w", "end"),
    ]  # fmt: skip
    assert get_path_length_preset("ppl2_wend", 100) == dataclasses.replace(
        PRESETS["ppl2_wend"], name="ppl2_wend_100", num_pairs=100
    )
    with pytest.raises(UserError, match="Did you mean 'ppl_wend'"):
        get_path_length_preset("pplwend")


@pytest.mark.parametrize(
    "wrong",
    [
        {"space": "x"},
        {"sampling": "all"},
        {"num_pairs": 0},
        {"epsilon": 0.0},
        {"percentiles": (9, 1)},
        {"batch_size": 0},
    ],
)
def test_bad_presets(wrong: dict) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} must be"):
        dataclasses.replace(ALL, **wrong)


@pytest.mark.parametrize("num_pairs", [7, 1])
def test_two_ranks_share_the_pairs(num_pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = dataclasses.replace(ALL, num_pairs=num_pairs, batch_size=2)
    one, two = Linear(matrix(3, 4)), Linear(matrix(3, 4))
    single = path_length(one, SquaredDistance(), preset)
    shared = as_two_ranks(monkeypatch, lambda: path_length(two, SquaredDistance(), preset))
    assert shared.value == pytest.approx(single.value, rel=1e-9)  # rows of other batches are rounded otherwise
    assert dataclasses.replace(shared, value=single.value) == single
    assert sum(len(c) for c in two.labels) == sum(len(c) for c in one.labels) == 2 * num_pairs
