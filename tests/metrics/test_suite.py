"""Several metrics together: shared passes, failures, names, and what presets and options change in the values."""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frechet_helpers import ALL, Pixels, TinyG, dataset, gaussian_images, random_images, values_of
from rank_helpers import on_two_ranks
from torch import Tensor, nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.by_features import (
    DensityCoverage,
    FeatureMetric,
    Frechet,
    Kernel,
    Memorised,
    PrecisionRecall,
    Score,
)
from stylegan_lightning.metrics.by_images import Diversity, Equivariance, PathLength
from stylegan_lightning.metrics.features import InceptionFID
from stylegan_lightning.metrics.images import GeneratedImages
from stylegan_lightning.metrics.inception_score import class_logits, fidelity_order, inception_score
from stylegan_lightning.metrics.kid import kid, numpy_subsets, torch_subsets
from stylegan_lightning.metrics.metric import Metric, Subject, make_value
from stylegan_lightning.metrics.neighbours import density_coverage, memorisation, memorisation_picture, precision_recall
from stylegan_lightning.metrics.preset import PRESETS, Preset, get_preset, with_counts
from stylegan_lightning.metrics.suite import METRICS, Entry, Suite, Tools, build_metric
from stylegan_lightning.metrics.value import Measured, check_comparable

REALS = random_images(40, 4)
FEW = {name: with_counts(preset, 40, 60) for name, preset in PRESETS.items()}


class FourG(TinyG):
    """4 x 4 normal pixels; `shift` of the mean and `std` in grey levels."""

    z_dim, img_resolution = 16, 4

    def __init__(self, shift: float = 0.0, std: float = 60.0, bad: float | None = None) -> None:
        super().__init__(bad=bad)
        self.shift, self.std = shift, std

    def forward(self, z: Tensor, c: Tensor, **options: Any) -> Tensor:
        super().forward(z[:, :4], c, **options)  # records
        grey = options["truncation_psi"] * self.std * z + self.shift
        return (grey.round() / 127.5).view(-1, 1, 4, 4) * (1 if self.bad is None else self.bad)


