"""Metrics by name, and several of them measured together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from stylegan_lightning.errors import UserError, chosen
from stylegan_lightning.metrics import equivariance, path_length
from stylegan_lightning.metrics.by_features import (
    DensityCoverage,
    Frechet,
    Kernel,
    Memorised,
    PrecisionRecall,
    Score,
)
from stylegan_lightning.metrics.by_images import (
    Diversity,
    Equivariance,
    PathLength,
    Separability,
    SlicedWassersteinMetric,
)
from stylegan_lightning.metrics.features import FeatureExtractor
from stylegan_lightning.metrics.metric import Metric, Subject
from stylegan_lightning.metrics.perceptual import PerceptualDistance
from stylegan_lightning.metrics.preset import Preset
from stylegan_lightning.metrics.value import Measured


@dataclass(frozen=True)
class Tools:
    """What a metric is built from; networks are loaded when a metric asks for them, once for all."""

    preset: Preset
    extractor: Callable[[], FeatureExtractor]
    perceptual: Callable[[], PerceptualDistance]
    classifier: Any = None
    bootstrap: int = 0
    infinity: bool = False
    per_class: bool = False


METRICS: Mapping[str, Callable[[Tools], Metric]] = {
    "frechet": lambda t: Frechet(
        t.preset, t.extractor(), bootstrap=t.bootstrap, infinity=t.infinity, per_class=t.per_class
    ),
    "kernel": lambda t: Kernel(t.preset, t.extractor(), bootstrap=t.bootstrap),
    "score": lambda t: Score(t.preset, t.extractor(), bootstrap=t.bootstrap),
    "precision_recall": lambda t: PrecisionRecall(t.preset, t.extractor(), bootstrap=t.bootstrap),
    "density_coverage": lambda t: DensityCoverage(t.preset, t.extractor(), bootstrap=t.bootstrap),
    "neighbours": lambda t: Memorised(t.preset, t.extractor()),
    **{name: lambda t, name=name: PathLength(t.preset, name, t.perceptual()) for name in path_length.PRESETS},  # type: ignore[misc]
    **{kind: lambda t, kind=kind: Equivariance(t.preset, kind) for kind in equivariance.KINDS},  # type: ignore[misc]
    "swd": lambda t: SlicedWassersteinMetric(t.preset),
    "ms_ssim": lambda t: Diversity(t.preset),
    "separability_w": lambda t: Separability(t.preset, "w", t.extractor(), t.classifier),
    "separability_z": lambda t: Separability(t.preset, "z", t.extractor(), t.classifier),
}
"""What `kind` in conf/metrics/*.yaml may be."""


@dataclass
class Entry:
    """A metric and how often it is measured during training, in ticks."""

    metric: Metric
    every_ticks: int = 1


@dataclass
class Suite:
    """Several metrics that share passes over the images."""

    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [name for e in self.entries for name in e.metric.names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(
                f"metrics: {', '.join(twice)} would be measured twice, in two presets or variants whose values would "
                "be mixed up in one curve. Leave one of them out."
            )

    @property
    def metrics(self) -> list[Metric]:
        return [e.metric for e in self.entries]

    def check(self, subject: Subject) -> None:
        """Raises one UserError with every metric that the subject cannot be measured by."""
        problems = []
        for metric in self.metrics:
            try:
                metric.check(subject)
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("\n  - ".join([f"{len(problems)} metrics cannot be measured:", *problems])
                            if len(problems) > 1 else problems[0])  # fmt: skip

    def prepare(self, subject: Subject) -> None:
        """Statistics of the reals, from the cache where they are known; first for what needs single rows, which
        serves the others."""
        for metric in sorted(self.metrics, key=lambda m: not getattr(m, "keep_rows", False)):
            metric.prepare(subject)

    def measure(self, subject: Subject, metrics: Sequence[Metric] | None = None) -> Iterator[tuple[Metric, Measured]]:
        """Each metric as it is done. One that fails is reported and left out; the others go on."""
        chosen_ones = self.metrics if metrics is None else metrics
        for metric in chosen_ones:
            metric.announce(subject)
        for metric in chosen_ones:
            try:
                yield metric, metric.measure(subject)
            except (RuntimeError, ValueError, OSError, MemoryError, UserError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    torch.cuda.empty_cache()
                warnings.warn(f"{metric.names[0]} could not be computed: {error}", stacklevel=2)


def build_metric(kind: str, tools: Tools) -> Metric:
    return chosen("metric", METRICS, kind)(tools)
