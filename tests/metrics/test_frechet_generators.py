"""The Fréchet distance of a generator, on one rank and on two, and what it says about misuse."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frechet_helpers import ALL, Pixels, TinyG, dataset, random_images, values_of
from rank_helpers import on_two_ranks
from torch import nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import to_uint8
from stylegan_lightning.metrics.by_features import Frechet, Kernel
from stylegan_lightning.metrics.images import GeneratedImages
from stylegan_lightning.metrics.metric import Subject
from stylegan_lightning.metrics.preset import PRESETS, PUBLISHED_COUNTS, Preset, get_preset, with_counts
from stylegan_lightning.metrics.sampling import NotFinite
from stylegan_lightning.metrics.value import MetricValue


def evaluate(G: nn.Module, preset: Preset = ALL, data: PreparedDataset | None = None) -> MetricValue:
    subject = Subject(G, data or dataset(random_images(40), c_dim=G.c_dim))
    (value,) = Frechet(preset, Pixels()).measure(subject).values
    return value


# --------------------------------------------------------------------------------------------- generators


def test_value_does_not_depend_on_the_batch_size() -> None:
    values = [evaluate(TinyG(), replace(ALL, batch_size=b)).value for b in (50, 7, 1)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-9) and values[0] > 0


def test_exactly_num_fake_images_with_the_presets_options() -> None:
    G = TinyG()
    result = evaluate(G, replace(ALL, num_fake=51, truncation_psi=0.5))
    assert G.made == result.num_fake == 51 and result.num_real == 40
    assert set(G.options) == {(0.5, "const")} and result.truncation_psi == 0.5


def test_seed_and_truncation_change_the_value() -> None:
    results = [evaluate(TinyG(), p) for p in (ALL, replace(ALL, seed=1), replace(ALL, truncation_psi=0.5))]
    assert len({r.value for r in results}) == 3
    assert results[0].comparable == results[2].comparable != results[1].comparable


def test_labels_come_from_the_data_set() -> None:
    G = TinyG(c_dim=3)
    targets = np.zeros((40, 3), np.float32)
    targets[:30, 0] = targets[30:, 2] = 1  # class 1 does not occur
    data = dataset(random_images(40), targets=targets)
    evaluate(G, replace(ALL, num_fake=400), data)
    share = torch.cat(G.labels).mean(0)
    assert share[1] == 0 and share[0] == pytest.approx(0.75, abs=0.08) and float(share.sum()) == 1
    again = TinyG(c_dim=3)
    evaluate(again, replace(ALL, num_fake=400, batch_size=9), data)
    assert torch.equal(torch.cat(again.labels), torch.cat(G.labels))


def test_labels_may_come_from_another_data_set() -> None:
    G = TinyG(c_dim=2)
    second = dataset(random_images(3), targets=np.eye(2, dtype=np.float32)[[1, 1, 1]])
    value = values_of(Frechet(ALL, Pixels()), Subject(G, dataset(random_images(40), c_dim=5), labels=second))
    assert torch.equal(torch.cat(G.labels), torch.eye(2)[[1] * 50]) and value["fd_pixels"] > 0


def test_reals_may_be_a_generator_which_makes_other_images() -> None:
    G = TinyG()
    preset = replace(ALL, num_fake=2000)
    same = Frechet(preset, Pixels()).measure(Subject(G, G)).values[0]
    assert G.made == same.num_real + same.num_fake == 4000
    other = TinyG()
    other.forward = lambda z, c, **_: 0.3 * torch.tanh(z).view(-1, 1, 2, 2)  # type: ignore[method-assign]
    assert 0 < same.value < 0.05 * values_of(Frechet(preset, Pixels()), Subject(other, G))["fd_pixels"]


def _numpy_state() -> np.ndarray:
    return np.random.get_state(legacy=False)["state"]["key"].copy()


def test_global_random_state_mode_and_gradients_are_left_alone() -> None:
    G = TinyG().train()
    G.dropout.eval()
    before, numpy_before = torch.get_rng_state(), _numpy_state()
    evaluate(G)
    assert torch.equal(before, torch.get_rng_state()) and np.array_equal(numpy_before, _numpy_state())
    assert G.training and not G.dropout.training and torch.is_grad_enabled()


def test_modes_come_back_after_an_error() -> None:
    G = TinyG(bad=float("nan")).train()
    with pytest.raises(NotFinite):
        GeneratedImages(G, 3).batch(torch.arange(3), "cpu")
    assert G.training and G.dropout.training


def test_usable_inside_inference_mode_and_afterwards_outside() -> None:
    metric, subject = Frechet(ALL, Pixels(), infinity=True), Subject(TinyG(), dataset(random_images(40)))
    with torch.inference_mode():
        inside = values_of(metric, subject)
    assert values_of(metric, subject) == inside
    subject.turn_to(TinyG())  # the reals are known from inside
    assert values_of(metric, subject) == inside and len(inside) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_images_that_are_not_finite_give_nan(bad: float) -> None:
    with pytest.warns(UserWarning, match="fd_pixels is NaN"):
        result = evaluate(TinyG(bad=bad))
    assert result.value != result.value and result.num_fake == 50
    metric, subject = Frechet(ALL, Pixels(), infinity=True), Subject(TinyG(bad=bad), dataset(random_images(40)))
    with pytest.warns(UserWarning, match="NaN"):
        assert list(map(np.isnan, values_of(metric, subject).values())) == [True, True]
    subject.turn_to(TinyG())
    assert values_of(metric, subject)["fd_pixels"] == evaluate(TinyG()).value  # the next one is not affected


def test_constant_images_have_a_finite_distance() -> None:
    G = TinyG()
    G.forward = lambda z, c, **_: torch.zeros(len(z), 1, 2, 2)  # type: ignore[method-assign]
    assert 0 < evaluate(G).value < float("inf")


def test_quantisation_is_nvidias() -> None:
    x = torch.tensor([-2.0, -1.0, -1.0 + 0.9 / 127.5, 0.0, 1.0 / 127.5, 1.0, 3.0])
    assert to_uint8(x).tolist() == [0, 0, 1, 128, 129, 255, 255]


# ------------------------------------------------------------------------------------------- several ranks

ODD = replace(ALL, num_fake=51, num_real=33)


def measure_on_a_rank(folder: Path) -> dict[str, Any]:
    extractor, rank = Pixels(), torch.distributed.get_rank()
    metric, subject = Frechet(ODD, extractor), Subject(TinyG(), dataset(random_images(40)), cache_dir=folder / "cache")
    metric.prepare(subject)
    real_seen = extractor.seen
    (value,) = metric.measure(subject).values
    fake_seen = extractor.seen - real_seen
    subject.turn_to(TinyG(bad=float("nan") if rank == 1 else None))
    bad = values_of(metric, subject)["fd_pixels"]
    subject.turn_to(TinyG())
    again = values_of(metric, subject)["fd_pixels"]
    by_rows = Kernel(ODD, extractor)  # asks for rows of the reals, which rank 0 alone has
    by_rows.prepare(subject)
    kernel = [values_of(by_rows, subject)["kd_pixels"] for _ in range(2)]
    return {"value": value, "seen": (real_seen, fake_seen), "bad": bad, "again": again, "kernel": kernel}


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """51 fakes and 33 reals, so that the ranks have 26 and 25, and 17 and 16; NaN on one rank reaches both and does
    not stay."""
    found = on_two_ranks(measure_on_a_rank, tmp_path)
    subject = Subject(TinyG(), dataset(random_images(40)))
    (single,) = Frechet(ODD, Pixels()).measure(subject).values
    kernel = values_of(Kernel(ODD, Pixels()), subject)["kd_pixels"]
    assert [f["seen"] for f in found] == [(17, 26), (16, 25)]
    for rank in found:
        assert replace(rank["value"], value=0.0) == replace(single, value=0.0)
        assert rank["value"].value == rank["again"] == pytest.approx(single.value, rel=1e-9)
        assert np.isnan(rank["bad"]) and rank["kernel"] == pytest.approx([kernel, kernel], rel=1e-9)


# ------------------------------------------------------------------------------------- names and messages


def test_record() -> None:
    result = evaluate(TinyG()).as_dict()
    assert (result["metric"], result["preset"], result["extractor"]) == ("fd_pixels", "all", "pixels")
    assert (result["weights_hash"], result["resize"], result["seed"]) == ("00000000", "none", 0)
    expected = "preset=all fake=50 seed=0 data=f0 real=all,mirror=False real=40"
    assert result["comparable"] == f"{expected} extractor=pixels-00000000 resize=none divisor=n-1"


def test_presets_and_their_messages() -> None:
    full = get_preset("nvidia")
    assert (full.num_real, full.num_fake, full.mirror_real, full.truncation_psi) == (None, 50_000, False, 1.0)
    assert (full.count("frechet"), full.count("swd")) == (50_000, 16_384)
    assert all((p.num_fake, p.counts) == (50_000, PUBLISHED_COUNTS) for n, p in PRESETS.items() if n != "quick")
    with pytest.raises(UserError, match="Did you mean 'torch_fidelity'"):
        get_preset("torchfidelity")
    for name, least in (("num_fake", 2), ("num_real", 2), ("batch_size", 1)):
        with pytest.raises(UserError, match=f"{name} must be at least {least}; got {least - 1}"):
            replace(ALL, **{name: least - 1})


def test_other_numbers_of_images_are_part_of_the_name() -> None:
    nvidia = get_preset("nvidia")
    assert with_counts(nvidia) is with_counts(nvidia, None, 50_000) is nvidia
    few = with_counts(nvidia, 300, 200)
    assert (few.name, few.num_real, few.num_fake) == ("nvidia_200_real300", 300, 200)
    assert few.count("swd") == 200 and few.divisor == "n"
    every = list(itertools.chain(*(with_counts(p, n).settings().values() for p in PRESETS.values() for n in (None, 9))))
    assert 9 in every and "quick_real9" in every


def test_misuse_is_explained() -> None:
    metric, reals = Frechet(ALL, Pixels()), dataset(random_images(9))
    with pytest.raises(UserError, match="fd_pixels needs real images: give reals"):
        metric.check(Subject(TinyG(), None))
    with pytest.raises(UserError, match="at least 2 real images; test has 1"):
        metric.check(Subject(TinyG(), dataset(random_images(1))))
    metric.check(Subject(TinyG(), reals))
    metric.check(Subject(reals, TinyG()))
    with pytest.raises(UserError, match="at least 2 rows of features; got 1"):
        metric.measure(Subject(dataset(random_images(1)), reals))
    with pytest.raises(UserError, match="label sampler"):
        metric.measure(Subject(TinyG(c_dim=3), TinyG()))
    with pytest.raises(UserError, match=r"\[N, 3\]; the data set gives \[50, 2\]"):
        metric.measure(Subject(TinyG(c_dim=3), dataset(random_images(9), c_dim=2)))