class TinyInception(InceptionFID):
    """Features are 16 pixels, from which 10 classes are read."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.name, self.num_features, self.weights_hash, self.resize = "inception", 16, "00000000", "none"
        self.net = nn.Module()
        weight = torch.randn(10, 16, generator=torch.Generator().manual_seed(0)) / 100
        self.net.fc = nn.Linear(16, 10, bias=False)
        self.net.fc.weight.data.copy_(weight)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).float()


class Near(Pixels):
    """Pixels that float16 rounds."""

    def forward(self, images: Tensor) -> Tensor:
        return 1000 + super().forward(images) / 8


def rows(images: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(images).flatten(1).float()


def fakes(count: int = 60, seed: int = 0, shift: float = 0.0) -> Tensor:
    """uint8 [count, 1, 4, 4], those that FourG is asked for."""
    return GeneratedImages(FourG(shift), count, seed).batch(torch.arange(count), "cpu")


def subject(shift: float = 0.0, **options: Any) -> Subject:
    return Subject(FourG(shift), dataset(REALS), **options)


def every_feature_metric(preset: Preset, extractor: Pixels, **options: Any) -> list[FeatureMetric]:
    kinds = Frechet, Kernel, PrecisionRecall, DensityCoverage
    return [*(kind(preset, extractor, **options) for kind in kinds), Memorised(preset, extractor)]


def all_values(metrics: list[Metric], of: Subject) -> dict[str, float]:
    return {v.metric: v.value for _, found in Suite([Entry(m) for m in metrics]).measure(of) for v in found.values}


class Counted(Metric):
    """Counts its measurements, or fails."""

    kind = "counted"
    needs_reals = False

    def __init__(self, name: str, error: Exception | None = None) -> None:
        super().__init__(ALL)
        self.name, self.error, self.times = name, error, 0

    names = property(lambda self: (self.name,))

    def measure(self, subject: Subject) -> Measured:
        self.times += 1
        if self.error is not None:
            raise self.error
        return Measured([make_value(self, self.name, 1.0, subject, num_real=0, num_fake=50)])


# ------------------------------------------------------------------------------------------------ passes


def test_one_pass_serves_all_metrics() -> None:
    x, y = Pixels(16, name="x"), Pixels(8, name="y")
    metrics = [*every_feature_metric(ALL, x), Kernel(ALL, y), Frechet(ALL, y)]
    of = subject()
    values = all_values(metrics, of)
    assert of.G.made == 50 + Memorised.shown
    assert (x.seen - 50) % 40 == (y.seen - 50) % 40 == 0  # the reals in whole passes
    alone = {}
    for metric in metrics:
        alone |= values_of(metric, subject())
    assert values == alone and len(values) == 1 + 1 + 2 + 2 + 2 + 2


def test_other_numbers_seeds_and_truncations_have_passes_of_their_own() -> None:
    presets = [ALL, replace(ALL, num_fake=30), replace(ALL, seed=1), replace(ALL, truncation_psi=0.5)]
    of = subject()
    metrics = [Frechet(p, Pixels(4, name=f"net{i}")) for i, p in enumerate(presets)]
    values = all_values([*metrics, Kernel(replace(ALL, name="same images"), Pixels(4, name="other"))], of)
    assert of.G.made == 50 + 30 + 50 + 50 and len(set(values.values())) == 5
    assert {psi for psi, _ in of.G.options} == {1.0, 0.5}


def test_a_preset_may_give_single_metrics_other_numbers() -> None:
    preset = replace(ALL, counts={"kernel": 30})
    values = [v for m in every_feature_metric(preset, Pixels(16)) for v in m.measure(subject()).values]
    assert {v.metric for v in values if v.num_fake == 30} == {"kd_pixels"}
    assert {v.num_fake for v in values} == {30, 50}


def test_generated_reals_are_as_many_as_the_preset_says() -> None:
    of = Subject(FourG(), FourG())
    metrics = [Frechet(replace(ALL, num_fake=n), Pixels(name=f"net{n}")) for n in (50, 60)]
    metrics.append(Frechet(replace(ALL, seed=1), metrics[0].extractor))  # the same network, other reals
    values = [metric.measure(of).values[0] for metric in metrics]
    assert [(v.num_real, v.num_fake) for v in values] == [(50, 50), (60, 60), (50, 50)]
    assert of.reals.made == 160 and len({v.value for v in values}) == 3  # type: ignore[union-attr]


def test_metrics_may_be_measured_one_after_the_other() -> None:
    """Without having been announced together; the pass is made again for what it did not give."""
    of, extractor = subject(), Pixels(16)
    metrics = every_feature_metric(ALL, extractor)
    values = [values_of(metric, of) for metric in metrics]
    assert values == [values_of(metric, subject()) for metric in metrics]
    assert of.G.made == 100 + Memorised.shown  # sums alone, then rows
    values_of(Kernel(ALL, Pixels(8)), of)
    assert of.G.made == 150 + Memorised.shown


def test_only_what_is_measured_is_computed_for_the_next_fakes() -> None:
    of, x, y = subject(), Pixels(16, name="x"), Pixels(8, name="y")
    suite = Suite([Entry(Frechet(ALL, x)), Entry(Frechet(ALL, y), every_ticks=2)])
    list(suite.measure(of))
    of.turn_to()
    list(suite.measure(of, suite.metrics[:1]))
    assert of.G.made == 100 and (x.seen, y.seen) == (40 + 100, 40 + 50)
    with_other_weights = FourG(shift=9)
    of.turn_to(with_other_weights)
    assert [m for m, _ in suite.measure(of)] == suite.metrics and with_other_weights.made == 50
    assert (x.seen, y.seen) == (40 + 150, 40 + 100)


def test_metrics_share_the_statistics_of_the_reals(tmp_path: Path) -> None:
    """Also where their largest numbers of reals differ, which are not reached here."""
    extractor, again = Pixels(16), Pixels(16)
    kernel, *others = [*every_feature_metric(ALL, extractor)[1:], Frechet(ALL, extractor)]
    of = subject(cache_dir=tmp_path)
    kernel.prepare(of)
    assert extractor.seen == 40
    Suite([Entry(m) for m in others]).prepare(of)
    values = all_values([kernel, *others], of)
    assert extractor.seen == 40 + 50 and len(list(tmp_path.glob("*.npz"))) == 1
    assert all_values(every_feature_metric(ALL, again), subject(cache_dir=tmp_path)) == values and again.seen == 50


def test_limits_of_reals_that_are_reached_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kernel, "most_real", 30)
    of = subject(cache_dir=tmp_path)
    values = [v for m in every_feature_metric(ALL, Pixels(16)) for v in m.measure(of).values]
    assert {v.metric: v.num_real for v in values}["kd_pixels"] == 30 and values[0].num_real == 40
    assert len(list(tmp_path.glob("*.npz"))) == 2


# ---------------------------------------------------------------------------------------------- failures


def test_a_metric_that_fails_is_reported_and_the_others_go_on() -> None:
    first, last = Counted("first"), Counted("last")
    errors = [RuntimeError("one"), ValueError("two"), UserError("three"), MemoryError("four"), OSError("five")]
    suite = Suite([Entry(m) for m in (first, *(Counted(str(e), e) for e in errors), last)])
    with pytest.warns(UserWarning) as caught:
        done = [m for m, _ in suite.measure(subject())]
    assert [str(w.message) for w in caught] == [f"{e} could not be computed: {e}" for e in errors]
    assert done == [first, last] and first.times == last.times == 1


@pytest.mark.parametrize("kind", [RuntimeError, OSError, UserError])
def test_the_error_of_a_pass_reaches_every_metric_that_needs_it(kind: type[Exception]) -> None:
    class Broken(Pixels):
        def forward(self, images: Tensor) -> Tensor:
            features = super().forward(images)
            if len(images) == 10:  # of the fakes: 40 + 10
                self.kept = weakref.ref(features)
                raise kind("the network is broken")
            return features

    preset, broken, other = replace(ALL, batch_size=40), Broken(16), Pixels(16, name="other")
    of = subject()
    needing = [Frechet(preset, broken), Kernel(preset, broken), Frechet(preset, other)]
    free = [Counted("free"), Frechet(replace(preset, num_fake=30), Pixels(16, name="more"))]
    with pytest.warns(UserWarning) as caught:
        done = [m for m, _ in Suite([Entry(m) for m in (*needing, *free)]).measure(of)]
    messages = [str(w.message) for w in caught]
    names = "fd_pixels", "kd_pixels", "fd_other"
    assert messages == [f"{name} could not be computed: the network is broken" for name in names]
    assert done == free and of.G.made == 50 + 30  # the failed pass once
    assert broken.kept() is None  # nothing of it stays in memory
    of.turn_to()
    with pytest.warns(UserWarning, match="broken"):
        assert not all_values(needing[:1], of)  # not remembered for the next fakes
    assert of.G.made == 50 + 30 + 50


def test_a_diverged_generator_is_nan_everywhere() -> None:
    metrics = every_feature_metric(ALL, Pixels(16))
    with pytest.warns(UserWarning, match="is NaN: the generated images are not finite") as caught:
        values = all_values(metrics, Subject(FourG(bad=np.nan), dataset(REALS)))
    assert np.isnan(list(values.values())).all() and list(values) == [n for m in metrics for n in m.names]
    assert len(caught) == len(metrics)


def test_two_entries_with_one_name_are_refused() -> None:
    quick, nvidia = (Entry(Frechet(FEW[name], Pixels())) for name in ("quick", "nvidia"))
    with pytest.raises(UserError, match="fd_pixels would be measured twice"):
        Suite([quick, Entry(Kernel(ALL, Pixels())), nvidia])
    with pytest.raises(UserError, match="metrics: fd_pixels would"):
        Suite([quick, Entry(Frechet(ALL, Pixels(), infinity=True))])
    assert len(Suite([quick, Entry(Frechet(ALL, Pixels(name="other")))]).metrics) == 2


def test_check_lists_every_problem() -> None:
    stored, frechet = dataset(random_images(9, 4)), Frechet(ALL, Pixels(), per_class=True)
    suite = Suite([Entry(m) for m in (Equivariance(ALL, "eqr"), Kernel(ALL, Pixels()), Diversity(ALL), frechet)])
    with pytest.raises(UserError) as error:
        suite.check(Subject(stored, stored))
    first, *problems = str(error.value).split("\n  - ")
    assert first == "3 metrics cannot be measured:"
    starts = ["eqr needs a generator", "MS-SSIM needs pictures", "metrics.per_class=true"]
    assert [p[: len(s)] for p, s in zip(problems, starts, strict=True)] == starts
    with pytest.raises(UserError, match=r"^MS-SSIM needs pictures"):
        Suite([Entry(Diversity(ALL))]).check(Subject(stored, stored))
    Suite([Entry(Kernel(ALL, Pixels()))]).check(Subject(stored, stored))


# ------------------------------------------------------------------------------------------ two processes


class LostImages(type(dataset(REALS))):  # type: ignore[misc]
    def batch(self, indices: Any, resolution: int | None = None) -> Any:
        raise OSError("the disk is gone")


def measure_on_a_rank(folder: Path) -> dict[str, Any]:
    rank, preset = torch.distributed.get_rank(), replace(ALL, num_fake=51)
    of = subject(cache_dir=folder / "cache")
    suite = Suite([Entry(m) for m in every_feature_metric(preset, Pixels(16), bootstrap=3)])
    suite.prepare(of)
    good = [found for _, found in suite.measure(of)]
    lost = LostImages(REALS, np.zeros((40, 0), np.float32), name="lost", fingerprint="lost")
    of.turn_to(lost if rank == 1 else dataset(REALS, "others"))
    with warnings.catch_warnings(record=True, action="always") as caught:
        failed = list(suite.measure(of))
    of.turn_to(FourG())
    again = [found for _, found in suite.measure(of)]
    return {"good": good, "failed": failed, "messages": [str(w.message) for w in caught], "again": again}


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """An error on one rank fails the metrics on both, and neither waits for the other."""
    metrics = every_feature_metric(replace(ALL, num_fake=51), Pixels(16), bootstrap=3)
    single = [metric.measure(subject()) for metric in metrics]
    for rank, found in enumerate(on_two_ranks(measure_on_a_rank, tmp_path)):
        for measured, again, expected in zip(found["good"], found["again"], single, strict=True):
            assert measured.values == again.values
            for value, other in zip(measured.values, expected.values, strict=True):
                assert value.value == pytest.approx(other.value, rel=1e-9) and value.low == pytest.approx(other.low)
                assert value.comparable == other.comparable
            assert list(measured.pictures) == ([] if rank else list(expected.pictures))
        why = ("another process of this run could not go on", "the disk is gone")[rank]
        assert not found["failed"]
        assert found["messages"] == [f"{m.names[0]} could not be computed: {why}" for m in metrics]


# -------------------------------------------------------------------------------------------------- names


def tools(extractor: Any, **options: Any) -> Tools:
    return Tools(ALL, lambda: extractor, perceptual=lambda: extractor, **options)


def test_names_say_the_network_unless_it_is_the_published_one() -> None:
    def names(kind: str, extractor: Any, **options: Any) -> str:
        return " ".join(build_metric(kind, tools(extractor, **options)).names)

    inception, vgg, other, lpips = TinyInception(), Pixels(name="vgg16"), Pixels(name="x"), Pixels(name="lpips_vgg16")
    published = {
        "frechet": (inception, "fid", "fd_x"),
        "kernel": (inception, "kid", "kd_x"),
        "precision_recall": (vgg, "precision recall", "precision_x recall_x"),
        "density_coverage": (vgg, "density coverage", "density_x coverage_x"),
        "ppl2_wend": (lpips, "ppl2_wend", "ppl2_wend_x"),
    }
    for kind, (network, with_it, with_another) in published.items():
        assert (names(kind, network), names(kind, other)) == (with_it, with_another)
    assert names("frechet", inception, infinity=True) == "fid fid_infinity"
    assert names("frechet", vgg, infinity=True) == "fd_vgg16 fd_vgg16_infinity"
    assert names("neighbours", inception) == "memorised_inception copies_inception"
    rest = set(METRICS) - set(published) - {"neighbours", "score"} - {k for k in METRICS if k.startswith("ppl_")}
    assert {kind: names(kind, other) for kind in rest} == {kind: kind for kind in rest}
    assert names("score", inception) == "is"
    with pytest.raises(UserError, match="needs the classes of the Inception network; extractor=x has none"):
        build_metric("score", tools(other))
    with pytest.raises(UserError, match=r"There is no metric 'frechett'.*Did you mean 'frechet'"):
        build_metric("frechett", tools(other))


def test_options_reach_the_metrics() -> None:
    frechet = build_metric("frechet", tools(Pixels(), bootstrap=5, infinity=True, per_class=True))
    assert isinstance(frechet, Frechet) and frechet.per_class
    values = build_metric("kernel", tools(Pixels(16), bootstrap=5)).measure(subject()).values
    assert values[0].low is not None and values[0].low < values[0].value < values[0].high
    path = build_metric("ppl_zend", tools(Pixels()))
    assert isinstance(path, PathLength) and (path.options.num_pairs, path.options.space) == (50, "z")


def test_direction() -> None:
    lower = {kind: build_metric(kind, tools(TinyInception())).lower_is_better for kind in METRICS}
    higher = {"score", "precision_recall", "density_coverage", "eqt_int", "eqt_frac", "eqr"}
    assert {kind for kind, is_lower in lower.items() if not is_lower} == higher


# ------------------------------------------------------------------------------------------------ presets


def test_divisor_changes_the_covariance_terms_by_a_known_factor() -> None:
    n = len(REALS)
    values = [
        values_of(Frechet(replace(ALL, num_fake=n, divisor=divisor), Pixels(16)), subject(shift=5))["fd_pixels"]
        for divisor in ("n", "n-1")
    ]
    means = float((rows(REALS).mean(0) - rows(fakes(n, shift=5)).mean(0)).square().sum())
    assert means > 100 and values[0] - means == pytest.approx((values[1] - means) * (1 - 1 / n), rel=1e-6)
    assert [PRESETS[name].divisor for name in PRESETS] == ["n-1", "n", "n-1", "n-1", "n-1"]


def test_draws_of_the_kernel_distance() -> None:
    expected = {
        "nvidia": numpy_subsets(40, 60, seed=2020),
        "torch_fidelity": numpy_subsets(40, 60, seed=2020),
        "torchmetrics": torch_subsets(40, 60, seed=0),
    }
    found = {}
    for name, subsets in expected.items():
        (value,) = Kernel(FEW[name], Pixels(16)).measure(subject()).values
        theirs = kid(rows(REALS), rows(fakes()), subsets)
        assert (value.value, value.std) == (theirs.mean, theirs.std) and theirs.std > 0
        found[name] = value.value
    assert found["nvidia"] == found["torch_fidelity"] != found["torchmetrics"]


def test_parts_of_the_inception_score() -> None:
    logits = class_logits(rows(fakes()), TinyInception())
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    expected = {
        "nvidia": inception_score(logits),
        "torch_fidelity": inception_score(logits, order=fidelity_order(60)),
        "torchmetrics": inception_score(logits, order=order, chunks=True, correction=1),
    }
    for name, theirs in expected.items():
        (value,) = Score(FEW[name], TinyInception()).measure(Subject(FourG(), None)).values
        assert (value.value, value.std, value.num_real) == (theirs.mean, theirs.std, 0)
    assert len({e.mean for e in expected.values()}) == 3 and min(e.mean for e in expected.values()) > 1.2


def test_type_of_the_distances_between_neighbours() -> None:
    near = [1000 + r[:, :2] / 8 for r in (rows(REALS), rows(fakes(shift=60)))]
    dense, found = density_coverage(*near), []
    for name, dtype in (("nvidia", torch.float16), ("torch_fidelity", torch.float32), ("quick", torch.float32)):
        of, expected = subject(shift=60), precision_recall(*near, dtype=dtype)
        found.append(values_of(PrecisionRecall(FEW[name], Near(2)), of))
        assert found[-1] == {"precision_pixels": expected.precision, "recall_pixels": expected.recall}
        assert values_of(DensityCoverage(FEW[name], Near(2)), of) == {
            "density_pixels": dense.density,
            "coverage_pixels": dense.coverage,
        }
    assert found[0] != found[1] == found[2]


# --------------------------------------------------------------------------------------- comparable values


def one_of_each(preset: Preset, extractor: Any, of: Subject) -> dict[str, str]:
    metrics = [*every_feature_metric(preset, extractor), Counted("counted")]
    return {v.metric: v.comparable for m in metrics for v in m.measure(of).values}


def test_values_compare_unless_what_decides_them_differs() -> None:
    first = one_of_each(FEW["nvidia"], Pixels(16), subject())
    others = replace(FEW["nvidia"], batch_size=7, truncation_psi=0.7)
    assert one_of_each(others, Pixels(16), subject(shift=3)) == first
    nvidia = FEW["nvidia"]
    changes = {
        "preset": (FEW["torch_fidelity"], Pixels(16), subject()),
        "number of fakes": (replace(nvidia, num_fake=61), Pixels(16), subject()),
        "number of reals": (replace(nvidia, num_real=39), Pixels(16), subject()),
        "mirror images": (replace(nvidia, mirror_real=True), Pixels(16), subject()),
        "seed": (replace(nvidia, seed=1), Pixels(16), subject()),
        "weights": (nvidia, Pixels(16, weights_hash="11111111"), subject()),
        "data": (nvidia, Pixels(16), Subject(FourG(), dataset(REALS, "f1"))),
        "kind of reals": (nvidia, Pixels(16), Subject(FourG(), FourG())),
        "fewer stored fakes": (nvidia, Pixels(16), Subject(dataset(REALS), dataset(REALS))),
    }
    found = {name: one_of_each(*change) for name, change in changes.items()} | {"": first}
    for metric in first:
        if metric != "counted":
            assert all(a[metric] != b[metric] for a, b in itertools.combinations(found.values(), 2)), metric


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Frechet, {"divisor": "n-1"}),
        (Kernel, {"draws": "torch"}),
        (Kernel, {"draws_seed": 1}),
        (PrecisionRecall, {"neighbours": "float32"}),
    ],
)
def test_choices_of_a_metric_are_part_of_what_decides_it(kind: Callable[..., Metric], change: dict) -> None:
    presets = FEW["nvidia"], replace(FEW["nvidia"], **change)
    one, other = (kind(preset, Pixels(16)).measure(subject()).values[0] for preset in presets)
    assert one.comparable != other.comparable
    with pytest.raises(UserError, match=f"two values of {one.metric} cannot be compared"):
        check_comparable([one.as_dict(), other.as_dict()])


def test_preset_settings_are_complete() -> None:
    names = {n for p in PRESETS.values() for n in p.settings()}
    assert names == set(Preset.__dataclass_fields__) - {"counts", "batch_size"}
    assert get_preset("clean").settings()["resize"] == "pil_bicubic"


# ------------------------------------------------------------------------------------ intervals, infinity


def test_bootstrap_intervals_hold_the_value_and_come_from_the_seed() -> None:
    def measure(preset: Preset = ALL, bootstrap: int = 20) -> dict[str, Any]:
        metrics = every_feature_metric(preset, Pixels(4), bootstrap=bootstrap)[:-1]
        metrics.append(Score(preset, TinyInception(), bootstrap=bootstrap))
        return {v.metric: v for m in metrics for v in m.measure(of).values}

    of = Subject(dataset(fakes(50, shift=60).numpy()), dataset(REALS))  # the same fakes whatever the seed
    first, again, other, plain = measure(), measure(), measure(replace(ALL, seed=1)), measure(bootstrap=0)
    assert first == again and list(first) == list(plain)
    for name, value in first.items():
        assert value.low < value.value < value.high and value.level == 0.95, name
        assert (other[name].low, other[name].high) != (value.low, value.high)
        assert value.value == pytest.approx(plain[name].value, rel=1e-9) and value.std == plain[name].std
        assert plain[name].low is plain[name].high is plain[name].level is None


def test_intervals_get_narrower_with_more_fakes() -> None:
    widths = []
    for count in (50, 800):
        (v,) = Frechet(replace(ALL, num_fake=count), Pixels(4), bootstrap=30).measure(subject()).values
        widths.append(v.high - v.low)
    assert widths[1] < 0.6 * widths[0]


def test_infinity_is_near_the_true_value_where_few_fakes_are_far_from_it() -> None:
    """Gaussians: |dmu|^2 + sum (s1 - s2)^2 = 16 (3^2 + 8^2)."""
    true = 16 * (3**2 + 8**2)
    reals = dataset(gaussian_images(4000, [128] * 16, [8] * 16, 1))
    found = []
    for seed in range(3):
        preset, of = replace(ALL, num_fake=200, seed=seed), Subject(FourG(shift=3, std=16), reals)
        plain, infinity = Frechet(preset, Pixels(16), infinity=True).measure(of).values
        assert infinity.metric == "fd_pixels_infinity" and infinity.std > 0 and plain.std is None
        assert plain.value == pytest.approx(values_of(Frechet(preset, Pixels(16)), of)["fd_pixels"])
        found.append((plain.value, infinity.value))
    plain_mean, infinity_mean = np.mean(found, 0)
    assert abs(infinity_mean - true) < 0.06 * true and plain_mean > 1.08 * true


def test_few_fakes_are_noted() -> None:
    for count, noted in ((16, True), (17, False), (60, False)):
        value = Frechet(replace(ALL, num_fake=count), Pixels(16), infinity=False).measure(subject()).values[0]
        assert (value.note is not None) == noted
    note = Frechet(replace(FEW["quick"], num_fake=16), Pixels(16)).measure(subject()).values[0].note
    assert note is not None and "there are 16 generated images for 16 features" in note
    assert Kernel(replace(ALL, num_fake=9), Pixels(16)).measure(subject()).values[0].note is None


# --------------------------------------------------------------------------------- memorisation, folders


def test_copied_images_are_found_and_shown() -> None:
    order = np.random.default_rng(0).permutation(40)
    metric, copies = Memorised(ALL, Pixels(16)), dataset(REALS[order], "copies")
    measured = metric.measure(Subject(copies, dataset(REALS)))
    assert {v.metric: v.value for v in measured.values} == {"memorised_pixels": 1, "copies_pixels": 1}
    shown = torch.from_numpy(REALS[order[:24]])
    (name, picture), *_ = measured.pictures.items()
    assert name == "neighbours_pixels" and np.array_equal(picture, memorisation_picture(shown, shown))


def test_new_images_are_not_copies_and_are_shown_above_their_neighbours() -> None:
    measured = Memorised(ALL, Pixels(16)).measure(subject())
    theirs = [memorisation(rows(fakes(50)), rows(REALS), quantile=q).share for q in (0.5, 0.01)]
    assert [v.value for v in measured.values] == theirs
    nearest = torch.cdist(rows(fakes(50)), rows(REALS)).argmin(1)[:24]
    expected = memorisation_picture(fakes(50)[:24], torch.from_numpy(REALS)[nearest])
    assert np.array_equal(measured.pictures["neighbours_pixels"], expected)
    far = Memorised(ALL, Pixels(16)).measure(Subject(dataset(np.zeros_like(REALS)), dataset(REALS)))
    assert [v.value for v in far.values] == [0, 0]


def test_the_picture_brings_reals_to_the_size_and_the_colours_of_the_fakes() -> None:
    grey = np.random.default_rng(0).permutation(256)[:30].astype(np.uint8).reshape(30, 1, 1, 1)
    copies, reals = dataset(grey.repeat(4, 2).repeat(4, 3)), dataset(grey.repeat(3, 1).repeat(8, 2).repeat(8, 3), "rgb")
    picture = Memorised(ALL, Pixels(4)).measure(Subject(copies, reals)).pictures["neighbours_pixels"]
    shown = torch.from_numpy(copies.images[:24]).expand(-1, 3, -1, -1)
    assert np.array_equal(picture, memorisation_picture(shown, shown))


def test_stored_images_are_measured_as_the_generator_that_made_them() -> None:
    def measure(of: Subject) -> list[tuple[Any, ...]]:
        metrics = [*every_feature_metric(ALL, Pixels(16), bootstrap=3), Score(ALL, TinyInception())]
        return [(v.metric, v.value, v.low, v.std, v.comparable) for m in metrics for v in m.measure(of).values]

    folder = dataset(fakes(50).numpy(), "folder")
    assert measure(Subject(folder, dataset(REALS))) == measure(subject())


def test_of_many_stored_fakes_some_are_drawn_by_the_seed() -> None:
    images = random_images(90, 4, seed=1)
    of = Subject(dataset(images, "folder"), dataset(REALS))
    first, second = (of.fake_set(replace(ALL, seed=seed), 50).items for seed in (0, 1))  # type: ignore[attr-defined]
    assert len(set(first)) == len(set(second)) == 50 and not np.array_equal(first, second)
    assert np.array_equal(of.fake_set(ALL, 50).items, first)  # type: ignore[attr-defined]
    (value,) = Frechet(ALL, Pixels(16)).measure(of).values
    assert value.num_fake == 50
    (every,) = Frechet(replace(ALL, num_fake=1000), Pixels(16)).measure(of).values
    assert every.num_fake == 90
