"""Metrics that compare two sets of features: Fréchet and kernel distance, Inception score, neighbours."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_lightning.data.labels import class_rows, label_names
from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.extraction import Features, extract
from stylegan_lightning.metrics.features import FeatureExtractor, InceptionFID, to_rgb
from stylegan_lightning.metrics.gaussian import (
    GaussianSums,
    bootstrap_interval,
    few_samples,
    fid_infinity,
    frechet_distance,
)
from stylegan_lightning.metrics.images import GeneratedImages
from stylegan_lightning.metrics.inception_score import class_logits, fidelity_order, inception_score
from stylegan_lightning.metrics.kid import kid, numpy_subsets, torch_subsets
from stylegan_lightning.metrics.metric import Metric, Subject, make_value
from stylegan_lightning.metrics.neighbours import (
    Nearest,
    density_coverage,
    memorisation,
    memorisation_picture,
    nearest_training,
    precision_recall,
)
from stylegan_lightning.metrics.preset import Preset
from stylegan_lightning.metrics.real_stats import Part
from stylegan_lightning.metrics.sampling import NotFinite, from_rank_zero, label_sampler
from stylegan_lightning.metrics.value import Measured, MetricValue

Numbers = dict[str, dict[str, Any]]
"""By log name: the value, and perhaps std, low, high, level, note."""


class FeatureMetric(Metric):
    """A function of the features of reals and fakes, computed on rank 0.

    With `bootstrap` > 0 every value gets a 95 % interval from so many resamples of the fakes; the reals are fixed.
    """

    keep_rows = True
    most_real: int | None = None

    def __init__(self, preset: Preset, extractor: FeatureExtractor, *, bootstrap: int = 0) -> None:
        super().__init__(preset)
        self.extractor, self.bootstrap = extractor, bootstrap

    @abstractmethod
    def numbers(self, reals: Features, fakes: Features, subject: Subject) -> Numbers:
        """On rank 0."""

    def choices(self) -> list[str]:
        """What decides the values beside the preset's numbers and the network."""
        return []

    def named(self, published: str, general: str) -> str:
        """The published name with the network that it stands for, `general` and the network's name with any other."""
        return published if self.extractor.name == self.published_with else f"{general}_{self.extractor.name}"

    published_with = "inception"

    def prepare(self, subject: Subject) -> None:
        if self.needs_reals:
            self.reals(subject)

    def announce(self, subject: Subject) -> None:
        subject.expect(self.preset, self.preset.count(self.kind), self.extractor, self.keep_rows)

    def reals(self, subject: Subject) -> Features:
        return subject.features_of_reals(self.preset, self.extractor, self.keep_rows, self.most_real)

    def measure(self, subject: Subject) -> Measured:
        reals = self.reals(subject) if self.needs_reals else _none(self.extractor)
        count = self.preset.count(self.kind)
        self.announce(subject)
        try:
            fakes = subject.features_of_fakes(self.preset, count, self.extractor)
            numbers = from_rank_zero(lambda: self.numbers(reals, fakes, subject))
        except NotFinite:
            warnings.warn(f"{self.names[0]} is NaN: the generated images are not finite.", stacklevel=2)
            fakes, numbers = _none(self.extractor, count), {name: {"value": math.nan} for name in self.names}
        more: dict[str, Any] = {"num_real": reals.count, "num_fake": fakes.count, "extractor": self.extractor}
        choices = self.choices()
        values = [make_value(self, name, subject=subject, choices=choices, **more, **n) for name, n in numbers.items()]
        return Measured(values)

    def interval(self, statistic: Callable[[Tensor], float], fakes: Features) -> dict[str, Any]:
        """Of `statistic` of the fakes' rows [M, d]: low, high and level; nothing where no interval is wanted."""
        if not self.bootstrap:
            return {}
        assert fakes.rows is not None
        found = bootstrap_interval(statistic, fakes.rows, resamples=self.bootstrap, seed=self.preset.seed)
        return {"low": found.low, "high": found.high, "level": found.level}


def _none(extractor: FeatureExtractor, count: int = 0) -> Features:
    return Features(count, GaussianSums(extractor.num_features))


