"""What every metric is to the rest of the package, and what it measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.extraction import Features, extract
from stylegan_lightning.metrics.features import FeatureExtractor
from stylegan_lightning.metrics.images import GeneratedImages, ImageSet, StoredImages
from stylegan_lightning.metrics.preset import Preset
from stylegan_lightning.metrics.real_stats import Part, real_features, real_images
from stylegan_lightning.metrics.sampling import LabelSampler, label_sampler
from stylegan_lightning.metrics.value import Measured, MetricValue


class Metric(ABC):
    """One entry of `metrics=[...]`: a definition with all its choices, that measures any number of subjects.

    Deliberately no nn.Module: as an attribute of a LightningModule its networks would enter every checkpoint.
    """

    kind: str
    lower_is_better = True
    needs_generator = False
    needs_reals = True

    def __init__(self, preset: Preset) -> None:
        self.preset = preset

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Log names of its values; the first is the one that stands for the metric."""

    @abstractmethod
    def measure(self, subject: Subject) -> Measured:
        """Collective: all ranks call it and get the same values; pictures are on rank 0 alone."""

    def prepare(self, subject: Subject) -> None:  # noqa: B027 - most have nothing to prepare
        """What can be found before there is anything to measure: statistics of the reals."""

    def announce(self, subject: Subject) -> None:  # noqa: B027
        """Says what it will ask for, so that one pass over the fakes serves all metrics."""

    def check(self, subject: Subject) -> None:
        """Raises UserError where the subject cannot be measured."""
        if self.needs_generator and not isinstance(subject.fakes, nn.Module):
            raise UserError(f"{self.names[0]} needs a generator; {subject.fakes.name} is a set of images")
        if self.needs_reals and subject.reals is None:
            raise UserError(f"{self.names[0]} needs real images: give reals=FOLDER, a zip archive or a checkpoint")


class Subject:
    """What is measured: `fakes`, a generator or stored images, against `reals`, which may be a generator as well.

    Features that several metrics need are computed once. `labels` is the data set whose labels a conditional
    generator is asked for (None: the reals).
    """

    def __init__(
        self,
        fakes: nn.Module | PreparedDataset,
        reals: nn.Module | PreparedDataset | None,
        *,
        labels: PreparedDataset | None = None,
        device: torch.device | str = "cpu",
        cache_dir: Path | None = None,
    ) -> None:
        self.fakes, self.reals = fakes, reals
        self.labels = labels or (reals if isinstance(reals, PreparedDataset) else None)
        self.device, self.cache_dir = torch.device(device), cache_dir
        self._wanted: dict[tuple[Any, ...], dict[FeatureExtractor, bool]] = {}
        self._found: dict[tuple[Any, ...], dict[FeatureExtractor, Features] | Exception] = {}
        self._reals: dict[tuple[Any, ...], tuple[Features, bool]] = {}

    @property
    def G(self) -> Any:
        assert isinstance(self.fakes, nn.Module)
        return self.fakes

    @property
    def dataset(self) -> PreparedDataset:
        """The real images. Raises UserError where the reals are a generator."""
        if not isinstance(self.reals, PreparedDataset):
            raise UserError("this metric needs real images that are stored; the reals are a generator")
        return self.reals

    def c_sampler(self) -> LabelSampler | None:
        return None if self.labels is None else label_sampler(self.labels)

    def real_set(self, preset: Preset, most: int | None = None, part: Part | None = None) -> ImageSet:
        if isinstance(self.reals, nn.Module):
            return self._generated(self.reals, preset, preset.num_fake, preset.seed + 1)
        return real_images(self.dataset, preset, most, part)

    def fake_set(self, preset: Preset, count: int) -> ImageSet:
        if isinstance(self.fakes, nn.Module):
            return self._generated(self.fakes, preset, count, preset.seed)
        total, name = len(self.fakes.images), f"fakes={count}"
        items = np.arange(total)
        if count < total:
            items = np.sort(np.random.default_rng(preset.seed).permutation(total)[:count])
        return StoredImages(self.fakes, items, name)

    def _generated(self, G: nn.Module, preset: Preset, count: int, seed: int) -> GeneratedImages:
        return GeneratedImages(G, count, seed, preset.truncation_psi, self.c_sampler())

    def features_of_reals(
        self, preset: Preset, extractor: FeatureExtractor, keep_rows: bool, most: int | None, part: Part | None = None
    ) -> Features:
        images = self.real_set(preset, most, part)
        key = (images.key, preset.key_of_fakes(preset.num_fake), extractor)
        known, has_rows = self._reals.get(key, (None, False))
        if known is None or (keep_rows and not has_rows):
            options: dict[str, Any] = {"batch_size": preset.batch_size, "device": self.device}
            extractor.to(self.device)
            known = real_features(images, extractor, self.cache_dir, keep_rows=keep_rows, **options)
            if part is None:  # features of the classes are read once
                self._reals[key] = known, keep_rows
        return known

    def expect(self, preset: Preset, count: int, extractor: FeatureExtractor, keep_rows: bool) -> None:
        """Announces that `features_of_fakes` will be asked for this, so that one pass can serve all."""
        key = preset.key_of_fakes(count)
        group = self._wanted.setdefault(key, {})
        if extractor not in group or (keep_rows and not group[extractor]):
            group[extractor] = keep_rows
            self._found.pop(key, None)

    def features_of_fakes(self, preset: Preset, count: int, extractor: FeatureExtractor) -> Features:
        """Raises what the pass raised, to every metric that needs it."""
        key = preset.key_of_fakes(count)
        if key not in self._found:
            wanted = self._wanted[key]
            try:
                for network in wanted:
                    network.to(self.device)
                found = extract(
                    self.fake_set(preset, count),
                    list(wanted),
                    list(wanted.values()),
                    batch_size=preset.batch_size,
                    device=self.device,
                    folder=self.cache_dir,
                )
                self._found[key] = dict(zip(wanted, found, strict=True))
            except Exception as error:
                self._found[key] = error.with_traceback(None)  # its frames would keep the images in memory
        result = self._found[key]
        if isinstance(result, Exception):
            raise result
        return result[extractor]

    def turn_to(self, fakes: nn.Module | PreparedDataset | None = None) -> None:
        """Other fakes, or the same generator with other weights; what is known of the reals stays."""
        self.fakes = self.fakes if fakes is None else fakes
        self._wanted.clear()
        self._found.clear()


def make_value(
    metric: Metric,
    name: str,
    value: float,
    subject: Subject,
    *,
    num_real: int,
    num_fake: int,
    choices: Sequence[object] = (),
    extractor: FeatureExtractor | None = None,
    **more: Any,
) -> MetricValue:
    """`choices` are those of the metric itself, beside the preset's and the network's."""
    preset, reals = metric.preset, subject.reals
    more = {"truncation_psi": preset.truncation_psi} | more
    parts = [f"preset={preset.name}", f"fake={num_fake}", f"seed={preset.seed}"]
    if num_real:
        data = reals.fingerprint[:12] if isinstance(reals, PreparedDataset) else "generated"
        parts += [f"data={data}", preset.real_key(), f"real={num_real}"]
    if extractor is not None:
        parts += [f"extractor={extractor.name}-{extractor.weights_hash}", f"resize={extractor.resize}"]
        more |= {"extractor": extractor.name, "weights_hash": extractor.weights_hash, "resize": extractor.resize}
    return MetricValue(
        metric=name,
        value=value,
        preset=preset.name,
        comparable=" ".join([*parts, *map(str, choices)]),
        num_real=num_real,
        num_fake=num_fake,
        seed=preset.seed,
        **more,
    )