def _sums(rows: Tensor, reals: Features) -> GaussianSums:
    """Of the rows [N, d] of fakes, where the sums of the reals are."""
    return GaussianSums(rows.shape[1], reals.sums.sum.device).update(rows)


# ------------------------------------------------------------------------------------------------- distances


class Frechet(FeatureMetric):
    """The Fréchet distance (`gaussian`); FID on Inception features.

    With `infinity` also its extrapolation to infinitely many fakes. With `per_class` also the distance of every class:
    its real images against as many fakes that are asked of it. A class is the images whose label is 1 in a column: a
    class of one-hot labels, an attribute of multi-label ones, whose fakes get the labels of these images. Values of
    classes compare with each other where their numbers of reals are alike; classes with fewer than two reals are left
    out, with a warning.
    """

    kind = "frechet"

    def __init__(
        self,
        preset: Preset,
        extractor: FeatureExtractor,
        *,
        bootstrap: int = 0,
        infinity: bool = False,
        per_class: bool = False,
    ) -> None:
        super().__init__(preset, extractor, bootstrap=bootstrap)
        self.infinity, self.per_class = infinity, per_class
        self.keep_rows = infinity or bootstrap > 0

    @property
    def names(self) -> tuple[str, ...]:
        name = self.named("fid", "fd")
        return (name, f"{name}_infinity") if self.infinity else (name,)

    def choices(self) -> list[str]:
        return [f"divisor={self.preset.divisor}"]

    def check(self, subject: Subject) -> None:
        super().check(subject)
        if self.per_class:
            if not isinstance(subject.fakes, nn.Module):
                raise UserError(
                    f"metrics.per_class=true needs a generator; {subject.fakes.name} is a set of images. "
                    "Leave metrics.per_class=false."
                )
            self._classes(subject)
        reals = subject.reals
        if not isinstance(reals, nn.Module) and reals is not None and len(reals.images) < 2:
            raise UserError(f"{self.names[0]} needs at least 2 real images; {reals.name} has {len(reals.images)}.")

    def prepare(self, subject: Subject) -> None:
        super().prepare(subject)
        for column, rows in self._classes(subject).items():
            self._reals_of_class(subject, column, rows)

    def numbers(self, reals: Features, fakes: Features, subject: Subject) -> Numbers:
        name = self.names[0]
        value, note = self.distance(reals.sums, fakes.sums), few_samples(fakes.count, self.extractor.num_features)
        interval = self.interval(lambda rows: self.distance(reals.sums, _sums(rows, reals)), fakes)
        numbers: Numbers = {name: {"value": value, "note": note, **interval}}
        if self.infinity:
            numbers[self.names[1]] = self._extrapolated(reals, fakes)
        return numbers

    def _extrapolated(self, reals: Features, fakes: Features) -> dict[str, Any]:
        assert fakes.rows is not None
        mean, covariance = reals.sums.mean(), reals.sums.covariance(self.preset.divisor)
        try:
            line = fid_infinity(mean, covariance, fakes.rows, seed=self.preset.seed, divisor=self.preset.divisor)
        except UserError as error:  # too few fakes: the distance itself stands
            return {"value": math.nan, "note": str(error)}
        return {"value": line.value, "std": line.error}

    def distance(self, reals: GaussianSums, fakes: GaussianSums) -> float:
        moments = [m for sums in (reals, fakes) for m in (sums.mean(), sums.covariance(self.preset.divisor))]
        try:
            return frechet_distance(*moments)
        except torch.linalg.LinAlgError as e:
            warnings.warn(f"{self.names[0]}: no matrix root ({e}).", stacklevel=2)
            return math.nan

    def measure(self, subject: Subject) -> Measured:
        values = super().measure(subject).values
        for column, rows in self._classes(subject).items():
            values.append(self._measure_class(subject, column, rows))
        return Measured(values)

    def _classes(self, subject: Subject) -> dict[int, Any]:
        if not self.per_class:
            return {}
        rows = class_rows(subject.dataset)
        few = [label_names(subject.dataset)[k] for k, r in rows.items() if len(r) < 2]
        if few:
            warnings.warn(
                f"no distance for {len(few)} of {len(rows)} classes, which have fewer than 2 real images: "
                f"{', '.join(few[:10])}{', ...' if len(few) > 10 else ''}",
                stacklevel=2,
            )
        return {k: r for k, r in rows.items() if len(r) >= 2}

    def _reals_of_class(self, subject: Subject, column: int, rows: Any) -> Features:
        return subject.features_of_reals(self.preset, self.extractor, False, None, Part(f"label {column}", rows))

    def _measure_class(self, subject: Subject, column: int, rows: Any) -> MetricValue:
        preset, label = self.preset, label_names(subject.dataset)[column]
        name = f"{self.names[0]}/class/{label.replace('/', '_')}"  # a slash would open another level in the log
        reals = self._reals_of_class(subject, column, rows)
        sampler = label_sampler(subject.dataset, rows)
        images = GeneratedImages(subject.G, preset.num_fake, preset.seed, preset.truncation_psi, sampler)
        fakes, value = _none(self.extractor, preset.num_fake), math.nan
        try:
            options: dict[str, Any] = {"batch_size": preset.batch_size, "device": subject.device}
            (fakes,) = extract(images, [self.extractor], [False], **options)
            value = from_rank_zero(lambda: self.distance(reals.sums, fakes.sums))
        except NotFinite:
            warnings.warn(f"{name} is NaN: the generated images are not finite.", stacklevel=2)
        return make_value(
            self, name, value, subject, num_real=reals.count, num_fake=fakes.count, choices=self.choices(),
            extractor=self.extractor,
        )  # fmt: skip


class Kernel(FeatureMetric):
    """The kernel distance (`kid`); KID on Inception features. `std` is the deviation over its subsets."""

    kind = "kernel"
    most_real = 1_000_000

    @property
    def names(self) -> tuple[str, ...]:
        return (self.named("kid", "kd"),)

    def choices(self) -> list[str]:
        return [f"draws={self.preset.draws}", f"draws_seed={self.preset.draws_seed}", "subsets=100x1000"]

    def numbers(self, reals: Features, fakes: Features, subject: Subject) -> Numbers:
        draw = {"numpy": numpy_subsets, "torch": torch_subsets}[self.preset.draws]
        subsets = draw(reals.count, fakes.count, seed=self.preset.draws_seed)
        assert reals.rows is not None and fakes.rows is not None
        of_reals, device = reals.rows, subject.device
        found = kid(of_reals, fakes.rows, subsets, device=device)
        interval = self.interval(lambda rows: kid(of_reals, rows, subsets, device=device).mean, fakes)
        return {self.names[0]: {"value": found.mean, "std": found.std, **interval}}


class Score(FeatureMetric):
    """The Inception score (`inception_score`). `std` is the deviation over its ten parts."""

    kind = "score"
    lower_is_better = False
    needs_reals = False
    names = ("is",)

    def __init__(self, preset: Preset, extractor: FeatureExtractor, *, bootstrap: int = 0) -> None:
        if not isinstance(extractor, InceptionFID):
            raise UserError(
                f"The Inception score needs the classes of the Inception network; extractor={extractor.name} has "
                "none. Set metrics.each.is.extractor=inception, or leave is out of metrics=[...]."
            )
        super().__init__(preset, extractor, bootstrap=bootstrap)

    def choices(self) -> list[str]:
        return [f"parts=10-{self.preset.score_parts}"]

    def numbers(self, reals: Features, fakes: Features, subject: Subject) -> Numbers:
        assert fakes.rows is not None and isinstance(self.extractor, InceptionFID)
        extractor, n = self.extractor, fakes.count
        parts: dict[str, dict[str, Any]] = {
            "nvidia": {},
            "torch_fidelity": {"order": fidelity_order(n)},
            "torchmetrics": {
                "order": torch.randperm(n, generator=torch.Generator().manual_seed(self.preset.draws_seed)),
                "chunks": True,
                "correction": 1,
            },
        }
        options = parts[self.preset.score_parts]
        found = inception_score(class_logits(fakes.rows, extractor), **options)
        interval = self.interval(lambda rows: inception_score(class_logits(rows, extractor), **options).mean, fakes)
        return {"is": {"value": found.mean, "std": found.std, **interval}}


# ------------------------------------------------------------------------------------------------ neighbours


class _Neighbours(FeatureMetric):
    lower_is_better = False
    most_real = 200_000
    published_with = "vgg16"
    parts: tuple[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.named(part, part) for part in self.parts)

    def choices(self) -> list[str]:
        return [f"distances={self.preset.neighbours}"]

    @abstractmethod
    def pair(self, reals: Tensor, fakes: Tensor, device: torch.device) -> tuple[float, float]: ...

    def numbers(self, reals: Features, fakes: Features, subject: Subject) -> Numbers:
        of_reals, device = reals.rows, subject.device
        assert of_reals is not None and fakes.rows is not None
        both = self.pair(of_reals, fakes.rows, device)
        return {
            name: {"value": value, **self.interval(lambda rows, i=i: self.pair(of_reals, rows, device)[i], fakes)}  # type: ignore[misc]
            for i, (name, value) in enumerate(zip(self.names, both, strict=True))
        }


class PrecisionRecall(_Neighbours):
    """Precision and recall, k = 3 (`neighbours`; Kynkäänniemi et al. 2019)."""

    kind = "precision_recall"
    parts = ("precision", "recall")

    def pair(self, reals: Tensor, fakes: Tensor, device: torch.device) -> tuple[float, float]:
        found = precision_recall(reals, fakes, dtype=getattr(torch, self.preset.neighbours), device=device)
        return found.precision, found.recall


class DensityCoverage(_Neighbours):
    """Density and coverage, k = 5 (`neighbours`; Naeem et al. 2020), distances in float32."""

    kind = "density_coverage"
    parts = ("density", "coverage")

    def choices(self) -> list[str]:
        return ["distances=float32"]

    def pair(self, reals: Tensor, fakes: Tensor, device: torch.device) -> tuple[float, float]:
        found = density_coverage(reals, fakes, device=device)
        return found.density, found.coverage


class Memorised(FeatureMetric):
    """How near the fakes come to training images (`neighbours.memorisation`), and a picture of fakes above their
    nearest training images.

    `memorised` is the share of fakes that are nearer to a training image than half of the training images are to each
    other: about 0.5 for new images of the data's distribution. `copies` is the same against the nearest hundredth of
    training images: about 0.01.
    """

    kind = "neighbours"
    shown = 24

    @property
    def names(self) -> tuple[str, ...]:
        return f"memorised_{self.extractor.name}", f"copies_{self.extractor.name}"

    def measure(self, subject: Subject) -> Measured:
        self._nearest: Nearest | None = None
        measured = super().measure(subject)
        nearest = self._nearest
        if nearest is None:
            return measured
        count = self.preset.count(self.kind)
        return Measured(measured.values, {f"neighbours_{self.extractor.name}": self._picture(subject, count, nearest)})

    def numbers(self, reals: Features, fakes: Features, subject: Subject) -> Numbers:
        assert reals.rows is not None and fakes.rows is not None
        nearest = nearest_training(fakes.rows, reals.rows, device=subject.device)
        self._nearest = nearest
        shares = [
            memorisation(nearest, reals.rows, quantile=quantile, device=subject.device).share
            for quantile in (0.5, 0.01)
        ]
        return {name: {"value": share} for name, share in zip(self.names, shares, strict=True)}

    def _picture(self, subject: Subject, count: int, nearest: Nearest) -> Any:
        number = torch.arange(min(self.shown, len(nearest.index)))
        reals = subject.real_set(self.preset, self.most_real).batch(nearest.index[number], subject.device)
        fakes = subject.fake_set(self.preset, count).batch(number, subject.device)
        if reals.shape != fakes.shape:  # of another size or number of channels
            reals, fakes = to_rgb(reals), to_rgb(fakes)
            reals = F.interpolate(reals.float(), size=fakes.shape[2:], mode="bilinear", antialias=True).round().byte()
        return memorisation_picture(fakes, reals, columns=8)
